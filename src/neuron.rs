//! Names: module path, site, neuron and intervention. What prints here parses back.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Where the decoder layers of a checkpoint start, and what `L11.…` is short for.
const LAYERS: &str = "model.layers.";

/// What files of multimodal checkpoints put before their text model's paths (transformers 4 and 5).
const WRAPPERS: [&str; 3] = ["language_model.model.", "model.language_model.", "language_model."];

/// The path that a module or tensor of a multimodal checkpoint's text model has where that stands alone:
/// `language_model.model.norm` is `model.norm`. None where `path` is no such path.
pub(crate) fn out_of_wrapper(path: &str) -> Option<String> {
    let head = path.strip_prefix("language_model.").filter(|rest| rest.split('.').next() == Some("lm_head"));
    let rest = || WRAPPERS.iter().find_map(|wrapper| path.strip_prefix(wrapper));
    head.map(str::to_owned).or_else(|| rest().map(|rest| format!("model.{rest}")))
}

/// The path within a causal model of what a base model's file calls `layers.3.…`, `embed_tokens.…` or `norm.…`. None
/// where `path` is no such path.
pub(crate) fn out_of_base_model(path: &str) -> Option<String> {
    let first = path.split('.').next();
    first.filter(|first| ["layers", "embed_tokens", "norm"].contains(first)).map(|_| format!("model.{path}"))
}

/// The path of a module, such as `model.layers.11.mlp.down_proj`: the checkpoint's own, or, of a multimodal one, that
/// of its text model alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModulePath(Arc<str>);

impl ModulePath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The decoder layer that holds the module, if one does.
    pub fn layer(&self) -> Option<usize> {
        self.0.strip_prefix(LAYERS)?.split_once('.')?.0.parse().ok()
    }

    /// The path within its decoder layer (`mlp.down_proj`), or the whole path outside of one.
    pub fn in_layer(&self) -> &str {
        match self.0.strip_prefix(LAYERS).and_then(|rest| rest.split_once('.')) {
            Some((number, rest)) if number.parse::<usize>().is_ok() => rest,
            _ => &self.0,
        }
    }

    /// `L11.mlp.down_proj` for a module of a decoder layer, else the whole path.
    pub fn short(&self) -> String {
        match self.layer() {
            Some(layer) => format!("L{layer}.{}", self.in_layer()),
            None => self.0.to_string(),
        }
    }
}

impl fmt::Display for ModulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ModulePath {
    type Err = Error;

    /// Reads `model.layers.11.mlp.down_proj` or `L11.mlp.down_proj`; also what a multimodal checkpoint's file or a base
    /// model's calls it, `language_model.model.layers.11.mlp.down_proj` or `layers.11.mlp.down_proj`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Name {
            what: "module",
            text: text.into(),
            problem: "expected a module path such as model.layers.11.mlp.down_proj or L11.mlp.down_proj".into(),
        };
        let named = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !text.split('.').all(|part| !part.is_empty() && part.chars().all(named)) {
            return Err(bad());
        }
        let short = || {
            let (layer, rest) = text.strip_prefix('L')?.split_once('.')?;
            let layer: usize = layer.parse().ok()?;
            Some(format!("{LAYERS}{layer}.{rest}"))
        };
        let path = short().or_else(|| out_of_wrapper(text)).or_else(|| out_of_base_model(text));
        Ok(ModulePath(path.unwrap_or_else(|| text.to_owned()).into()))
    }
}

/// Which side of a module: what goes in or what comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The module's input.
    In,
    /// The module's output.
    Out,
}

impl Side {
    /// `in` or `out`.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::In => "in",
            Side::Out => "out",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Side {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "in" => Ok(Side::In),
            "out" => Ok(Side::Out),
            _ => Err(Error::Name { what: "side", text: text.into(), problem: "expected in or out".into() }),
        }
    }
}

/// One side of one module: `model.layers.11.mlp.down_proj:out`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The module, by the checkpoint's own path.
    pub module: ModulePath,
    /// Whether it is the module's input or its output.
    pub side: Side,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.module, self.side)
    }
}

impl FromStr for Site {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (module, side) = text.rsplit_once(':').ok_or_else(|| Error::Name {
            what: "site",
            text: text.into(),
            problem: "expected MODULE:out or MODULE:in, such as L11.mlp.down_proj:out".into(),
        })?;
        Ok(Site { module: module.parse()?, side: side.parse()? })
    }
}

/// One channel of a site: `model.layers.11.mlp.down_proj:out:507`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neuron {
    /// The module, and which side of it.
    pub site: Site,
    /// Index on the channel axis.
    pub channel: usize,
}

impl Neuron {
    /// `L11.mlp.down_proj:out:507`.
    pub fn short(&self) -> String {
        format!("{}:{}:{}", self.site.module.short(), self.site.side, self.channel)
    }
}

impl fmt::Display for Neuron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.site, self.channel)
    }
}

impl FromStr for Neuron {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Name {
            what: "neuron",
            text: text.into(),
            problem: "expected MODULE:out:CHANNEL or MODULE:in:CHANNEL, such as L11.mlp.down_proj:out:507".into(),
        };
        let (site, channel) = text.rsplit_once(':').ok_or_else(bad)?;
        let digits = !channel.is_empty() && channel.bytes().all(|b| b.is_ascii_digit());
        if !digits || !site.contains(':') {
            return Err(bad());
        }
        Ok(Neuron { site: site.parse()?, channel: channel.parse().map_err(|_| bad())? })
    }
}

/// Refuses a list that names a neuron twice: what is to be done to it would be unclear.
///
/// # Errors
/// It does.
pub fn check_distinct<'a>(neurons: impl IntoIterator<Item = &'a Neuron>) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    match neurons.into_iter().find(|neuron| !seen.insert(*neuron)) {
        None => Ok(()),
        Some(twice) => {
            Err(Error::Name { what: "neuron", text: twice.to_string(), problem: "is given twice; give it once".into() })
        }
    }
}

/// What is done to a neuron, at every position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Its value becomes 0, whatever it was (NaN and infinities too).
    Zero,
    /// Its value is multiplied by β.
    Scale(f64),
    /// Its value becomes this one, such as its mean (arXiv 2503.22329).
    Set(f64),
}

/// An action on a neuron.
#[derive(Debug, Clone, PartialEq)]
pub struct Intervention {
    /// The channel that is changed, at every position.
    pub neuron: Neuron,
    /// What becomes of its activation.
    pub action: Action,
}

impl Intervention {
    /// The neuron is zeroed: the paper's mask.
    pub fn zero(neuron: Neuron) -> Intervention {
        Intervention { neuron, action: Action::Zero }
    }
}

/// Names travel as text in JSON.
macro_rules! serialize_as_text {
    ($($name:ty),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serialize_as_text!(ModulePath, Side, Site, Neuron);
pub(crate) use serialize_as_text;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn neurons_print_and_parse_back(
            layer in 0usize..200, module in "[a-z_]{1,9}(\\.[a-z0-9_]{1,9}){0,3}", out: bool, channel: usize,
        ) {
            let side = if out { Side::Out } else { Side::In };
            let module: ModulePath = format!("{LAYERS}{layer}.{module}").parse().unwrap();
            let neuron = Neuron { site: Site { module, side }, channel };
            prop_assert_eq!(neuron.to_string().parse::<Neuron>().unwrap(), neuron.clone());
            prop_assert_eq!(neuron.short().parse::<Neuron>().unwrap(), neuron.clone());
            prop_assert_eq!(neuron.site.module.layer(), Some(layer));
            let json = serde_json::to_string(&neuron).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Neuron>(&json).unwrap(), &neuron);
            // What files of wrappers and of base models call it.
            let path = neuron.to_string();
            for prefix in ["language_model.model.", "model.language_model.", "language_model.", ""] {
                let stored = path.replacen("model.", prefix, 1);
                prop_assert_eq!(&stored.parse::<Neuron>().unwrap(), &neuron, "{}", stored);
            }
        }
    }

    #[test]
    fn a_module_outside_the_layers_keeps_its_name() {
        let norm: ModulePath = "model.norm".parse().unwrap();
        assert_eq!((norm.layer(), norm.short().as_str(), norm.in_layer()), (None, "model.norm", "model.norm"));
    }

    #[test]
    fn a_wrappers_names_are_those_of_its_text_model() {
        let path = |text: &str| text.parse::<ModulePath>().unwrap().to_string();
        for (stored, alone) in [
            ("language_model.lm_head", "lm_head"),
            ("language_model.model.embed_tokens", "model.embed_tokens"),
            ("model.language_model.norm", "model.norm"),
            ("norm", "model.norm"),
            ("embed_tokens", "model.embed_tokens"),
            ("model.vision_tower.layers.0.norm", "model.vision_tower.layers.0.norm"),
            ("norms.0", "norms.0"),
            ("lm_head", "lm_head"),
        ] {
            assert_eq!(path(stored), alone);
            assert_eq!(path(&path(stored)), alone);
        }
    }

    #[test]
    fn what_is_not_a_neuron_is_refused() {
        for text in [
            "",
            "L1",
            "L1.mlp:out",
            "L1.mlp:up:3",
            "L1.mlp:out:-3",
            "L1.mlp:out:+3",
            "L1.mlp:out:",
            "L1..x:in:0",
            "L1.mlp:out:99999999999999999999",
            "a b:in:0",
            "../x:in:0",
            ":out:0",
        ] {
            assert!(text.parse::<Neuron>().is_err(), "{text}");
        }
    }
}
