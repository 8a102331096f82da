//! What a model card says for programs: the YAML at the beginning of README.md, as the Hugging Face hub reads it.

use crate::error::{Error, Result};
use crate::files;
use serde_yaml::{Mapping, Value};
use std::path::Path;

/// The model card.
pub const README: &str = "README.md";
/// A longer card is not read.
const LARGEST: u64 = 4 << 20;

/// What a model card says; what it leaves out is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelCard {
    /// Licenses by the hub's identifiers, such as `apache-2.0` or `other`.
    pub license: Vec<String>,
    /// What a license that is `other` is called.
    pub license_name: Option<String>,
    /// The models that this was made from, `org/name`.
    pub base_model: Vec<String>,
    /// How: `finetune`, `quantized`, `adapter`, `merge`.
    pub base_model_relation: Option<String>,
    /// What it is for, such as `text-generation`.
    pub pipeline_tag: Option<String>,
    /// Data sets that it was trained on.
    pub datasets: Vec<String>,
}

impl ModelCard {
    /// That of a model's folder; the empty one where it has no card, or a card without such a beginning. What it says of
    /// one thing in a form that says nothing (a list of mappings, a number) is left out, with a warning.
    ///
    /// # Errors
    /// The card cannot be read, or its beginning is no YAML.
    pub fn of(folder: &Path) -> Result<ModelCard> {
        let path = folder.join(README);
        if !path.exists() {
            return Ok(ModelCard::default());
        }
        let text = files::read_text(&path, LARGEST)?;
        let (card, odd) = ModelCard::parse(&text).map_err(|problem| Error::file(&path, problem))?;
        for key in odd {
            tracing::warn!("{}: `{key}` is neither a text nor a list of texts; it is left out", path.display());
        }
        Ok(card)
    }

    /// What it says, and the keys whose value says nothing.
    fn parse(text: &str) -> std::result::Result<(ModelCard, Vec<&'static str>), String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text.split_inclusive('\n');
        if lines.next().is_none_or(|line| line.trim_end() != "---") {
            return Ok(Default::default());
        }
        let yaml: Vec<&str> = lines.by_ref().take_while(|line| line.trim_end() != "---").collect();
        let said: Option<Mapping> = serde_yaml::from_str(&yaml.concat())
            .map_err(|e| format!("does not begin with a model card's YAML ({e}); mend it, or take it out"))?;
        let said = said.unwrap_or_default();
        let mut odd = Vec::new();
        let mut texts = |key: &'static str| match said.get(key).map(texts) {
            Some(Some(texts)) => texts,
            Some(None) => {
                odd.push(key);
                Vec::new()
            }
            None => Vec::new(),
        };
        let card = ModelCard {
            license: texts("license"),
            license_name: texts("license_name").into_iter().next(),
            base_model: texts("base_model"),
            base_model_relation: texts("base_model_relation").into_iter().next(),
            pipeline_tag: texts("pipeline_tag").into_iter().next(),
            datasets: texts("datasets"),
        };
        Ok((card, odd))
    }
}

/// A text, or a list of them, without the empty ones.
fn texts(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| value.as_str().map(|text| text.trim().to_owned());
    let all: Option<Vec<String>> = match value {
        Value::Null => Some(Vec::new()),
        Value::Sequence(all) => all.iter().map(one).collect(),
        value => one(value).map(|one| vec![one]),
    };
    all.map(|all| all.into_iter().filter(|text| !text.is_empty()).collect())
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
        .unwrap()
        .0;
        assert_eq!((card.license, card.base_model), (vec!["apache-2.0".to_owned()], vec!["org/base".to_owned()]));
        assert_eq!(card.base_model_relation.as_deref(), Some("quantized"));
        assert_eq!((card.pipeline_tag.as_deref(), card.datasets), (Some("text-generation"), Vec::new()));
        for none in ["", "# Name\n", "---\n---\n", "---\n", "----\nlicense: mit\n---\n"] {
            assert_eq!(ModelCard::parse(none).unwrap(), Default::default(), "{none:?}");
        }
        assert_eq!(ModelCard::parse("\u{feff}---\r\nlicense: mit\r\n---\r\n").unwrap().0.license, ["mit"]);
        let odd = "---\nlicense: {a: b}\nbase_model: ['', org/base, ' ']\ndatasets: [{name: a}]\ntags: 3\n---\n";
        let (card, odd) = ModelCard::parse(odd).unwrap();
        assert_eq!((card.base_model, odd), (vec!["org/base".to_owned()], vec!["license", "datasets"]));
        for wrong in ["---\nlicense: [\n---\n", "---\n- a\n---\n"] {
            assert!(ModelCard::parse(wrong).unwrap_err().contains("model card's YAML"), "{wrong:?}");
        }
    }
}
