//! What the names in a file mean by its config: weights of the text model, or of a part that text never goes through.

use super::ConfigFile;
use crate::neuron::{out_of_base_model, out_of_wrapper};
use serde_json::{Map, Value};

/// How a checkpoint's files name its tensors.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// The config nests the text model's: its tensors lie under a prefix.
    wraps: bool,
    /// They may also have the names that they have where the text model stands alone.
    is_flat: bool,
    /// What else the config describes, by the module that holds it.
    other_parts: Vec<&'static str>,
    /// Layers from this one on predict further tokens: text does not go through them.
    predicting_from: Option<u64>,
}

/// What a stored tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// One of the text model, by the name that it has where that stands alone.
    Text(String),
    /// One of another part of the model that the config describes, by the name that transformers 5 saves it under.
    OtherPart(String),
    /// The config knows of no part that it could belong to.
    Unknown,
}

/// Keys of a wrapper's config, and the modules that hold what they describe.
const OTHER_PARTS: &[(&str, &[&str])] =
    &[("vision_config", &["vision_tower", "multi_modal_projector", "visual", "mm_projector"])];

/// `model_type` of models with images whose first configs have the text model's keys among their own, and whose first
/// files name its tensors as if it stood alone.
pub const IS_FLAT: [&str; 2] = ["qwen2_vl", "qwen2_5_vl"];

impl Names {
    /// As the config has it.
    pub fn of(config: &ConfigFile) -> Names {
        Names::of_map(config.map())
    }

    fn of_map(config: &Map<String, Value>) -> Names {
        let has = |key: &str| config.get(key).is_some_and(Value::is_object);
        let text = config.get("text_config").and_then(Value::as_object).unwrap_or(config);
        let number = |key: &str| text.get(key).and_then(Value::as_u64);
        let predicts = ["num_nextn_predict_layers", "num_mtp_layers"].into_iter().find_map(number);
        let predicting_from = predicts.filter(|layers| *layers > 0).and_then(|_| number("num_hidden_layers"));
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let is_flat = IS_FLAT.contains(&model_type);
        if !has("text_config") && !is_flat {
            return Names { predicting_from, ..Names::default() };
        }
        let there = OTHER_PARTS.iter().filter(|(key, _)| has(key));
        Names {
            wraps: true,
            is_flat,
            predicting_from,
            other_parts: there.flat_map(|(_, modules)| *modules).copied().collect(),
        }
    }

    /// What a tensor of that name is. As in transformers, a text model's own file may leave out `model.`, a wrapper's
    /// has a prefix for its text model.
    pub fn meaning(&self, stored: &str) -> Meaning {
        match self.meaning_in_any_layer(stored) {
            Meaning::Text(name) if self.predicts(&name) => Meaning::OtherPart(out_of_tower(stored)),
            meaning => meaning,
        }
    }

    /// Whether a tensor of the text model is of a layer that predicts further tokens.
    fn predicts(&self, name: &str) -> bool {
        let layer = || name.strip_prefix("model.layers.")?.split('.').next()?.parse::<u64>().ok();
        self.predicting_from.is_some_and(|from| layer().is_some_and(|layer| layer >= from))
    }

    fn meaning_in_any_layer(&self, stored: &str) -> Meaning {
        if !self.wraps {
            return Meaning::Text(out_of_base_model(stored).unwrap_or_else(|| stored.to_owned()));
        }
        let module = module(stored);
        match out_of_wrapper(stored) {
            Some(name) => Meaning::Text(name),
            None if stored.starts_with("lm_head.") => Meaning::Text(stored.to_owned()),
            None if self.other_parts.contains(&module) => Meaning::OtherPart(out_of_tower(stored)),
            None if self.is_flat => Meaning::Text(out_of_base_model(stored).unwrap_or_else(|| stored.to_owned())),
            None => Meaning::Unknown,
        }
    }

    /// As [`Names::meaning`], where it is one of the text model.
    pub fn text(&self, stored: &str) -> Option<String> {
        match self.meaning(stored) {
            Meaning::Text(name) => Some(name),
            Meaning::OtherPart(_) | Meaning::Unknown => None,
        }
    }
}

/// The module of the whole model that holds a tensor of a wrapper's file.
pub fn module(stored: &str) -> &str {
    stored.strip_prefix("model.").unwrap_or(stored).split('.').next().unwrap_or_default()
}

/// Before version 5 the tower held a model that held the layers.
fn out_of_tower(stored: &str) -> String {
    let name = stored.strip_prefix("model.").unwrap_or(stored);
    name.replacen("vision_tower.vision_model.", "vision_tower.", 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_mean_what_the_config_has_a_part_for() {
        let names = |config: Value| Names::of_map(config.as_object().unwrap());
        let text = |name: &str| Meaning::Text(name.to_owned());
        let part = |name: &str| Meaning::OtherPart(name.to_owned());
        let plain = names(json!({"vision_config": {}, "text_config": null}));
        let wrapper = names(json!({"text_config": {}, "vision_config": {}}));
        let blind = names(json!({"text_config": {}}));
        let predicts = names(json!({"num_hidden_layers": 3, "num_nextn_predict_layers": 1}));
        assert_eq!(predicts.meaning("model.layers.2.x.weight"), text("model.layers.2.x.weight"));
        assert_eq!(predicts.meaning("model.layers.3.x.weight"), part("layers.3.x.weight"));
        for flat in [
            json!({"model_type": "qwen2_vl", "vision_config": {}}),
            json!({"model_type": "qwen2_5_vl", "vision_config": {}, "text_config": {}}),
        ] {
            let flat = names(flat);
            for own in ["model.norm.weight", "norm.weight", "model.language_model.norm.weight"] {
                assert_eq!(flat.meaning(own), text("model.norm.weight"), "{own}");
            }
            assert_eq!(flat.meaning("lm_head.weight"), text("lm_head.weight"));
            assert_eq!(flat.meaning("visual.x.weight"), part("visual.x.weight"));
            assert_eq!(flat.meaning("model.visual.x.weight"), part("visual.x.weight"));
        }
        for (stored, in_plain, in_wrapper, in_blind) in [
            ("model.norm.weight", text("model.norm.weight"), Meaning::Unknown, Meaning::Unknown),
            ("norm.weight", text("model.norm.weight"), Meaning::Unknown, Meaning::Unknown),
            ("lm_head.weight", text("lm_head.weight"), text("lm_head.weight"), text("lm_head.weight")),
            (
                "model.language_model.norm.weight",
                text("model.language_model.norm.weight"),
                text("model.norm.weight"),
                text("model.norm.weight"),
            ),
            (
                "language_model.lm_head.weight",
                text("language_model.lm_head.weight"),
                text("lm_head.weight"),
                text("lm_head.weight"),
            ),
            ("vision_tower.x.weight", text("vision_tower.x.weight"), part("vision_tower.x.weight"), Meaning::Unknown),
            (
                "model.multi_modal_projector.x",
                text("model.multi_modal_projector.x"),
                part("multi_modal_projector.x"),
                Meaning::Unknown,
            ),
            (
                "model.vision_tower.vision_model.x",
                text("model.vision_tower.vision_model.x"),
                part("vision_tower.x"),
                Meaning::Unknown,
            ),
        ] {
            assert_eq!(plain.meaning(stored), in_plain, "{stored}");
            assert_eq!(wrapper.meaning(stored), in_wrapper, "{stored}");
            assert_eq!(blind.meaning(stored), in_blind, "{stored}");
        }
    }
}
