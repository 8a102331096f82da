//! Opens files that somebody else may have put there, and reads them.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest file that is read whole, in bytes.
pub(crate) const LARGEST_READ: u64 = 1 << 30;

/// Opens a file of a checkpoint, which may be anything, for reading. Links are followed.
///
/// What was opened is what is checked: the name may lead elsewhere by now.
///
/// # Errors
/// It is not a regular file, it is one that the system makes up (as those of /proc), or the system refuses.
pub fn open_regular(path: &Path) -> Result<File> {
    // To open some devices is to use them, so a look comes first.
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(not_regular(path));
    }
    let mut options = File::options();
    options.read(true);
    never_wait(&mut options);
    let file = options.open(path).map_err(Error::io(path))?;
    check_regular(&file, path)?;
    Ok(file)
}

/// Refuses an open file that is no regular one or lies in a file system that makes its files up. `path` is for
/// messages.
///
/// # Errors
/// As said; also where the system refuses.
pub(super) fn check_regular(file: &File, path: &Path) -> Result<()> {
    if !file.metadata().map_err(Error::io(path))?.is_file() {
        return Err(not_regular(path));
    }
    if is_made_up(file).map_err(Error::io(path))? {
        return Err(Error::file(path, "is made up by the system (as in /proc or /sys), expected a file on a disk"));
    }
    Ok(())
}

pub(super) fn not_regular(path: &Path) -> Error {
    Error::file(path, "expected a file, found a folder, pipe or device")
}

/// A pipe that takes the place of a file is opened at once, not when somebody writes to it.
fn never_wait(options: &mut std::fs::OpenOptions) {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
    }
    #[cfg(not(unix))]
    let _ = options;
}

/// File systems of Linux whose files are not stored but answered by the kernel when they are read: their sizes say
/// nothing, they may never end, and they tell secrets (linux/magic.h, and the file systems' own sources).
#[cfg(target_os = "linux")]
const MADE_UP: [u32; 30] = [
    0x0904_1934, // anonymous inodes
    0x5a3c_69f0, // apparmorfs
    0x6c6f_6f70, // binderfs
    0x4249_4e4d, // binfmt_misc
    0xcafe_4a11, // bpf
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6265_6570, // configfs
    0x6462_6720, // debugfs
    0x0000_1cd1, // devpts
    0x444d_4142, // dma-buf
    0xde5e_81e4, // efivarfs
    0x6573_5543, // fusectl
    0x1980_0202, // mqueue
    0x6e66_7364, // nfsd
    0x6e73_6673, // nsfs
    0x0000_9fa1, // openprom
    0x0000_9fa0, // proc
    0x6165_676c, // pstore
    0x0765_5821, // resctrl
    0x6759_6969, // rpc_pipefs
    0x5345_434d, // secret memory
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x6265_6572, // sysfs
    0x7472_6163, // tracefs
    0x0000_9fa2, // usbfs
    0xabba_1974, // xenfs
    0x0bad_1dea, // futexfs
];

#[cfg(target_os = "linux")]
fn is_made_up(file: &File) -> std::io::Result<bool> {
    Ok(MADE_UP.contains(&(rustix::fs::fstatfs(file)?.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn is_made_up(_: &File) -> std::io::Result<bool> {
    Ok(false)
}

/// Reads a file of a checkpoint whole.
///
/// # Errors
/// As [`open_regular`]; also where it is absurdly large.
pub fn read_regular(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, LARGEST_READ)
}

/// Reads a file whole that has no more than `largest` bytes.
///
/// # Errors
/// As [`open_regular`]; also where it is larger, or changes its size meanwhile.
pub fn read_at_most(path: &Path, largest: u64) -> Result<Vec<u8>> {
    read_open(&open_regular(path)?, path, largest)
}

/// Reads an open file from where it stands to its end; `path` is for messages.
pub(crate) fn read_open(file: &File, path: &Path, largest: u64) -> Result<Vec<u8>> {
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length > largest {
        return Err(Error::file(path, format!("has {length} bytes, expected at most {largest}")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    // One more than it says: a file that says nothing of its size has no end either.
    file.take(length + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(Error::file(path, "changed its size while it was read; try again when nothing writes to it")),
    }
}

/// Reads a text file whole that has no more than `largest` bytes.
///
/// # Errors
/// As [`read_at_most`]; also where it is not UTF-8.
pub fn read_text(path: &Path, largest: u64) -> Result<String> {
    let bytes = read_at_most(path, largest)?;
    let not_text = |e: std::string::FromUtf8Error| {
        Error::file(path, format!("is not UTF-8 (byte {}), expected text", e.utf8_error().valid_up_to()))
    };
    String::from_utf8(bytes).map_err(not_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed_to_a_file_and_to_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let link = |to: &Path| {
            let _ = std::fs::remove_file(at("link"));
            std::os::unix::fs::symlink(to, at("link")).unwrap();
            read_regular(&at("link")).map_err(|e| e.to_string())
        };
        std::fs::write(at("file"), "text").unwrap();
        assert_eq!(link(&at("file")), Ok(b"text".to_vec()));
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        for other in [place.path(), &at("pipe"), Path::new("/dev/zero")] {
            assert!(link(other).unwrap_err().contains("expected a file, found a folder, pipe or device"), "{other:?}");
        }
        assert!(link(&at("nothing")).unwrap_err().contains("is not there"));
    }

    /// A pipe that takes a file's place between the look and the opening neither holds the run up nor is read.
    #[cfg(unix)]
    #[test]
    fn what_was_opened_is_what_is_checked() {
        let place = tempfile::tempdir().unwrap();
        let pipe = place.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut options = File::options();
        never_wait(options.read(true));
        let open = options.open(&pipe).unwrap();
        assert!(check_regular(&open, &pipe).unwrap_err().to_string().contains("expected a file"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn files_that_the_kernel_makes_up_are_none() {
        for path in
            ["/proc/self/environ", "/proc/self/pagemap", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"]
        {
            let error = read_regular(Path::new(path)).unwrap_err().to_string();
            // Not every kernel, nor every sandbox, has each.
            assert!(error.contains("made up by the system") || error.contains("is not there"), "{error}");
        }
    }

    /// What a file says of its size bounds what is read of it, wherever it lies.
    #[cfg(target_os = "linux")]
    #[test]
    fn no_more_is_read_than_a_file_says_it_has() {
        let endless = File::open("/proc/self/maps").unwrap();
        let error = read_open(&endless, Path::new("x"), LARGEST_READ).unwrap_err().to_string();
        assert!(error.contains("changed its size while it was read"), "{error}");
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, [0xff; 5]).unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap().len(), 5);
        assert!(read_at_most(&path, 4).unwrap_err().to_string().contains("has 5 bytes, expected at most 4"));
        assert!(read_text(&path, 1 << 10).unwrap_err().to_string().contains("is not UTF-8 (byte 0)"));
    }
}
