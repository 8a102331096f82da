//! What a model card says for programs: the YAML at the beginning of README.md, as the Hugging Face hub reads it.

use crate::error::{Error, Result};
use crate::files;
use serde::{Deserialize, Deserializer};
use std::path::Path;

/// The model card.
pub const README: &str = "README.md";
/// A longer card is not read.
const LARGEST: u64 = 4 << 20;

/// What a model card says; what it leaves out is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ModelCard {
    /// Licenses by the hub's identifiers, such as `apache-2.0` or `other`.
    #[serde(deserialize_with = "one_or_more")]
    pub license: Vec<String>,
    /// What a license that is `other` is called.
    pub license_name: Option<String>,
    /// The models that this was made from, `org/name`.
    #[serde(deserialize_with = "one_or_more")]
    pub base_model: Vec<String>,
    /// How: `finetune`, `quantized`, `adapter`, `merge`.
    pub base_model_relation: Option<String>,
    /// What it is for, such as `text-generation`.
    pub pipeline_tag: Option<String>,
    /// Data sets that it was trained on.
    #[serde(deserialize_with = "one_or_more")]
    pub datasets: Vec<String>,
}

impl ModelCard {
    /// That of a model's folder; the empty one where it has no card, or a card without such a beginning.
    ///
    /// # Errors
    /// The card cannot be read, or its beginning is no YAML of this kind.
    pub fn of(folder: &Path) -> Result<ModelCard> {
        let path = folder.join(README);
        if !path.exists() {
            return Ok(ModelCard::default());
        }
        let text = files::read_text(&path, LARGEST)?;
        ModelCard::parse(&text).map_err(|problem| Error::file(path, problem))
    }

    fn parse(text: &str) -> std::result::Result<ModelCard, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text.split_inclusive('\n');
        if lines.next().is_none_or(|line| line.trim_end() != "---") {
            return Ok(ModelCard::default());
        }
        let yaml: Vec<&str> = lines.by_ref().take_while(|line| line.trim_end() != "---").collect();
        let card: Option<ModelCard> = serde_yaml::from_str(&yaml.concat())
            .map_err(|e| format!("does not begin with a model card's YAML ({e}); mend it, or take it out"))?;
        Ok(card.unwrap_or_default())
    }
}

/// A text, a list of them, or nothing.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Told {
        One(String),
        More(Vec<String>),
    }
    Ok(match Option::<Told>::deserialize(from)? {
        None => Vec::new(),
        Some(Told::One(one)) => vec![one],
        Some(Told::More(more)) => more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_as_they_are_published_are_read() {
        let card = ModelCard::parse(concat!(
            "---\nlibrary_name: transformers\nlicense: apache-2.0\nlanguage:\n- en\nbase_model:\n- org/base\n",
            "base_model_relation: quantized\npipeline_tag: text-generation\ndatasets:\n---\n\n# Name\n---\nlicense: mit\n"
        ))
        .unwrap();
        assert_eq!((card.license, card.base_model), (vec!["apache-2.0".to_owned()], vec!["org/base".to_owned()]));
        assert_eq!(card.base_model_relation.as_deref(), Some("quantized"));
        assert_eq!((card.pipeline_tag.as_deref(), card.datasets), (Some("text-generation"), Vec::new()));
        for none in ["", "# Name\n", "---\n---\n", "---\n", "----\nlicense: mit\n---\n"] {
            assert_eq!(ModelCard::parse(none).unwrap(), ModelCard::default(), "{none:?}");
        }
        assert_eq!(ModelCard::parse("\u{feff}---\r\nlicense: mit\r\n---\r\n").unwrap().license, ["mit"]);
        for wrong in ["---\nlicense: {a: b}\n---\n", "---\nlicense: [\n---\n", "---\n- a\n---\n"] {
            assert!(ModelCard::parse(wrong).unwrap_err().contains("model card's YAML"), "{wrong:?}");
        }
    }
}
