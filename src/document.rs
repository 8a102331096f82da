//! Results as documents: each says what wrote it, of which model it is, and by which settings, so that it can be repeated
//! from itself.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::hub::Origin;
use crate::tool::Tool;
use serde::{Deserialize, Deserializer, Serialize};

/// What a document can hold.
pub trait Kind {
    /// Such as `achilles-audit/probe/v1`.
    const SCHEMA: &'static str;
    /// Of which model it is: nearly always a [`ModelIdentity`].
    type Model;
    /// How it came about.
    type Settings;
}

/// A result and what it takes to repeat it. In JSON the result's own keys follow the settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(bound = "T: Serialize, T::Model: Serialize, T::Settings: Serialize")]
pub struct Document<T: Kind> {
    /// What it holds, and in which form.
    pub schema: &'static str,
    /// What wrote it.
    pub tool: Tool,
    /// Of which model it is; none where it is of none, or of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<T::Model>,
    /// How it came about; none where there was nothing to set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<T::Settings>,
    /// What the document is for, such as the answers of a probe.
    #[serde(flatten)]
    pub result: T,
}

impl<T: Kind> Document<T> {
    /// A document that this program writes.
    pub fn new(model: Option<T::Model>, settings: Option<T::Settings>, result: T) -> Document<T> {
        Document { schema: T::SCHEMA, tool: Tool::this(), model, settings, result }
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
        }
        let Run { source, architecture, config_sha256, hub } = Run::deserialize(from)?;
        Ok(ModelIdentity {
            source,
            architecture: Some(Some(architecture)),
            config_sha256: Some(Some(config_sha256)),
            hub: hub.map(Some),
            ..ModelIdentity::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Serialize)]
    struct Result {
        answer: u8,
    }

    impl Kind for Result {
        const SCHEMA: &'static str = "achilles-audit/test/v1";
        type Model = ModelIdentity;
        type Settings = u8;
    }

    #[test]
    fn what_is_not_told_of_is_left_out_and_what_is_not_there_is_null() {
        let identity = ModelIdentity { source: "m".into(), hub: Some(None), ..ModelIdentity::default() };
        let document = serde_json::to_string(&Document::new(Some(identity.clone()), Some(7), Result { answer: 1 }));
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            r#"{{"schema":"achilles-audit/test/v1","tool":{{"name":"achilles-audit","version":"{version}"}},"model":{{"source":"m","hub":null}},"settings":7,"answer":1}}"#
        );
        assert_eq!(document.unwrap(), expected);
        assert_eq!(serde_json::to_value(identity.or_no_hub()).unwrap(), json!({"source": "m"}));
        let none = serde_json::to_value(Document::new(None, None, Result { answer: 1 })).unwrap();
        assert_eq!(none.as_object().unwrap().keys().collect::<Vec<_>>(), ["schema", "tool", "answer"]);
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
