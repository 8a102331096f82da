//! What a hub publishes of a commit: every file's name, size and digest.

use super::content::ContentName;
use super::listing::{Listed, Listing};
use super::remote::{Failure, Remote};
use super::{HubId, HubSettings};
use crate::error::Result;
use crate::files::kind::is_pickle_name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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

    /// Whether a folder that holds the files `here` and lacks this one is no less a model: notes and pictures, what lies
    /// in other folders than a pipeline's, and weights in a form of which it has another, but for shards of a set of which
    /// it has some.
    pub fn may_be_missing(&self, path: &str, here: &BTreeSet<String>) -> bool {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let name = name.to_ascii_lowercase();
        let end = name.rsplit_once('.').map(|(_, end)| end).unwrap_or_default();
        let has = |name: &str| self.files.iter().any(|file| file.path == name);
        if NOTES.contains(&end) || LEGAL.iter().any(|start| name.starts_with(start)) {
            return true;
        }
        let weights: Vec<&String> = here.iter().filter(|path| is_weights(path)).collect();
        if !is_weights(path) {
            // A GGUF holds its settings and tokenizer itself.
            let of_gguf =
                !weights.is_empty() && weights.iter().all(|path| path.to_ascii_lowercase().ends_with(".gguf"));
            return of_gguf || !folder.is_empty() && !PARTS.iter().any(|parts| has(parts));
        }
        if weights.iter().any(|other| set_of(other) == set_of(path)) {
            return false;
        }
        let beside = || weights.iter().any(|other| other.rsplit_once('/').map_or("", |(folder, _)| folder) == folder);
        let elsewhere = OTHER_FORMS.contains(&end)
            || is_pickle_name(path)
            || folder.is_empty() && has(PARTS[0])
            || !folder.is_empty() && !PARTS.iter().any(|parts| has(parts));
        beside() || elsewhere && !weights.is_empty()
    }
}

/// Whether a file holds weights, by its name.
fn is_weights(path: &str) -> bool {
    let end = path.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).unwrap_or_default();
    matches!(end.as_str(), "safetensors" | "gguf") || OTHER_FORMS.contains(&end.as_str()) || is_pickle_name(path)
}

/// What the shards of a set are called alike: their path without their number.
fn set_of(path: &str) -> String {
    match path.rsplit_once("-of-") {
        Some((start, end)) => format!("{}-of-{end}", start.trim_end_matches(|c: char| c.is_ascii_digit())),
        None => path.to_owned(),
    }
}

/// What lists parts of a model that lie in folders of their own.
const PARTS: [&str; 2] = ["model_index.json", "modules.json"];
/// How files that nothing loads begin.
const LEGAL: [&str; 6] = ["license", "notice", "copying", "use_policy", ".gitattributes", ".gitignore"];

/// How what is written for people ends.
const NOTES: [&str; 9] = ["md", "png", "jpg", "jpeg", "gif", "webp", "svg", "pdf", "mp4"];
/// How weights in other forms end.
const OTHER_FORMS: [&str; 8] = ["onnx", "onnx_data", "h5", "msgpack", "tflite", "ot", "mlmodel", "xml"];

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
        let here = |files: &[&str]| files.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>();
        let plain = of("org/name", &["config.json"]);
        let with_weights = here(&["other.safetensors"]);
        assert!(needed.iter().all(|path| plain.may_be_missing(path, &with_weights) == path.contains(['/', '-'])));
        assert!(other.iter().all(|path| plain.may_be_missing(path, &with_weights)));
        // Without any weights all of them are missing, and so is a shard beside others of its set.
        for weights in ["model.safetensors", "model.gguf", "pytorch_model.bin", "original/a.safetensors"] {
            assert!(!plain.may_be_missing(weights, &here(&["config.json"])), "{weights}");
        }
        let shards = here(&["model-00002-of-00002.safetensors"]);
        assert!(!plain.may_be_missing("model-00001-of-00002.safetensors", &shards));
        assert!(plain.may_be_missing("consolidated.safetensors", &shards));
        // A GGUF is a model by itself; a pipeline's parts are needed, in one form each.
        let gguf = here(&["a.gguf"]);
        assert!(plain.may_be_missing("config.json", &gguf) && plain.may_be_missing("b.gguf", &gguf));
        let pipeline = of("org/name", &["model_index.json"]);
        let vae = here(&["vae/model.fp16.safetensors"]);
        assert!(!pipeline.may_be_missing("unet/model.safetensors", &vae));
        assert!(!pipeline.may_be_missing("unet/config.json", &vae));
        assert!(
            pipeline.may_be_missing("vae/model.safetensors", &vae) && pipeline.may_be_missing("xl.safetensors", &vae)
        );
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
