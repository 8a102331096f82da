//! What a hub publishes of a commit: every file's name, size and digest.

use super::content::ContentName;
use super::listing::{Listed, Listing};
use super::remote::{Failure, Remote};
use super::{HubId, HubSettings};
use crate::error::Result;
use crate::files::kind::is_pickle_name;
use serde::{Deserialize, Serialize};

/// The files of a commit, as a hub lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The repository, `org/name`.
    pub repository: String,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that the files are of.
    pub commit: String,
    /// In order of path.
    pub files: Vec<PublishedFile>,
}

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Of a large file its SHA-256, of another Git's SHA-1.
    #[serde(flatten)]
    pub content: ContentName,
}

/// Asks a hub for all that it publishes of a repository.
///
/// # Errors
/// The hub is not to be asked (`HF_HUB_OFFLINE`) or cannot be reached, there is no such repository or revision, it may not
/// be read, what it lists cannot be, or it lists a file without its size or digest.
pub fn published(id: &HubId, settings: &HubSettings) -> Result<Published> {
    if settings.offline {
        let advice = "HF_HUB_OFFLINE is set, and what a repository publishes only the hub tells; unset it, or make a \
                      manifest where there is a network (`achilles-audit fingerprint --hub ID -o FILE`) and verify \
                      against that";
        return Err(id.error(advice));
    }
    let remote = Remote::new(id, settings)?;
    let listing = remote.whole_listing().map_err(|failure| match failure {
        Failure::Refused(error) => error,
        Failure::Unreachable(reason) => id.error(remote.unreachable(&reason, "")),
    })?;
    let file = |(path, listed): (&String, &Listed)| match listed {
        Listed { size: Some(bytes), content: Some(content) } => {
            Ok(PublishedFile { path: path.clone(), bytes: *bytes, content: content.clone() })
        }
        _ => Err(id.error(format!("the hub does not say the size and digest of {path}; check HF_ENDPOINT"))),
    };
    Ok(Published {
        repository: id.repo().into(),
        revision: id.revision().into(),
        files: listing.files.iter().map(file).collect::<Result<_>>()?,
        commit: listing.commit,
    })
}

impl Published {
    /// What cannot be of a list that was written to a file and read back; none where it could be a hub's.
    pub fn problem(&self) -> Option<String> {
        let listed = |file: &PublishedFile| {
            (file.path.clone(), Listed { size: Some(file.bytes), content: Some(file.content.clone()) })
        };
        match self.repository.parse::<HubId>() {
            Ok(id) if !id.has_revision() => Listing::of(&self.commit, self.files.iter().map(listed)).err(),
            _ => Some(format!("the repository is called {:?}", self.repository)),
        }
    }

    /// Whether a folder that lacks this file is no less a model: notes, pictures, what this program never reads, and what
    /// lies in other folders than a pipeline's.
    pub fn may_be_missing(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
        let end = name.rsplit_once('.').map(|(_, end)| end).unwrap_or_default();
        let is_notes = NOTES.contains(&end) || LEGAL.iter().any(|start| name.starts_with(start));
        let is_other_form = OTHER_FORMS.contains(&end) || is_pickle_name(path);
        let has_parts = || self.files.iter().any(|file| PARTS.contains(&file.path.as_str()));
        is_notes || is_other_form || path.contains('/') && end == "safetensors" && !has_parts()
    }
}

/// What lists parts of a model that lie in folders of their own.
const PARTS: [&str; 2] = ["model_index.json", "modules.json"];
/// How files that nothing loads begin.
const LEGAL: [&str; 6] = ["license", "notice", "copying", "use_policy", ".gitattributes", ".gitignore"];

/// How what is written for people ends.
const NOTES: [&str; 9] = ["md", "png", "jpg", "jpeg", "gif", "webp", "svg", "pdf", "mp4"];
/// How weights in other forms end.
const OTHER_FORMS: [&str; 9] = ["onnx", "onnx_data", "h5", "msgpack", "gguf", "tflite", "ot", "mlmodel", "xml"];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(repository: &str, files: &[&str]) -> Published {
        let content = ContentName::parse(&"a".repeat(40)).unwrap();
        let file = |path: &&str| PublishedFile { path: (*path).into(), bytes: 3, content: content.clone() };
        Published {
            repository: repository.into(),
            revision: "main".into(),
            commit: "0".repeat(40),
            files: files.iter().map(file).collect(),
        }
    }

    #[test]
    fn what_a_model_needs_is_told_from_the_rest() {
        let needed = [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "chat_template.jinja",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "modeling_own.py",
            "vocab.txt",
            "tokenizer.model",
            "1_Pooling/config.json",
        ];
        let other =
            ["README.md", "LICENSE", "assets/logo.PNG", "pytorch_model.bin", "onnx/model.onnx", ".gitattributes"];
        let plain = of("org/name", &["config.json"]);
        assert!(needed.iter().all(|path| !plain.may_be_missing(path)));
        assert!(other.iter().all(|path| plain.may_be_missing(path)));
        assert!(plain.may_be_missing("original/model.safetensors"));
        assert!(!of("org/name", &["model_index.json"]).may_be_missing("unet/model.safetensors"));
    }

    #[test]
    fn a_manifest_is_believed_no_more_than_a_hub() {
        assert_eq!(of("org/name", &["config.json"]).problem(), None);
        assert!(of("../name", &["config.json"]).problem().is_some());
        assert!(of("org/name", &["../../config.json"]).problem().unwrap().contains("no path within"));
        assert!(of("org/name", &["a", "a"]).problem().unwrap().contains("twice"));
        let text = serde_json::to_string(&of("org/name", &["a"])).unwrap();
        assert!(text.contains(&format!("\"git_sha1\":\"{}\"", "a".repeat(40))), "{text}");
        assert_eq!(serde_json::from_str::<Published>(&text).unwrap(), of("org/name", &["a"]));
        let wrong = text.replace(&"a".repeat(40), "zz");
        assert!(serde_json::from_str::<Published>(&wrong).unwrap_err().to_string().contains("digest"), "{wrong}");
    }
}
