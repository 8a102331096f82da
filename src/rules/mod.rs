//! Rules: which measurements are made, how bad what they show is, and what is let pass.
//!
//! A rule file is read ([`file`]) and then checked; a [`Rules`] is sound.

mod advice;
mod check;
mod file;
pub mod finding;
mod id;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;
mod thresholds;

pub use crate::clock::Date;
pub use finding::{Finding, Severity};
pub use id::{RuleId, unknown};
pub use thresholds::Thresholds;

use crate::checkpoint::sha256_hex;
use crate::error::{Error, Result};
use crate::files;
use globset::GlobSet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use strum::{EnumIter, IntoEnumIterator, IntoStaticStr};

/// The JSON Schema of rule files, made of the types that read them.
pub const SCHEMA: &str = include_str!("../../rules/schema.json");

/// The longest rule file that is read, in bytes.
const LARGEST: u64 = 1 << 18;

/// What scan can measure. Another one is another variant here, rules for it in rules/default.yaml, and a file in `audit`
/// that makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, EnumIter, IntoStaticStr)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
pub enum Measurement {
    /// The files, without running the model.
    Lint,
    /// The model's perplexity, and which neurons it collapses without.
    CriticalSet,
    /// The checkpoint against its fingerprint.
    Fingerprint,
    /// The checkpoint against its signature.
    Signature,
    /// The critical set beside that of the model it was made from.
    Base,
    /// The activations beside what they were before.
    Baseline,
    /// The waivers of the rule file against what was found.
    Waivers,
}

impl Measurement {
    /// As rule files and reports call it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Those that a rule file can require. Waivers are always held against what was found.
    fn that_can_be_required() -> impl Iterator<Item = Measurement> {
        Measurement::iter().filter(|measurement| *measurement != Measurement::Waivers)
    }
}

/// Rules that were checked.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `default`, `release`, or the file.
    pub name: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// From here on a finding fails the gate.
    pub fail_on: Severity,
    /// What becomes of a scan that could not examine everything.
    pub not_examined: WhenNotExamined,
    /// What has to be measured.
    pub require: Vec<Measurement>,
    /// How many days ahead a waiver may expire; one that expires later waives nothing.
    pub longest_waiver_days: u32,
    /// Findings that are let pass for a while, in the file's order.
    pub waivers: Vec<Waiver>,
    /// Every rule there is, in the order of default.yaml.
    rules: Vec<Rule>,
    /// Where in it each rule is.
    places: BTreeMap<RuleId, usize>,
}

/// What becomes of a scan that could not examine everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
#[serde(rename_all = "lowercase")]
pub enum WhenNotExamined {
    /// It does not pass.
    Fail,
    /// It passes, and says so.
    Allow,
}

/// How one kind of observation is judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rule {
    /// The identity, by which files and reports name it.
    pub id: RuleId,
    /// The measurement that it judges.
    pub measurement: Measurement,
    /// How bad what it finds is; none: it is off.
    pub severity: Option<Severity>,
    /// From where on it finds something.
    pub thresholds: Thresholds,
    /// Why it matters, in a sentence.
    pub why: String,
}

/// Findings that are let pass for a while.
#[derive(Debug, Clone)]
pub struct Waiver {
    /// The rule whose findings are let pass.
    pub rule: RuleId,
    /// A glob over locations as reports show them.
    pub location: String,
    /// That, compiled.
    glob: GlobSet,
    /// Why, in the words of whoever waives it.
    pub reason: String,
    /// The last day on which it holds, UTC.
    pub expires: Date,
    /// Its line in the file, from 1.
    pub line: usize,
}

impl Waiver {
    /// Whether it names a place, as reports show it.
    pub fn names(&self, place: &str) -> bool {
        self.glob.is_match(place)
    }
}

impl Rules {
    /// The name of those that judge where no others are asked for.
    pub const DEFAULT: &str = "default";

    /// `default` and `release` are built in; anything else is a file.
    ///
    /// # Errors
    /// The file cannot be read, or says what makes no sense: the error points to line and column.
    pub fn find(name: &str) -> Result<Rules> {
        match name {
            Rules::DEFAULT => Rules::default_rules(),
            "release" => Rules::release(),
            path => {
                let path = Path::new(path);
                if !path.exists() {
                    return Err(Error::not_found(path, "is not there; expected default, release or a rule file"));
                }
                let bytes = files::read_at_most(path, LARGEST)?;
                let text = String::from_utf8(bytes).map_err(|_| Error::file(path, "is not UTF-8, expected YAML"))?;
                Rules::parse(&text, path)
            }
        }
    }

    /// rules/default.yaml.
    ///
    /// # Errors
    /// None, as a test shows.
    pub fn default_rules() -> Result<Rules> {
        let text = include_str!("../../rules/default.yaml");
        let rules = check::base(file::read(text), text).map_err(|p| Error::file("rules/default.yaml", p))?;
        Ok(Rules { name: Rules::DEFAULT.into(), sha256: sha256_hex(text.as_bytes()), ..rules })
    }

    /// rules/release.yaml.
    ///
    /// # Errors
    /// None, as a test shows.
    pub fn release() -> Result<Rules> {
        let rules = Rules::parse(include_str!("../../rules/release.yaml"), Path::new("rules/release.yaml"))?;
        Ok(Rules { name: "release".into(), ..rules })
    }

    /// Rules as a file gives them; `path` is for errors and reports.
    ///
    /// # Errors
    /// The text breaks the form of rule files.
    pub fn parse(text: &str, path: &Path) -> Result<Rules> {
        let wrong = |problem: String| Error::file(path, problem);
        let read = file::read(text).map_err(wrong)?;
        let base = match read.extends {
            file::Extends::Default => Rules::default_rules()?,
            file::Extends::Release => Rules::release()?,
        };
        let rules = check::over(base, read, text).map_err(wrong)?;
        Ok(Rules { name: path.display().to_string(), sha256: sha256_hex(text.as_bytes()), ..rules })
    }

    /// Every rule there is, in the order of default.yaml.
    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// Those that are not off and judge one of these measurements.
    pub fn judging(&self, measurements: &[Measurement]) -> Vec<Rule> {
        let judges = |rule: &&Rule| rule.severity.is_some() && measurements.contains(&rule.measurement);
        self.rules.iter().filter(judges).cloned().collect()
    }

    /// How these rules judge by the rule of this id, be it off.
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[self.places[&id]]
    }

    /// The thresholds of the rule of this id.
    pub fn thresholds(&self, id: RuleId) -> Thresholds {
        self.rule(id).thresholds
    }

    /// Whether any rule needs this measurement.
    pub fn judges(&self, measurement: Measurement) -> bool {
        self.rules.iter().any(|r| r.measurement == measurement && r.severity.is_some())
    }
}
