//! Copies files, sharing their blocks where the file system can.

use super::folder::OpenFolder;
use crate::error::{Error, Result};
use std::fs::{File, Permissions};
use std::io::{Result as IoResult, Seek};

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

fn copy_bytes(mut from: &File, mut to: &File) -> IoResult<()> {
    #[cfg(target_os = "linux")]
    if copy_at_once(from, to).is_ok() {
        return Ok(());
    }
    from.rewind()?;
    to.rewind()?;
    to.set_len(0)?;
    std::io::copy(&mut from, &mut to).map(drop)
}

/// Lets the system copy as `cp` does. std::io::copy asks for 1 GiB at a time and is slower by a tenth with large files;
/// it does what this cannot, such as from one file system to another.
#[cfg(target_os = "linux")]
fn copy_at_once(from: &File, to: &File) -> IoResult<()> {
    let all = from.metadata()?.len();
    let mut done = 0;
    while done < all {
        match rustix::fs::copy_file_range(from, None, to, None, isize::MAX as usize)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            some => done += some as u64,
        }
    }
    Ok(())
}
