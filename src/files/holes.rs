//! Holes: ranges of a file to which nothing was ever written. They read as zeros and take no room.

use std::fs::File;
use std::io::{Result as IoResult, Seek};
use std::ops::Range;

/// The ranges of a file of `length` bytes that are no holes, in order. All of it, where the system does not tell. The
/// file then stands at its beginning.
pub(super) fn written(mut file: &File, length: u64) -> IoResult<Vec<Range<u64>>> {
    let ranges = ranges(file, length);
    file.rewind()?;
    Ok(ranges)
}

/// How many bytes of a file are holes. The file then stands at its beginning.
///
/// # Errors
/// The system refuses.
pub(crate) fn holes(file: &File) -> IoResult<u64> {
    let length = file.metadata()?.len();
    let written: u64 = written(file, length)?.iter().map(|range| range.end - range.start).sum();
    Ok(length.saturating_sub(written))
}

#[cfg(target_os = "linux")]
fn ranges(file: &File, length: u64) -> Vec<Range<u64>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    let (mut found, mut at) = (Vec::new(), 0);
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) if start >= at => start,
            // The rest is one hole.
            Err(Errno::NXIO) => break,
            _ => return std::iter::once(0..length).collect(),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(length),
            _ => length,
        };
        if start < end {
            found.push(start..end);
        }
        at = end.max(start);
    }
    found
}

#[cfg(not(target_os = "linux"))]
fn ranges(_: &File, length: u64) -> Vec<Range<u64>> {
    std::iter::once(0..length).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_what_nobody_wrote_to() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(holes(&open()).unwrap(), 0);
        let file = open();
        file.set_len(1 << 40).unwrap();
        file.write_at(&[1; 1 << 16], 1 << 30).unwrap();
        assert_eq!(holes(&file).unwrap(), (1 << 40) - (1 << 20) - (1 << 16));
        assert_eq!(written(&file, 1 << 40).unwrap(), [0..1 << 20, 1 << 30..(1 << 30) + (1 << 16)]);
    }
}
