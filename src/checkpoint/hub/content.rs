//! What a file's content is called: by Git, or by its SHA-256. The hub and its cache name files so.

use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{self, Read};

/// The name that a content has: of a small file Git's SHA-1 of it, of a large one its SHA-256; lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Named", into = "Named")]
pub struct ContentName(String);

/// The same as JSON has it, by which digest it is.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Named {
    GitSha1(String),
    Sha256(String),
}

impl From<ContentName> for Named {
    fn from(name: ContentName) -> Named {
        if name.0.len() == 40 { Named::GitSha1(name.0) } else { Named::Sha256(name.0) }
    }
}

impl TryFrom<Named> for ContentName {
    type Error = String;

    fn try_from(named: Named) -> Result<ContentName, String> {
        let (hex, digits) = match named {
            Named::GitSha1(hex) => (hex, 40),
            Named::Sha256(hex) => (hex, 64),
        };
        let name = ContentName::parse(&hex).filter(|name| name.0.len() == digits);
        name.ok_or_else(|| format!("the digest {hex:?} is none: expected {digits} hex digits"))
    }
}

impl ContentName {
    /// 40 hex digits are Git's name of a blob, 64 are a SHA-256.
    pub fn parse(hex: &str) -> Option<ContentName> {
        let is_name = matches!(hex.len(), 40 | 64) && hex.bytes().all(|b| b.is_ascii_hexdigit());
        is_name.then(|| ContentName(hex.to_ascii_lowercase()))
    }

    /// The digest in lower-case hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether these bytes, `size` in all, have this name.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn names(&self, size: u64, content: impl Read) -> io::Result<bool> {
        Ok(self.alike(size, content)? == *self)
    }

    /// The name of these bytes, `size` in all, made in the way that this one was.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn alike(&self, size: u64, mut content: impl Read) -> io::Result<ContentName> {
        let mut naming = self.naming(size);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match content.read(&mut buffer)? {
                0 => return Ok(naming.finish()),
                read => naming.update(&buffer[..read]),
            }
        }
    }

    /// Names a content of `size` bytes in the way that this name was made.
    pub(super) fn naming(&self, size: u64) -> Naming {
        match self.0.len() {
            40 => Naming::Git(Sha1::new_with_prefix(format!("blob {size}\0"))),
            _ => Naming::Sha256(Sha256::new()),
        }
    }
}

impl fmt::Display for ContentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.0.len() == 40 { "git SHA-1" } else { "SHA-256" };
        write!(f, "{kind} {}", self.0)
    }
}

/// A name in the making.
#[derive(Clone)]
pub(super) enum Naming {
    Git(Sha1),
    Sha256(Sha256),
}

impl Naming {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Naming::Git(hash) => hash.update(bytes),
            Naming::Sha256(hash) => hash.update(bytes),
        }
    }

    pub(super) fn finish(self) -> ContentName {
        ContentName(match self {
            Naming::Git(hash) => crate::checkpoint::hex(&hash.finalize()),
            Naming::Sha256(hash) => crate::checkpoint::hex(&hash.finalize()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ContentName;

    #[test]
    fn contents_are_named_as_git_and_sha256sum_name_them() {
        // `printf 'hello\n' | git hash-object --stdin` and `| sha256sum`.
        for name in [
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        ] {
            let name = ContentName::parse(name).unwrap();
            assert!(name.names(6, &b"hello\n"[..]).unwrap());
            assert!(!name.names(6, &b"hallo\n"[..]).unwrap());
        }
        for other in ["", "x", "ce013625030ba8dba906f756967f9e9ca394464", "../../../../../../../../../../../../../abc"]
        {
            assert_eq!(ContentName::parse(other), None);
        }
    }
}
