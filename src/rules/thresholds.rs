//! Limits of rules: each is declared here once, with its name, its meaning and the values it can have.

use serde::{Deserialize, Serialize};

macro_rules! thresholds {
    ($($(#[$doc:meta])+ $name:ident: $range:ident,)+) => {
        /// Limits of a rule; each rule has its own of them.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
        #[serde(deny_unknown_fields)]
        pub struct Thresholds {
            $(
                $(#[$doc])+
                #[serde(default, skip_serializing_if = "Option::is_none")]
                #[cfg_attr(test, schemars(with = "f64", transform = |schema: &mut schemars::Schema| Range::$range.in_schema(schema)))]
                pub $name: Option<f64>,
            )+
        }

        impl Thresholds {
            /// All that a rule can have, in the order of [`Thresholds::set`].
            pub(super) fn slots(&mut self) -> impl Iterator<Item = Slot<'_>> {
                [$(Slot { name: stringify!($name), range: Range::$range, value: &mut self.$name }),+].into_iter()
            }
        }
    };
}

thresholds! {
    /// So many neurons at most.
    neurons: Positive,
    /// So much damage (log10 of the perplexity ratio) at least.
    damage: Positive,
    /// So high a perplexity at least.
    perplexity: Positive,
    /// Among so many first of a ranking.
    rank: Positive,
    /// So large a part at least, 1 is all.
    share: Part,
    /// So many times as much at least, and the inverse of it at most.
    ratio: Part,
    /// So improbable at most.
    alpha: Probability,
}

impl Thresholds {
    /// Those that are set, by name.
    pub fn set(mut self) -> Vec<(&'static str, f64)> {
        self.slots().filter_map(|slot| Some((slot.name, (*slot.value)?))).collect()
    }
}

/// One of the limits that a rule can have.
pub(super) struct Slot<'a> {
    /// As rule files call it.
    pub name: &'static str,
    /// What it can be set to.
    pub range: Range,
    /// None: the rule does not have it.
    pub value: &'a mut Option<f64>,
}

/// The values that a threshold can have.
#[derive(Clone, Copy)]
pub(super) enum Range {
    /// Above 0.
    Positive,
    /// Above 0 and at most 1.
    Part,
    /// Above 0 and below 1.
    Probability,
}

impl Range {
    /// Whether a value is in it; an error says what is expected.
    pub fn check(self, value: f64) -> Result<(), &'static str> {
        if !(value.is_finite() && value > 0.0) {
            return Err("a finite number above 0");
        }
        match self {
            Range::Part if value > 1.0 => Err("a number above 0 and at most 1"),
            Range::Probability if value >= 1.0 => Err("a probability between 0 and 1"),
            Range::Positive | Range::Part | Range::Probability => Ok(()),
        }
    }

    #[cfg(test)]
    fn in_schema(self, schema: &mut schemars::Schema) {
        schema.insert("exclusiveMinimum".into(), 0.into());
        match self {
            Range::Positive => None,
            Range::Part => schema.insert("maximum".into(), 1.into()),
            Range::Probability => schema.insert("exclusiveMaximum".into(), 1.into()),
        };
    }
}
