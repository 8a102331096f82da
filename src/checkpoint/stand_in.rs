//! What lies in a file's place where a download went wrong.

use crate::error::{Error, Result};
use crate::files;
use std::fmt;
use std::fs::File;
use std::path::Path;

/// Something that is not the file it is named as.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StandIn {
    /// No bytes at all.
    Empty,
    /// A pointer of Git LFS, or another such system, to content that was not fetched.
    Pointer(&'static str),
    /// A page, such as that of a login.
    Page,
    /// Space that was set aside for a download.
    Zeros,
    /// The same, by what was never written: most of the file.
    Holes {
        /// How many bytes were never written.
        bytes: u64,
        /// How many there are.
        of: u64,
    },
    /// Text where there should be none, by its beginning: a server's error message.
    Text(String),
}

impl StandIn {
    /// What a file is that holds next to nothing, however large it is; it is not read. It then stands at its beginning.
    ///
    /// # Errors
    /// The system refuses; `path` is for messages.
    pub fn of_file(file: &File, path: &Path) -> Result<Option<StandIn>> {
        let of = file.metadata().map_err(Error::io(path))?.len();
        if of < MOST_HOLES {
            return Ok(None);
        }
        let bytes = files::holes(file).map_err(Error::io(path))?;
        Ok((bytes >= MOST_HOLES && bytes > of / 2).then_some(StandIn::Holes { bytes, of }))
    }

    /// Refuses such a file.
    ///
    /// # Errors
    /// As said, and as [`StandIn::of_file`].
    pub fn refuse_holes(file: &File, path: &Path) -> Result<()> {
        match StandIn::of_file(file, path)? {
            Some(stand_in) => Err(Error::file(path, stand_in.to_string())),
            None => Ok(()),
        }
    }

    /// What a text file really is, by its bytes; none where they may be its own.
    pub fn of_text(bytes: &[u8]) -> Option<StandIn> {
        if bytes.is_empty() {
            return Some(StandIn::Empty);
        }
        if bytes.iter().take(LOOKED_AT).all(|b| *b == 0) {
            return Some(StandIn::Zeros);
        }
        let pointer = POINTERS.iter().find(|(start, _)| bytes.starts_with(start));
        if let Some((_, system)) = pointer {
            return Some(StandIn::Pointer(system));
        }
        let start = bytes.trim_ascii_start();
        let start = start.get(..PAGE.len()).unwrap_or(start).to_ascii_lowercase();
        let is_page = [PAGE, b"<html", b"<head", b"<?xml"].iter().any(|tag| start.starts_with(tag));
        is_page.then_some(StandIn::Page)
    }

    /// As [`StandIn::of_text`], of a file that does not begin with text: a safetensors or GGUF file, whose 5th to 8th
    /// bytes never are all printable.
    pub fn of_binary(bytes: &[u8]) -> Option<StandIn> {
        let printable = |b: &u8| b.is_ascii_graphic() || b.is_ascii_whitespace();
        let text = || bytes.get(..8).is_some_and(|first| first.iter().all(printable));
        let line = || bytes.iter().take(40).take_while(|b| **b == b' ' || b.is_ascii_graphic());
        StandIn::of_text(bytes).or_else(|| text().then(|| StandIn::Text(line().map(|b| char::from(*b)).collect())))
    }
}

/// What pointers begin with, and what fetches what they point to.
const POINTERS: &[(&[u8], &str)] = &[
    (
        b"version https://git-lfs.github.com/spec/",
        "Git LFS pointer, not the file itself: fetch that with `git lfs pull`",
    ),
    (
        b"version https://hawser.github.com/spec/",
        "Git LFS pointer, not the file itself: fetch that with `git lfs pull`",
    ),
    (b"# xet version ", "Xet pointer, not the file itself: fetch that with a client that knows Xet"),
    (b"/annex/objects/", "git-annex pointer, not the file itself: fetch that with `git annex get`"),
];
const PAGE: &[u8] = b"<!doctype html";
/// A file that begins with so many zeros was never written.
const LOOKED_AT: usize = 4096;
/// Some file systems make holes of zeros that were written: a tensor's, or those that a file is filled up with.
const MOST_HOLES: u64 = 1 << 24;

impl fmt::Display for StandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StandIn::Empty => f.write_str("is empty; fetch it again"),
            StandIn::Pointer(what) => write!(f, "is a {what}"),
            StandIn::Page => f.write_str(
                "is a web page, as a server sends for a login or an error, not the file itself; fetch it again",
            ),
            StandIn::Zeros => {
                f.write_str("begins with nothing but zeros, as space that was set aside for a download; fetch it again")
            }
            StandIn::Holes { bytes, of } => write!(
                f,
                "is mostly holes, as space that was set aside for a download ({bytes} of {of} bytes were never written); \
                 fetch it again"
            ),
            StandIn::Text(start) => {
                write!(f, "is text that begins with {start:?}, not the file itself; fetch it again")
            }
        }
    }
}

/// What a download that is not finished is called, after the name that it will have.
const UNFINISHED: &[&str] = &["incomplete", "aria2", "crdownload", "opdownload"];
/// The same, where that name is one of a checkpoint's: other files are called so, too.
const PERHAPS_UNFINISHED: &[&str] = &["part", "partial", "download", "filepart", "!ut", "tmp"];
/// What a checkpoint's files end in.
const ENDS: &[&str] = &[".safetensors", ".gguf", ".bin", ".json", ".model", ".jinja", ".txt"];

/// The name that a file will have when its download is finished; none where `name` is not that of an unfinished one.
pub fn unfinished(name: &str) -> Option<&str> {
    let (whole, end) = name.rsplit_once('.').filter(|(whole, _)| !whole.is_empty())?;
    let is = |known: &&str| end.eq_ignore_ascii_case(known);
    let perhaps = PERHAPS_UNFINISHED.iter().any(is) && ENDS.iter().any(|end| whole.ends_with(end));
    (perhaps || UNFINISHED.iter().any(is)).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_file_is_told_apart() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
        for (bytes, start) in [
            (&b""[..], "is empty"),
            (pointer, "is a Git LFS pointer"),
            (b"\n <!DOCTYPE html><html>", "is a web page"),
            (b"<html lang=en>", "is a web page"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied", "is a web page"),
            (&[0; 9], "begins with nothing but zeros"),
        ] {
            assert!(StandIn::of_text(bytes).unwrap().to_string().starts_with(start), "{start}");
            assert_eq!(StandIn::of_text(bytes), StandIn::of_binary(bytes));
        }
        let text = StandIn::of_binary(b"Entry not found\nx").unwrap().to_string();
        assert_eq!(text, "is text that begins with \"Entry not found\", not the file itself; fetch it again");
        for own in [&b"{\"a\": 1}"[..], b"\x10\0\0\0\0\0\0\0{}", b"GGUF\x03\0\0\0", b"1234"] {
            assert_eq!(StandIn::of_text(own), None);
        }
        assert_eq!(StandIn::of_binary(b"\x10\0\0\0\0\0\0\0{\"a\":1}"), None);
        assert_eq!(StandIn::of_binary(b"GGUF\x03\0\0\0"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_of_holes_is_none() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for (length, refused) in [(1 << 20, false), (1 << 24, false), ((1 << 24) + (1 << 20), true), (1 << 43, true)] {
            file.set_len(length).unwrap();
            assert_eq!(StandIn::refuse_holes(&file, &path).is_err(), refused, "{length}");
        }
        let error = StandIn::refuse_holes(&file, &path).unwrap_err().to_string();
        assert!(error.contains("(8796091973632 of 8796093022208 bytes were never written); fetch it again"), "{error}");
    }

    #[test]
    fn unfinished_downloads_are_known_by_name() {
        for (name, whole) in [
            ("model.safetensors.incomplete", Some("model.safetensors")),
            ("model.safetensors.aria2", Some("model.safetensors")),
            ("model.safetensors.CRDOWNLOAD", Some("model.safetensors")),
            ("model.safetensors", None),
            (".part", None),
            ("part", None),
            ("chapter.part1", None),
            ("chapter.part", None),
            ("0123456789abcdef.incomplete", Some("0123456789abcdef")),
        ] {
            assert_eq!(unfinished(name), whole, "{name}");
        }
    }
}
