//! What a file is by its content, whatever its name: a pickle in any of its wrappings, or something that would first
//! have to be unpacked.

mod opcodes;

use std::io::{self, Read, Seek, SeekFrom};

/// What a file was recognized as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// A pickle, or something that holds one.
    Pickle(&'static str),
    /// An archive or a compressed file, which was not looked into.
    Packed(&'static str),
    /// HDF5, as Keras writes it.
    Hdf5,
    /// Compiled code, in this form.
    Native(&'static str),
    /// Text that says what runs it.
    Script,
    /// A private key.
    Key,
}

/// How much of a file is looked at.
const WINDOW: u64 = 1 << 16;

/// What the file is; none where it is none of these.
///
/// # Errors
/// It cannot be read.
pub(super) fn recognize(mut file: impl Read + Seek) -> io::Result<Option<Content>> {
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut first = Vec::new();
    file.by_ref().take(WINDOW).read_to_end(&mut first)?;
    if first.starts_with(b"PK\x03\x04") {
        file.rewind()?;
        return Ok(Some(zip(file, &first)));
    }
    Ok(of_bytes(&first, length <= WINDOW))
}

/// What begins with these bytes; `whole` says that they are all there are.
fn of_bytes(first: &[u8], whole: bool) -> Option<Content> {
    if first.starts_with(b"\x89HDF\r\n\x1a\n") {
        return Some(Content::Hdf5);
    }
    if first.starts_with(b"\x93NUMPY") {
        return holds_objects(first).then_some(Content::Pickle("a numpy array of pickled objects"));
    }
    if let Some(form) = native(first) {
        return Some(Content::Native(form));
    }
    if first.strip_prefix(b"#!").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"/")) {
        return Some(Content::Script);
    }
    if first.split(|b| matches!(b, b'\n' | b'\r')).any(begins_a_key) {
        return Some(Content::Key);
    }
    if let Some(packed) = packed(first) {
        return Some(Content::Packed(packed));
    }
    opcodes::is_pickle(first, whole).then_some(Content::Pickle("a pickle"))
}

/// Whether a line is the one before a private key in PEM, behind which nothing but blanks may follow.
fn begins_a_key(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    line.len() < 80 && line.starts_with(b"-----BEGIN ") && line.ends_with(b"PRIVATE KEY-----")
}

/// In what form a file is compiled code, by its first bytes.
fn native(first: &[u8]) -> Option<&'static str> {
    let number = |at: usize| first.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    match first {
        [0x7f, b'E', b'L', b'F', 1 | 2, 1 | 2, 1, ..] => Some("ELF"),
        [b'M', b'Z', ..] => {
            let header = number(0x3c).and_then(|at| first.get(at as usize..)?.get(..4));
            (header == Some(b"PE\0\0")).then_some("PE")
        }
        // For one processor, in its order of bytes, or for several.
        [0xce | 0xcf, 0xfa, 0xed, 0xfe, ..] | [0xfe, 0xed, 0xfa, 0xce | 0xcf, ..] => Some("Mach-O"),
        [0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 1..=15, ..] => Some("Mach-O"),
        [0xca, 0xfe, 0xba, 0xbe, _, _, 0, 45..=99, ..] => Some("Java"),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Some("WebAssembly"),
        _ => None,
    }
}

/// Whether the type in an array's header has a part `O`, such as `'|O'`.
fn holds_objects(array: &[u8]) -> bool {
    let header = array.get(10..).unwrap_or_default();
    let end = header.iter().position(|b| *b == b'\n').unwrap_or(header.len());
    let mut quoted = header[..end].split(|b| matches!(b, b'\'' | b'"'));
    quoted.any(|part| {
        let part = part.iter().copied().skip_while(|b| b"|<>=".contains(b)).collect::<Vec<u8>>();
        part.split_first().is_some_and(|(kind, rest)| *kind == b'O' && rest.iter().all(u8::is_ascii_digit))
            || part == b"object"
    })
}

/// How the file is compressed or packed, by its first bytes.
fn packed(first: &[u8]) -> Option<&'static str> {
    const MAGIC: &[(&[u8], &str)] = &[
        (b"\x1f\x8b\x08", "compressed (gzip)"),
        (b"\xfd7zXZ\0", "compressed (xz)"),
        (b"\x28\xb5\x2f\xfd", "compressed (zstd)"),
        (b"\x04\x22\x4d\x18", "compressed (lz4)"),
        (b"\x5d\0\0", "compressed (lzma)"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07", "a rar archive"),
        (b"PK\x05\x06", "an empty zip"),
    ];
    if let Some((_, name)) = MAGIC.iter().find(|(magic, _)| first.starts_with(magic)) {
        return Some(name);
    }
    let is_bzip2 = first.starts_with(b"BZh") && first.get(4..10) == Some(b"1AY&SY");
    // Two bytes that are a multiple of 31, and are text as often as not: then no text follows.
    let is_zlib = matches!(first, [0x78, flags, ..] if (0x7800 + u32::from(*flags)).is_multiple_of(31))
        && first.iter().take(64).any(|b| *b < 0x20 && !b.is_ascii_whitespace());
    match first {
        _ if is_bzip2 => Some("compressed (bzip2)"),
        _ if is_zlib => Some("compressed (zlib)"),
        _ if first.get(257..262) == Some(b"ustar") => Some("a tar archive"),
        _ => None,
    }
}

/// A zip, read to its end, where the list of its files is: the first of them need not be the pickle.
fn zip(file: impl Read + Seek, first: &[u8]) -> Content {
    let is_pickle = |name: &str| [".pkl", ".pickle"].iter().any(|end| name.to_ascii_lowercase().ends_with(end));
    let found = match zip::ZipArchive::new(file) {
        // A name that is no text may be any.
        Ok(archive) => archive.file_names().any(|name| name.map_or(true, |name| is_pickle(&name))),
        // Readers differ in what they make of a broken one.
        Err(_) => first.windows(4).any(|w| w == b".pkl"),
    };
    match found {
        true => Content::Pickle("a zip with a pickle, as torch.save writes it,"),
        false => Content::Packed("a zip"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &[u8]) -> Option<Content> {
        recognize(io::Cursor::new(bytes)).unwrap()
    }

    /// A zip of stored files.
    fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        use std::io::Write;
        let mut zip = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, bytes) in files {
            let stored =
                ::zip::write::SimpleFileOptions::default().compression_method(::zip::CompressionMethod::Stored);
            zip.start_file(*name, stored).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn pickles_are_known_by_their_content() {
        let is_pickle = |bytes: &[u8]| matches!(kind(bytes), Some(Content::Pickle(_)));
        // The pickle is not the first file, and not within the first bytes.
        let weights = vec![0; 100_000];
        assert!(is_pickle(&zip_of(&[("archive/data/0", &weights), ("archive/data.pkl", b"\x80\x02}.")])));
        assert!(is_pickle(b"PK\x03\x04\x00\x00\x08\x08archive/data.pklFB"));
        let array = |descr: &str| {
            let header = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n");
            [&b"\x93NUMPY\x01\x00v\x00"[..], header.as_bytes(), b"12345678"].concat()
        };
        for descr in ["'|O'", "'O'", "'|O8'", "[('a', '<f4'), ('b', '|O')]", "\"object\""] {
            assert!(is_pickle(&array(descr)), "{descr}");
        }
        for descr in ["'<f4'", "'|S3'", "[('O', '<f4')]".replace("O", "Or").as_str()] {
            assert_eq!(kind(&array(descr)), None, "{descr}");
        }
    }

    #[test]
    fn compiled_code_and_keys_are_known_by_their_content() {
        let pe = [&b"MZ"[..], &[0; 58], &[0x40, 0, 0, 0], b"PE\0\0"].concat();
        for (bytes, form) in [
            (&b"\x7fELF\x02\x01\x01\0"[..], "ELF"),
            (&pe, "PE"),
            (b"\xcf\xfa\xed\xfe\x07\0\0\x01", "Mach-O"),
            (b"\xca\xfe\xba\xbe\0\0\0\x02", "Mach-O"),
            (b"\xca\xfe\xba\xbe\0\0\0\x41", "Java"),
            (b"\0asm\x01\0\0\0", "WebAssembly"),
        ] {
            assert_eq!(kind(bytes), Some(Content::Native(form)));
        }
        for key in [
            "-----BEGIN PRIVATE KEY-----\nMIG",
            "-----BEGIN OPENSSH PRIVATE KEY-----\r\nb3",
            "Bag Attributes\n    localKeyID: 01\nKey Attributes: <No Attributes>\n-----BEGIN PRIVATE KEY-----\nMIG",
            "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----\nMHc",
        ] {
            assert_eq!(kind(key.as_bytes()), Some(Content::Key), "{key}");
        }
        for script in ["#!/bin/sh\n", "#! /bin/sh\n", "#!\t/usr/bin/env node\n"] {
            assert_eq!(kind(script.as_bytes()), Some(Content::Script), "{script}");
        }
        let zeros = [&b"MZ"[..], &[0; 200]].concat();
        for other in [
            &b"\x7fELF is a format"[..],
            b"MZ",
            &zeros,
            b"-----BEGIN PUBLIC KEY-----\nMIG",
            b"-----BEGIN CERTIFICATE-----\nMII",
            b"A key begins with -----BEGIN PRIVATE KEY-----\n",
            b"#! a remark",
            b"#!",
        ] {
            assert_eq!(kind(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_is_packed_is_told_as_such() {
        let packed = |bytes: &[u8]| match kind(bytes) {
            Some(Content::Packed(how)) => how,
            other => panic!("{bytes:?}: {other:?}"),
        };
        assert_eq!(packed(b"\x1f\x8b\x08\0\0\0\0\0\0\x03"), "compressed (gzip)");
        assert_eq!(packed(b"BZh91AY&SY\0"), "compressed (bzip2)");
        assert_eq!(packed(b"\xfd7zXZ\0\0\x04"), "compressed (xz)");
        assert_eq!(packed(b"\x28\xb5\x2f\xfd\x04\x58"), "compressed (zstd)");
        assert_eq!(packed(b"\x04\x22\x4d\x18\x64"), "compressed (lz4)");
        // zlib.compress(pickle.dumps([1])), as joblib writes.
        assert_eq!(packed(b"x\x9ck`\x99*\xc6\0\x01=\xb1S\xbc\x13\xf5\0\x1c\xbf\x04\x01"), "compressed (zlib)");
        assert_eq!(packed(&zip_of(&[("a.npy", b"")])), "a zip");
        assert_eq!(packed(&[vec![b'a'; 257], b"ustar\0".to_vec()].concat()), "a tar archive");
        assert_eq!(kind(b"\x89HDF\r\n\x1a\n"), Some(Content::Hdf5));
        for other in
            [&b"x^2 + y^2 = 1\n"[..], b"BZh: a word\n", b"PK", b"7z is a program", b"]", b"", b"\x89PNG\r\n\x1a\n"]
        {
            assert_eq!(kind(other), None, "{other:?}");
        }
    }
}
