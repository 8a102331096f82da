//! What a repository holds, as the hub lists it: names, sizes and digests, none of them believed before it is checked.

use super::content::ContentName;
use super::id::is_commit;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The longest answer that is read, in bytes.
pub(super) const LARGEST_LISTING: u64 = 8 << 20;
/// More than any model's repository has.
const MOST_FILES: usize = 10_000;
/// From so many files on a list may leave some out, and only the pages of the tree tell all.
const MOST_LISTED: usize = 1_000;
/// The hub takes no file that is nearly so large.
const LARGEST_FILE: u64 = 1 << 40;

/// A commit and its files.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: BTreeMap<String, Listed>,
}

/// What is known of a file before it arrives.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Listed {
    pub(super) size: Option<u64>,
    pub(super) content: Option<ContentName>,
}

#[derive(serde::Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(serde::Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// A line of `/api/models/ID/tree/COMMIT?recursive=true`.
#[derive(serde::Deserialize)]
struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: String,
    lfs: Option<TreeLfs>,
}

#[derive(serde::Deserialize)]
struct TreeLfs {
    oid: String,
    size: u64,
}

impl Listing {
    /// Reads what the hub answers to `/api/models/ID/revision/REVISION?blobs=true`; else what is wrong with it.
    pub(super) fn parse(text: &[u8]) -> Result<Listing, String> {
        let answer: Answer = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let listed = |sibling: Sibling| {
            let name = sibling.rfilename.clone();
            let listed = sibling.listed().map_err(|problem| format!("it lists {name} {problem}"))?;
            Ok((name, listed))
        };
        let files: Vec<_> = answer.siblings.into_iter().map(listed).collect::<Result<_, String>>()?;
        Listing::of(&answer.sha, files.into_iter())
    }

    /// A commit's files, checked; else what cannot be.
    pub(super) fn of(commit: &str, listed: impl ExactSizeIterator<Item = (String, Listed)>) -> Result<Listing, String> {
        if !is_commit(commit) {
            return Err("the commit is not a Git object name".into());
        }
        if listed.len() > MOST_FILES {
            return Err(format!("it lists {} files, expected at most {MOST_FILES}", listed.len()));
        }
        let mut files = BTreeMap::new();
        for (name, listed) in listed {
            if let Some(problem) = unsafe_name(&name) {
                return Err(format!("it lists a file named {name:?}, which {problem}"));
            }
            if let Some(size) = listed.size.filter(|size| *size > LARGEST_FILE) {
                return Err(format!("it lists {name} with {size} bytes, expected at most {LARGEST_FILE}"));
            }
            if files.insert(name.clone(), listed).is_some() {
                return Err(format!("it lists {name} twice"));
            }
        }
        match collision(&files) {
            Some(name) => Err(format!("it lists {name:?} and another file that some file systems put in its place")),
            None => Ok(Listing { commit: commit.to_owned(), files }),
        }
    }

    /// Whether it tells all that there is to tell of each file.
    pub(super) fn is_whole(&self) -> bool {
        self.files.len() < MOST_LISTED && self.files.values().all(|file| file.size.is_some() && file.content.is_some())
    }

    /// The list as pages of the tree tell it; else what cannot be in them, or contradicts the list.
    pub(super) fn completed(self, pages: &[Vec<u8>]) -> Result<Listing, String> {
        let mut files = Vec::new();
        for page in pages {
            let entries: Vec<TreeEntry> = serde_json::from_slice(page).map_err(|e| e.to_string())?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                let name = entry.path;
                let blob_id = Some(entry.oid);
                let lfs = entry.lfs.map(|lfs| Lfs { sha256: Some(lfs.oid), size: Some(lfs.size) });
                let sibling = Sibling { rfilename: name.clone(), size: Some(entry.size), blob_id, lfs };
                let listed = sibling.listed().map_err(|problem| format!("it lists {name} {problem}"))?;
                if let Some(Listed { size: Some(size), .. }) = self.files.get(&name)
                    && Some(*size) != listed.size
                {
                    return Err(format!("it lists {name} with {size} bytes and with {}", entry.size));
                }
                files.push((name, listed));
            }
        }
        let whole = Listing::of(&self.commit, files.into_iter())?;
        match self.files.keys().find(|name| !whole.files.contains_key(*name)) {
            Some(name) => Err(format!("it lists {name} in one place and not in another")),
            None => Ok(whole),
        }
    }
}

impl Sibling {
    fn listed(self) -> Result<Listed, String> {
        let (of_lfs, sha256) = self.lfs.map(|lfs| (lfs.size, lfs.sha256)).unwrap_or_default();
        if let (Some(size), Some(other)) = (self.size, of_lfs)
            && size != other
        {
            return Err(format!("with {size} bytes and with {other}"));
        }
        let size = self.size.or(of_lfs);
        // Where a file is large, the blob is only the pointer to it.
        let name = sha256.or(self.blob_id);
        let content =
            name.map(|name| ContentName::parse(&name).ok_or(format!("with the digest {name:?}, which is none")));
        Ok(Listed { size, content: content.transpose()? })
    }
}

/// Why a name from a listing must not become a path.
fn unsafe_name(name: &str) -> Option<&'static str> {
    if name.chars().any(|c| c.is_control() || c == '\\') {
        return Some("has control characters or backslashes");
    }
    if name.len() > 1000 || name.split('/').any(|part| part.len() > 200) {
        return Some("is too long");
    }
    let leads = |part: &str| matches!(part, "" | "." | "..") || part.eq_ignore_ascii_case(".git");
    name.split('/').any(leads).then_some("is no path within a repository")
}

/// A file that has another's name but for case, or the name of a folder of another.
fn collision(files: &BTreeMap<String, Listed>) -> Option<&str> {
    let folded: BTreeMap<String, &str> = files.keys().map(|name| (name.to_lowercase(), name.as_str())).collect();
    if folded.len() < files.len() {
        let mut seen = HashSet::new();
        return files.keys().find(|name| !seen.insert(name.to_lowercase())).map(String::as_str);
    }
    let folders: BTreeSet<&str> =
        folded.keys().flat_map(|name| name.match_indices('/').map(|(at, _)| &name[..at])).collect();
    folded.iter().find(|(name, _)| folders.contains(name.as_str())).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parse(siblings: Value) -> Result<Listing, String> {
        Listing::parse(json!({"sha": COMMIT, "siblings": siblings}).to_string().as_bytes())
    }

    #[test]
    fn what_the_hub_says_of_files_is_taken_over() {
        let (blob, sha256) = ("a".repeat(40), "B".repeat(64));
        let listing = parse(json!([
            {"rfilename": "config.json", "size": 3, "blobId": blob},
            {"rfilename": "model.safetensors", "size": 9, "blobId": blob,
                "lfs": {"sha256": sha256, "size": 9, "pointerSize": 130}},
            {"rfilename": "añ 日本/x y?#%.txt"},
        ]))
        .unwrap();
        let listed = |size, name: &str| Listed { size: Some(size), content: ContentName::parse(name) };
        assert_eq!(listing.files["config.json"], listed(3, &blob));
        assert_eq!(listing.files["model.safetensors"], listed(9, &"b".repeat(64)));
        assert_eq!(listing.files["añ 日本/x y?#%.txt"], Listed::default());
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "a".repeat(201);
        let deep = "a/".repeat(600) + "a";
        for name in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            "../x",
            "a/../../x",
            ".",
            "./a",
            "a\\b",
            "..\\x",
            "a\nb",
            "a\u{1b}[31m",
            "a\0",
            "a\u{85}",
            ".git/config",
            "sub/.GIT/hooks/x",
            &long,
            &deep,
        ] {
            let problem = parse(json!([{"rfilename": name}])).unwrap_err();
            assert!(problem.starts_with("it lists a file named ") && !problem.contains(['\n', '\u{1b}']), "{problem}");
        }
    }

    #[test]
    fn names_that_fall_together_are_refused() {
        for (one, other) in [("config.json", "Config.json"), ("a/É", "A/é"), ("a", "a/b"), ("A", "a/b/c"), ("x", "x")]
        {
            let problem = parse(json!([{"rfilename": one}, {"rfilename": other}])).unwrap_err();
            assert!(problem.contains("twice") || problem.contains("in its place"), "{one} {other}: {problem}");
        }
        assert!(parse(json!([{"rfilename": "a/b"}, {"rfilename": "a/c"}, {"rfilename": "a.b"}])).is_ok());
    }

    #[test]
    fn claims_beyond_reason_are_refused() {
        let many: Vec<Value> = (0..100_000).map(|i| json!({"rfilename": format!("{i}")})).collect();
        assert!(parse(many.into()).unwrap_err().contains("it lists 100000 files, expected at most 10000"));
        for (sibling, says) in [
            (json!({"size": 1u64 << 45}), "expected at most"),
            (json!({"size": -1}), "invalid value"),
            (json!({"size": 3, "lfs": {"size": 4}}), "with 3 bytes and with 4"),
            (json!({"blobId": "../../x"}), "which is none"),
        ] {
            let mut sibling = sibling;
            sibling["rfilename"] = "config.json".into();
            let problem = parse(json!([sibling])).unwrap_err();
            assert!(problem.contains(says), "{problem}");
        }
        assert!(Listing::parse(b"{\"sha\": \"../..\"}").unwrap_err().contains("Git object name"));
    }
}
