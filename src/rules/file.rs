//! A rule file as it is written, and where in it something stands.

#[cfg(test)]
use super::RuleId;
use super::{Measurement, Thresholds, WhenNotExamined};
use crate::rules::finding::Severity;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// What `achilles-audit scan` measures, how it judges what it finds, and what is let pass.
// What is said of types and keys here is in rules/schema.json, too. What a file says makes sense by itself, but was not
// compared with the rules there are.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(title = "Rules of achilles-audit"))]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    #[serde(rename = "schema")]
    pub _schema: Form,
    /// The built-in rules that this file changes.
    #[serde(default)]
    pub extends: Extends,
    /// From this severity on a finding fails the gate: exit code 1.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Severity"))]
    pub fail_on: Option<Severity>,
    /// Whether a scan that could not examine everything fails: exit code 2.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "WhenNotExamined"))]
    pub not_examined: Option<WhenNotExamined>,
    /// Measurements that have to take place.
    #[serde(default, deserialize_with = "required")]
    #[cfg_attr(test, schemars(schema_with = "super::schema::required"))]
    pub require: Option<Vec<Measurement>>,
    /// How many days ahead a waiver may expire; one that expires later waives nothing.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "u32", range(max = u32::MAX), extend("default" = 366)))]
    pub longest_waiver_days: Option<u32>,
    /// What changes, by the rule's id.
    #[serde(default, deserialize_with = "pairs")]
    #[cfg_attr(test, schemars(schema_with = "super::schema::rules"))]
    pub rules: Vec<(String, RuleText)>,
    /// What is let pass for a while.
    #[serde(default)]
    pub waivers: Vec<WaiverText>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
pub enum Form {
    #[serde(rename = "achilles-audit/rules/v1")]
    V1,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize), schemars(inline))]
#[serde(rename_all = "lowercase")]
pub enum Extends {
    #[default]
    Default,
    Release,
}

/// How a rule judges.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
#[serde(deny_unknown_fields)]
pub struct RuleText {
    /// How bad what the rule finds is.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Level"))]
    pub severity: Option<Level>,
    /// What the rule judges. It cannot be changed.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Measurement"))]
    pub measurement: Option<Measurement>,
    /// From where on the rule finds something; each rule has its own of them.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Thresholds"))]
    pub thresholds: Option<Thresholds>,
    /// Why it matters, in a sentence.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "String", length(min = 1)))]
    pub why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
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

/// Findings that are let pass for a while.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
#[serde(deny_unknown_fields)]
pub struct WaiverText {
    /// The rule's id.
    #[cfg_attr(test, schemars(with = "RuleId"))]
    pub rule: String,
    /// A glob over what reports show under "where". Of a finding about several places it has to match each.
    #[cfg_attr(test, schemars(length(max = LONGEST_GLOB)))]
    pub location: String,
    /// Why it is let pass.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub reason: String,
    /// The last day on which the waiver holds, UTC.
    #[cfg_attr(test, schemars(regex(pattern = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$")))]
    pub expires: String,
}

/// The longest glob of a waiver, in bytes: a file's path and a tensor's name fit twice.
pub const LONGEST_GLOB: usize = 4096;

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

/// Any measurements but the one that always takes place.
fn required<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Measurement>>, D::Error> {
    struct Required(Measurement);
    struct Name;
    impl<'de> Deserialize<'de> for Required {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Required, D::Error> {
            from.deserialize_str(Name).map(Required)
        }
    }
    impl Visitor<'_> for Name {
        type Value = Measurement;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a measurement")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Measurement, E> {
            let found = Measurement::that_can_be_required().find(|measurement| measurement.as_str() == name);
            found.ok_or_else(|| {
                let all = Measurement::that_can_be_required().map(|measurement| format!("`{}`", measurement.as_str()));
                let all = all.collect::<Vec<_>>().join(", ");
                E::custom(format!("unknown value `{name}`, expected one of {all}"))
            })
        }
    }
    let read = Option::<Vec<Required>>::deserialize(from)?;
    Ok(read.map(|all| all.into_iter().map(|Required(measurement)| measurement).collect()))
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
