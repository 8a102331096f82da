//! Which rule.

use super::{Measurement, OTHER_RULES};
use crate::integrity::lint::Check;
use serde::{Serialize, Serializer};
use std::fmt;

/// A rule by its name; there is none of a name that no rule bears.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(usize);

/// The id of a rule that is not of one of lint's checks, by its name; one that no rule bears does not compile.
macro_rules! rule {
    ($name:literal) => {
        const { $crate::rules::RuleId::other($name) }
    };
}
pub(crate) use rule;

impl RuleId {
    /// How many there are; they are numbered from 0.
    const COUNT: usize = Check::ALL.len() + OTHER_RULES.len();

    /// Every rule that the tool can find something by: what default.yaml has to list.
    pub fn all() -> impl Iterator<Item = RuleId> {
        (0..RuleId::COUNT).map(RuleId)
    }

    /// The rule of this name, if there is one.
    pub fn of(name: &str) -> Option<RuleId> {
        RuleId::all().find(|id| id.as_str() == name)
    }

    /// For `rule!`: an index out of bounds, and with it a compiler's error, where [`OTHER_RULES`] has no such name.
    pub(crate) const fn other(name: &str) -> RuleId {
        let mut at = 0;
        while !is_same(OTHER_RULES[at].0.as_bytes(), name.as_bytes()) {
            at += 1;
        }
        RuleId(Check::ALL.len() + at)
    }

    pub(super) fn number(self) -> usize {
        self.0
    }

    /// In kebab case.
    pub fn as_str(self) -> &'static str {
        match Check::ALL.get(self.0) {
            Some(check) => check.id(),
            None => OTHER_RULES[self.0 - Check::ALL.len()].0,
        }
    }

    /// What the rule judges.
    pub fn measurement(self) -> Measurement {
        match self.0.checked_sub(Check::ALL.len()) {
            None => Measurement::Lint,
            Some(at) => OTHER_RULES[at].1,
        }
    }

    /// Why it matters, where that stands beside the check and not in default.yaml.
    pub(super) fn why(self) -> Option<&'static str> {
        Check::ALL.get(self.0).map(|check| check.why())
    }
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

impl Check {
    /// The rule that judges what it finds.
    pub(crate) const fn rule(self) -> RuleId {
        RuleId(self as usize)
    }
}

impl From<Check> for RuleId {
    fn from(check: Check) -> RuleId {
        check.rule()
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl PartialEq<str> for RuleId {
    fn eq(&self, name: &str) -> bool {
        self.as_str() == name
    }
}

impl PartialEq<&str> for RuleId {
    fn eq(&self, name: &&str) -> bool {
        self.as_str() == *name
    }
}

/// What to say of a name that no rule bears.
pub fn unknown(name: &str) -> String {
    let nearest = RuleId::all().map(|id| (distance(name, id.as_str()), id.as_str())).min();
    let hint = match nearest {
        Some((distance, nearest)) if distance <= (name.len() / 3).min(3) => format!("did you mean `{nearest}`? "),
        _ => String::new(),
    };
    format!("unknown rule `{name}`; {hint}`achilles-audit rules list` lists them")
}

/// Levenshtein's: single-character edits from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(100).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
