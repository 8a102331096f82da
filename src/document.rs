//! Results as documents: each says what wrote it, of which model it is, and by which settings, so that it can be repeated
//! from itself.

pub mod critical_set;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::hub::Origin;
use crate::tool::Tool;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::any::Any;

/// What a document can hold.
pub trait Kind {
    /// Such as `achilles-audit/probe/v1`.
    const SCHEMA: &'static str;
    /// Of which model it is: nearly always a [`ModelIdentity`]; `()` where it is of none, or of two.
    type Model: 'static;
    /// How it came about; `()` where there is nothing to set.
    type Settings: 'static;
}

/// A result and what it takes to repeat it. In JSON the result's own keys follow the settings; what is `()` is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(bound = "T: Serialize, T::Model: Serialize, T::Settings: Serialize")]
pub struct Document<T: Kind> {
    /// What it holds, and in which form.
    pub schema: &'static str,
    /// What wrote it.
    pub tool: Tool,
    /// Of which model it is.
    #[serde(skip_serializing_if = "is_nothing")]
    pub model: T::Model,
    /// How it came about.
    #[serde(skip_serializing_if = "is_nothing")]
    pub settings: T::Settings,
    /// What the document is for, such as the answers of a probe.
    #[serde(flatten)]
    pub result: T,
}

impl<T: Kind> Document<T> {
    /// A document that this program writes.
    pub fn new(model: T::Model, settings: T::Settings, result: T) -> Document<T> {
        Document { schema: T::SCHEMA, tool: Tool::this(), model, settings, result }
    }
}

fn is_nothing(part: &impl Any) -> bool {
    (part as &dyn Any).is::<()>()
}

/// One that was written, by any version of this program, in the form that is known by its schema.
impl<'de, T> Deserialize<'de> for Document<T>
where
    T: Kind + Deserialize<'de>,
    T::Model: Deserialize<'de>,
    T::Settings: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Document<T>, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Document")]
        struct Written<M, S, T> {
            schema: String,
            tool: Tool,
            model: M,
            settings: S,
            #[serde(flatten)]
            result: T,
        }
        let Written { schema, tool, model, settings, result } = Written::deserialize(from)?;
        match schema == T::SCHEMA {
            true => Ok(Document { schema: T::SCHEMA, tool, model, settings, result }),
            false => Err(D::Error::custom(format!("has the schema {schema:?}, expected {}", T::SCHEMA))),
        }
    }
}

/// Which model it was. What a document does not tell of is none; what the model itself does not have is `Some(None)`,
/// `null` in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ModelIdentity {
    /// As it was named on the command line.
    pub source: String,
    /// As its config names it; null where the model was not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Option<String>>,
    /// SHA-256 of its config.json, lower-case hex; null where it has none that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_sha256: Option<Option<String>>,
    /// SHA-256 of its default chat template, lower-case hex; null where it has none that can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template_sha256: Option<Option<String>>,
    /// The class that tokenizer_config.json names. Numbers of tokens are those of tokenizer.json as it is; transformers 5
    /// builds some classes' tokenizers anew, from files of old Llama, Gemma and Qwen2 models, and may give others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer_class: Option<Option<String>>,
    /// Which commit of a hub repository it was, and what of it was not fetched; null where it is no such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<Option<Origin>>,
    /// What packed weights are decoded from and what is computed in, such as `decoded from FP8; activations in f32`; none
    /// where every number is stored as itself, or the model was not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

impl ModelIdentity {
    /// That of a checkpoint that was run.
    pub fn of(checkpoint: &Checkpoint, architecture: &str) -> ModelIdentity {
        ModelIdentity {
            source: checkpoint.name().into(),
            architecture: Some(Some(architecture.into())),
            config_sha256: Some(Some(checkpoint.config().sha256().into())),
            hub: Some(checkpoint.origin().cloned()),
            ..ModelIdentity::default()
        }
    }

    /// The same, where a document tells of the hub only if the model is from there.
    pub fn or_no_hub(self) -> ModelIdentity {
        ModelIdentity { hub: self.hub.filter(Option::is_some), ..self }
    }

    /// The architecture, where it is known.
    pub fn architecture(&self) -> Option<&str> {
        self.architecture.as_ref()?.as_deref()
    }

    /// SHA-256 of the config, where it is known.
    pub fn config_sha256(&self) -> Option<&str> {
        self.config_sha256.as_ref()?.as_deref()
    }

    /// The commit, where it is from a hub.
    pub fn hub(&self) -> Option<&Origin> {
        self.hub.as_ref()?.as_ref()
    }
}

/// That of a model that was run: it has all.
impl<'de> Deserialize<'de> for ModelIdentity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ModelIdentity, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "ModelIdentity")]
        struct Run {
            source: String,
            architecture: String,
            config_sha256: String,
            #[serde(default)]
            hub: Option<Origin>,
            #[serde(default)]
            weights: Option<String>,
        }
        let Run { source, architecture, config_sha256, hub, weights } = Run::deserialize(from)?;
        Ok(ModelIdentity {
            source,
            architecture: Some(Some(architecture)),
            config_sha256: Some(Some(config_sha256)),
            hub: hub.map(Some),
            weights,
            ..ModelIdentity::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Answer {
        answer: Option<u8>,
    }

    impl Kind for Answer {
        const SCHEMA: &'static str = "achilles-audit/test/v1";
        type Model = ModelIdentity;
        type Settings = Option<u8>;
    }

    #[derive(Serialize)]
    struct Alone {
        answer: u8,
    }

    impl Kind for Alone {
        const SCHEMA: &'static str = "achilles-audit/alone/v1";
        type Model = ();
        type Settings = ();
    }

    #[test]
    fn what_is_not_told_of_is_left_out_and_what_is_not_there_is_null() {
        let identity = ModelIdentity { source: "m".into(), hub: Some(None), ..ModelIdentity::default() };
        let document = Document::new(identity.clone(), None, Answer { answer: Some(1) });
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            r#"{{"schema":"achilles-audit/test/v1","tool":{{"name":"achilles-audit","version":"{version}"}},"model":{{"source":"m","hub":null}},"settings":null,"answer":1}}"#
        );
        assert_eq!(serde_json::to_string(&document).unwrap(), expected);
        assert_eq!(serde_json::to_value(identity.or_no_hub()).unwrap(), json!({"source": "m"}));
        let alone = serde_json::to_value(Document::new((), (), Alone { answer: 1 })).unwrap();
        assert_eq!(alone.as_object().unwrap().keys().collect::<Vec<_>>(), ["schema", "tool", "answer"]);
    }

    #[test]
    fn a_document_reads_back_by_its_schema() {
        let model = json!({"source": "m", "architecture": "A", "config_sha256": "c"});
        let model: ModelIdentity = serde_json::from_value(model).unwrap();
        let document = Document::new(model, Some(7), Answer { answer: None });
        let mut value = serde_json::to_value(&document).unwrap();
        assert_eq!(serde_json::from_value::<Document<Answer>>(value.clone()).unwrap(), document);
        value["schema"] = "achilles-audit/test/v2".into();
        let error = serde_json::from_value::<Document<Answer>>(value).unwrap_err().to_string();
        assert!(
            error.contains("has the schema \"achilles-audit/test/v2\", expected achilles-audit/test/v1"),
            "{error}"
        );
    }

    #[test]
    fn the_identity_of_a_model_that_was_run_reads_back() {
        let whole = json!({"source": "m", "architecture": "A", "config_sha256": "c"});
        let read: ModelIdentity = serde_json::from_value(whole.clone()).unwrap();
        assert_eq!((read.architecture(), read.config_sha256(), read.hub()), (Some("A"), Some("c"), None));
        assert_eq!(serde_json::to_value(read).unwrap(), whole);
        assert!(serde_json::from_value::<ModelIdentity>(json!({"source": "m"})).is_err());
    }
}
