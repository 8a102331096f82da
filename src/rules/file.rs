//! A rule file as it is written, and where in it something stands.

use super::{Measurement, Thresholds, WhenNotExamined};
use crate::rules::finding::Severity;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A rule file; what it says makes sense by itself, but was not compared with the rules there are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    #[serde(rename = "schema")]
    pub _schema: Form,
    #[serde(default)]
    pub extends: Extends,
    pub fail_on: Option<Severity>,
    pub not_examined: Option<WhenNotExamined>,
    pub require: Option<Vec<Required>>,
    pub longest_waiver_days: Option<u32>,
    #[serde(default, deserialize_with = "pairs")]
    pub rules: Vec<(String, RuleText)>,
    #[serde(default)]
    pub waivers: Vec<WaiverText>,
}

#[derive(Debug, Deserialize)]
pub enum Form {
    #[serde(rename = "achilles-audit/rules/v1")]
    V1,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extends {
    #[default]
    Default,
    Release,
}

/// Measurements that can be asked for.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Required {
    Lint,
    CriticalSet,
    Fingerprint,
    Signature,
    Base,
    Baseline,
}

impl From<Required> for Measurement {
    fn from(required: Required) -> Measurement {
        match required {
            Required::Lint => Measurement::Lint,
            Required::CriticalSet => Measurement::CriticalSet,
            Required::Fingerprint => Measurement::Fingerprint,
            Required::Signature => Measurement::Signature,
            Required::Base => Measurement::Base,
            Required::Baseline => Measurement::Baseline,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    pub severity: Option<Level>,
    pub measurement: Option<Measurement>,
    pub thresholds: Option<Thresholds>,
    pub why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warning,
    Note,
    Off,
}

impl Level {
    pub fn severity(self) -> Option<Severity> {
        match self {
            Level::Error => Some(Severity::Error),
            Level::Warning => Some(Severity::Warning),
            Level::Note => Some(Severity::Note),
            Level::Off => None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaiverText {
    pub rule: String,
    pub location: String,
    pub reason: String,
    pub expires: String,
}

/// Deeper than any rule file; what libyaml does with brackets takes the square of their depth.
const DEEPEST: usize = 1000;

/// Reads YAML; a mistake is told with its line and column.
pub fn read(text: &str) -> Result<RuleFile, String> {
    // Brackets in texts are counted as well, of which few stay open.
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            let line = 1 + text[..at].matches('\n').count();
            return Err(format!("line {line}: over {DEEPEST} brackets are open, expected a rule file"));
        }
    }
    serde_yaml::from_str(text).map_err(|e| told(&e))
}

/// A problem with what stands at `path`, told with its line and column.
pub fn at(text: &str, path: &[Step<'_>], problem: impl Into<String>) -> String {
    let problem = problem.into();
    let walk = Walk { path, problem: &problem };
    match walk.deserialize(serde_yaml::Deserializer::from_str(text)) {
        Err(e) => told(&e),
        Ok(()) => problem,
    }
}

/// The line, from 1, on which what stands at `path` begins.
pub fn line(text: &str, path: &[Step<'_>]) -> usize {
    let walk = Walk { path, problem: "" }.deserialize(serde_yaml::Deserializer::from_str(text));
    walk.err().and_then(|e| e.location()).map_or(1, |l| l.line())
}

/// A way into a YAML document.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// To the value of a key.
    Value(&'a str),
    /// To the key itself.
    Key(&'a str),
    /// To an entry of a list.
    Entry(usize),
}

/// The location first, then what is wrong.
fn told(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    let Some(location) = error.location() else { return text };
    let place = format!(" at line {} column {}", location.line(), location.column());
    let plain = text.strip_suffix(&place).unwrap_or(&text).replace("unknown field", "unknown key");
    let plain = plain.replace("unknown variant", "unknown value").replace("duplicate field", "repeated key");
    let plain = plain
        .replace("missing field `schema`", "missing key `schema`, expected `schema: achilles-audit/rules/v1`")
        .replace("missing field", "missing key")
        .replace('\n', " ");
    format!("line {}, column {}: {plain}", location.line(), location.column())
}

fn pairs<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, RuleText)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, RuleText)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("rules by their ids, such as `zero-row: {severity: error}`")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    from.deserialize_map(Pairs)
}

/// Goes to a place and fails there: the parser then tells where that is.
#[derive(Clone, Copy)]
struct Walk<'a> {
    path: &'a [Step<'a>],
    problem: &'a str,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.path.split_first() else { return Err(A::Error::custom(self.problem)) };
        let (wanted, is_key) = match step {
            Step::Value(key) => (*key, false),
            Step::Key(key) => (*key, true),
            Step::Entry(_) => return Err(A::Error::custom(self.problem)),
        };
        while let Some(found) = map.next_key_seed(KeyWalk { wanted, fail: is_key.then_some(self.problem) })? {
            match found {
                true => map.next_value_seed(Walk { path: rest, ..self })?,
                false => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((Step::Entry(wanted), rest)) = self.path.split_first() else {
            return Err(A::Error::custom(self.problem));
        };
        for _ in 0..*wanted {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Walk { path: rest, ..self })?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom(self.problem))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(E::custom(self.problem))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Err(E::custom(self.problem))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        Err(E::custom(self.problem))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        Err(E::custom(self.problem))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(E::custom(self.problem))
    }
}

/// Whether a key is the wanted one; fails there where it is the key that is at fault.
struct KeyWalk<'a> {
    wanted: &'a str,
    fail: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for KeyWalk<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyWalk<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        match (key == self.wanted, self.fail) {
            (true, Some(problem)) => Err(E::custom(problem)),
            (found, _) => Ok(found),
        }
    }
}
