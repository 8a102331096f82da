//! Corpora from a hub's data sets: `hf://datasets/ORG/NAME[@REVISION]/CONFIG/SPLIT`, or `…/path/to/FILE`.

use super::{Corpus, Reading, TextFormat};
use crate::checkpoint::hub::dataset::Dataset;
use crate::checkpoint::hub::{HubId, HubSettings};
use crate::error::{Count, Error, Result};
use crate::progress::Progress;
use std::collections::BTreeSet;
use std::path::Path;

/// What such a name begins with.
pub(super) const SCHEME: &str = "hf://";

/// The branch that the hub itself keeps, in which every data set is Parquet, in one layout.
const CONVERTED: &str = "refs/convert/parquet";
/// Splits that a message names.
const NAMED: usize = 8;

/// What a name asks for.
struct Wanted {
    id: HubId,
    what: What,
}

enum What {
    File(String),
    Split(Split),
}

struct Split {
    config: String,
    split: String,
}

/// Opens what `name` asks for, which is [`SCHEME`] and the rest.
pub(super) fn open(name: &str, rest: &str, reading: &Reading, progress: &dyn Progress) -> Result<Corpus> {
    let wanted = Wanted::parse(name, rest)?;
    let settings = HubSettings::from_env()?;
    let (id, converted) = (&wanted.id, wanted.id.at(CONVERTED));
    let of = |dataset: &Dataset, files: &[String], reading: &Reading| {
        if dataset.is_of_cache() {
            let count = Count(files.len(), "file is", "files are");
            tracing::warn!("{name}: HF_HUB_OFFLINE is set: {count} in the cache, and no others are known of");
        }
        Corpus::of_files(name, files.iter().map(|file| dataset.fetch(file, progress)), reading)
    };
    let split = match &wanted.what {
        What::File(file) => return of(&Dataset::open(id, &settings)?, std::slice::from_ref(file), reading),
        What::Split(split) => split,
    };
    let reading = &Reading { format: Some(TextFormat::Parquet), ..reading.clone() };
    if !id.has_revision()
        && let Some(dataset) = Dataset::open_if_there(&converted, &settings)?
    {
        let files = split.files(&dataset);
        if !files.is_empty() {
            return of(&dataset, &files, reading);
        }
    }
    let dataset = Dataset::open(id, &settings)?;
    let files = split.files(&dataset);
    match files.is_empty() {
        false => of(&dataset, &files, reading),
        true => Err(dataset.error(split.absent(&dataset))),
    }
}

impl Wanted {
    fn parse(name: &str, rest: &str) -> Result<Wanted> {
        let bad = |problem: String| Error::Name { what: "corpus", text: name.to_owned(), problem };
        let form = "expected hf://datasets/ORG/NAME[@REVISION]/CONFIG/SPLIT, or a file's path in place of the last two";
        let parts = || -> Option<(&str, &str, &str)> {
            let (org, rest) = rest.strip_prefix("datasets/")?.split_once('/')?;
            let (name, path) = rest.split_once('/')?;
            Some((org, name, path))
        };
        let (org, repo, path) = parts().ok_or_else(|| bad(form.into()))?;
        // A revision's slashes are written as %2F.
        let id = HubId::dataset(&format!("{org}/{}", repo.replace("%2F", "/"))).map_err(|e| bad(e.to_string()))?;
        let components: Vec<&str> = path.split('/').collect();
        if components.iter().any(|part| matches!(*part, "" | "." | "..")) {
            return Err(bad(form.into()));
        }
        let is_file = Path::new(path).extension().is_some_and(|end| {
            ["parquet", "jsonl", "json", "txt", "tokens", "raw"].iter().any(|known| end.eq_ignore_ascii_case(known))
        });
        let what = match components[..] {
            _ if is_file => What::File(path.to_owned()),
            [config, split] => What::Split(Split { config: config.to_owned(), split: split.to_owned() }),
            _ => return Err(bad(form.into())),
        };
        Ok(Wanted { id, what })
    }
}

impl Split {
    /// Its files in a data set, in order: `CONFIG/SPLIT/0000.parquet` and `CONFIG/partial-SPLIT/0000.parquet` (of what is
    /// too large the hub converts the beginning) or `CONFIG/SPLIT-00000-of-00001.parquet`, and of the config `default`
    /// also `data/SPLIT-00000-of-00001.parquet`.
    fn files(&self, dataset: &Dataset) -> Vec<String> {
        let is_own = |file: &&str| {
            let own = |(config, split): (&str, &str)| config == self.config && split == self.split;
            split_of(file).is_some_and(own)
        };
        dataset.files().into_iter().filter(is_own).map(str::to_owned).collect()
    }

    /// That there are none, and what there is.
    fn absent(&self, dataset: &Dataset) -> String {
        let there: BTreeSet<String> = dataset
            .files()
            .into_iter()
            .filter_map(|file| split_of(file).map(|(config, split)| format!("{config}/{split}")))
            .collect();
        let problem = format!("has no Parquet files of {}/{}", self.config, self.split);
        match there.len() {
            0 => format!("{problem}, nor of any other; name a file of it by its path"),
            count => {
                let mut named: Vec<String> = there.into_iter().take(NAMED).collect();
                if count > NAMED {
                    named.push("…".into());
                }
                format!("{problem}, but of {}", named.join(", "))
            }
        }
    }
}

/// The config and the split that a file is of, by its path.
fn split_of(file: &str) -> Option<(&str, &str)> {
    let (folder, name) =
        file.strip_suffix(".parquet")?.rsplit_once('/').unwrap_or(("", file.strip_suffix(".parquet")?));
    let config = |folder| if matches!(folder, "" | "data") { "default" } else { folder };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if is_number(name) {
        let (config, split) = folder.rsplit_once('/')?;
        return Some((config, split.strip_prefix("partial-").unwrap_or(split)));
    }
    // SPLIT-00000-of-00001, which a digest may follow.
    let split = name.find("-of-").and_then(|of| {
        let (split, number) = name[..of].rsplit_once('-')?;
        is_number(number).then_some(split)
    });
    Some((config(folder), split.unwrap_or(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_config_and_split() {
        for (file, expected) in [
            ("wikitext-103-v1/test/0000.parquet", Some(("wikitext-103-v1", "test"))),
            ("en/partial-train/0012.parquet", Some(("en", "train"))),
            ("wikitext-103-v1/test-00000-of-00001.parquet", Some(("wikitext-103-v1", "test"))),
            ("data/train-00000-of-00002-0123456789abcdef.parquet", Some(("default", "train"))),
            ("default/train/0000.parquet", Some(("default", "train"))),
            ("train-extra-00000-of-00001.parquet", Some(("default", "train-extra"))),
            ("a/b/validation.parquet", Some(("a/b", "validation"))),
            ("test.parquet", Some(("default", "test"))),
            ("0000.parquet", None),
            ("README.md", None),
        ] {
            assert_eq!(split_of(file), expected, "{file}");
        }
    }

    #[test]
    fn what_is_no_name_of_a_corpus_is_told() {
        let parse = |name: &str| Wanted::parse(name, name.strip_prefix(SCHEME).unwrap());
        for name in [
            "hf://datasets/org/name/config",
            "hf://datasets/org/name",
            "hf://org/name/config/split",
            "hf://datasets/org/name/config/split/more",
            "hf://datasets/org/name/../x.parquet",
            "hf://datasets/org/na me/config/split",
            "hf://datasets/org/name@..%2Fx/config/split",
            "hf://datasets/org/name/config/",
        ] {
            let problem = parse(name).map(|_| ()).unwrap_err().to_string();
            assert!(problem.starts_with(&format!("corpus {name:?}: ")), "{problem}");
        }
        let wanted = parse("hf://datasets/org/name@refs%2Fpr%2F1/a/b.jsonl").unwrap();
        assert_eq!(wanted.id.to_string(), "datasets/org/name@refs/pr/1");
        assert!(matches!(wanted.what, What::File(path) if path == "a/b.jsonl"));
        assert!(matches!(parse("hf://datasets/org/name/a/b").unwrap().what, What::Split(_)));
    }
}
