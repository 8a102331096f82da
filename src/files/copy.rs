//! Copies files, sharing their blocks where the file system can.

use super::folder::OpenFolder;
use super::holes::written;
use crate::error::{Error, Result};
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read, Result as IoResult, Seek, SeekFrom};
use std::ops::Range;

/// Copies an open file into a folder, as a new file of this name that its owner may write to.
///
/// # Errors
/// There is something of this name, or the system refuses.
pub fn copy(from: &File, to: &OpenFolder, name: &str) -> Result<()> {
    let path = to.path().join(name);
    let made = match cloned(from, to, name) {
        Some(made) => made,
        None => {
            let made = to.create_new(name)?;
            copy_bytes(from, &made).map_err(Error::io(&path))?;
            made
        }
    };
    let mut permissions = from.metadata().map_err(Error::io(&path))?.permissions();
    writable(&mut permissions);
    made.set_permissions(permissions).map_err(Error::io(&path))
}

/// The hub's cache is read-only; the copy is to be edited.
fn writable(permissions: &mut Permissions) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        permissions.set_mode(permissions.mode() & 0o777 | 0o200);
    }
    #[cfg(not(unix))]
    permissions.set_readonly(false);
}

#[cfg(target_vendor = "apple")]
fn cloned(from: &File, to: &OpenFolder, name: &str) -> Option<File> {
    rustix::fs::fclonefileat(from, &to.dir, name, rustix::fs::CloneFlags::empty()).ok()?;
    to.read(name).ok()?
}

#[cfg(not(target_vendor = "apple"))]
fn cloned(_: &File, _: &OpenFolder, _: &str) -> Option<File> {
    None
}

/// Holes stay holes: a file may be larger than the disk.
fn copy_bytes(from: &File, to: &File) -> IoResult<()> {
    let length = from.metadata()?.len();
    for range in written(from, length)? {
        copy_range(from, to, range)?;
    }
    to.set_len(length)
}

fn copy_range(mut from: &File, mut to: &File, range: Range<u64>) -> IoResult<()> {
    #[cfg(target_os = "linux")]
    if copy_at_once(from, to, range.clone()).is_ok() {
        return Ok(());
    }
    from.seek(SeekFrom::Start(range.start))?;
    to.seek(SeekFrom::Start(range.start))?;
    let length = range.end - range.start;
    match std::io::copy(&mut from.take(length), &mut to)? == length {
        true => Ok(()),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// Lets the system copy as `cp` does. std::io::copy asks for 1 GiB at a time and is slower by a tenth with large files;
/// it does what this cannot, such as from one file system to another.
#[cfg(target_os = "linux")]
fn copy_at_once(from: &File, to: &File, range: Range<u64>) -> IoResult<()> {
    let (mut read, mut wrote) = (range.start, range.start);
    while read < range.end {
        let length = usize::try_from(range.end - read).unwrap_or(usize::MAX).min(isize::MAX as usize);
        if rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut wrote), length)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn holes_stay_holes() {
        let place = tempfile::tempdir().unwrap();
        let folder = OpenFolder::open(place.path()).unwrap();
        let from = folder.create_new("from").unwrap();
        from.set_len(1 << 40).unwrap();
        from.write_at(b"in between", 1 << 30).unwrap();
        copy(&from, &folder, "to").unwrap();
        let to = folder.read("to").unwrap().unwrap();
        let about = to.metadata().unwrap();
        assert!(about.len() == 1 << 40 && about.blocks() * 512 < 1 << 20, "{} blocks", about.blocks());
        let mut text = [0; 10];
        to.read_exact_at(&mut text, 1 << 30).unwrap();
        assert_eq!(&text, b"in between");
        let short = folder.create_new("short").unwrap();
        assert!(copy_range(&short, &folder.create_new("none").unwrap(), 0..1).is_err());
    }
}
