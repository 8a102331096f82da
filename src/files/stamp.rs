//! What tells a changed file from one that is as it was, without reading it.

use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::time::{Duration, SystemTime};

/// Size, times and inode of a file, in bytes and nanoseconds since 1970.
///
/// Whoever owns a file can set the time of its modification, but not that of its last change, short of setting the
/// clock; other systems than Unix have no such time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    bytes: u64,
    modified: u128,
    changed: i128,
    device: u64,
    inode: u64,
}

/// A file that was written this short a time ago may be written again without its time changing.
const SETTLED: Duration = Duration::from_secs(2);

impl Stamp {
    /// None where the system does not tell.
    pub fn of(file: &Metadata) -> Option<Stamp> {
        let modified = file.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
        #[cfg(unix)]
        let (changed, device, inode) = {
            use std::os::unix::fs::MetadataExt;
            (i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec()), file.dev(), file.ino())
        };
        #[cfg(not(unix))]
        let (changed, device, inode) = (0, 0, 0);
        Some(Stamp { bytes: file.len(), modified, changed, device, inode })
    }

    /// When the file was written or, where the system says that, put in its place, in nanoseconds since 1970: a file that
    /// is moved or copied may keep the time of its modification.
    pub fn last_change(&self) -> u128 {
        self.modified.max(u128::try_from(self.changed).unwrap_or(0))
    }

    /// The stamp of an open file which every later change of its bytes will change; none where that cannot be promised:
    /// it was changed a moment ago, or lies in memory.
    ///
    /// A page that somebody has mapped and written to can be written again without any time changing, until it is
    /// written back. So it is written back first: after that the next write to it is one that the system sees.
    pub fn lasting(file: &File) -> Option<Stamp> {
        file.sync_all().ok()?;
        if lies_in_memory(file) {
            return None;
        }
        let stamp = Stamp::of(&file.metadata().ok()?)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
        (now.checked_sub(stamp.last_change())? >= SETTLED.as_nanos()).then_some(stamp)
    }
}

/// What tells one file from another, whatever its names: its device and inode; none where the system does not say.
pub fn identity(file: &Metadata) -> Option<(u64, u64)> {
    Stamp::of(file).map(|stamp| (stamp.device, stamp.inode)).filter(|(_, inode)| *inode > 0)
}

/// Nothing is ever written back there, and what is written through a map leaves no time.
#[cfg(target_os = "linux")]
fn lies_in_memory(file: &File) -> bool {
    const IN_MEMORY: [u32; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6]; // tmpfs, ramfs, hugetlbfs
    rustix::fs::fstatfs(file).map_or(true, |system| IN_MEMORY.contains(&(system.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn lies_in_memory(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn a_stamp_lasts_as_long_as_the_bytes() {
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, "old").unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        file.set_modified(old).unwrap();
        assert_eq!(Stamp::lasting(&file), None, "was changed a moment ago, whatever it says of itself");
        if lies_in_memory(&file) {
            return;
        }
        std::thread::sleep(SETTLED + Duration::from_millis(100));
        let stamp = Stamp::lasting(&file).unwrap();
        assert_eq!(Stamp::of(&std::fs::metadata(&path).unwrap()), Some(stamp.clone()));
        file.rewind().unwrap();
        file.write_all(b"new").unwrap();
        file.set_modified(old).unwrap();
        assert_ne!(Stamp::of(&file.metadata().unwrap()), Some(stamp));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_lies_in_memory_has_none_that_lasts() {
        let Ok(place) = tempfile::tempdir_in("/dev/shm") else { return };
        let file = File::create(place.path().join("file")).unwrap();
        std::thread::sleep(SETTLED + Duration::from_millis(100));
        assert_eq!(Stamp::lasting(&file).is_none(), lies_in_memory(&file));
    }
}
