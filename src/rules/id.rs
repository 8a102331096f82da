//! Which rule.

use super::Measurement;
use crate::integrity::lint::Check;
use serde::{Serialize, Serializer};
use std::fmt;
use strum::IntoStaticStr;

macro_rules! rule_ids {
    ($($measurement:ident: $($variant:ident),+;)+) => {
        /// A rule's identity: what rule files, reports and waivers call it, and what it judges. Every rule is a variant,
        /// named in kebab case; rules/default.yaml says how it judges.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr)]
        #[strum(serialize_all = "kebab-case")]
        #[non_exhaustive]
        pub enum RuleId {
            /// Of what one of lint's checks finds.
            #[strum(transparent)]
            Lint(Check),
            $($(#[doc = concat!("See rules/default.yaml: it judges `", stringify!($measurement), "`.")] $variant,)+)+
        }

        /// Those that are not lint's.
        const OTHERS: &[RuleId] = &[$($(RuleId::$variant),+),+];

        impl RuleId {
            /// What the rule judges.
            pub fn measurement(self) -> Measurement {
                match self {
                    RuleId::Lint(_) => Measurement::Lint,
                    $($(RuleId::$variant)|+ => Measurement::$measurement,)+
                }
            }
        }
    };
}

rule_ids! {
    CriticalSet:
        CriticalSetSmall,
        CriticalSetAbsent,
        CriticalNeuronScaled,
        BasePerplexityNotFinite,
        BasePerplexityHigh,
        BasePerplexityGuessing;
    Fingerprint:
        FingerprintFileMissing,
        FingerprintFileExtra,
        FingerprintFileChanged,
        FingerprintFileLinked,
        FingerprintFileDamaged,
        FingerprintFileRewritten,
        FingerprintTensorMissing,
        FingerprintTensorExtra,
        FingerprintTensorRenamed,
        FingerprintTensorReshaped,
        FingerprintTensorMoved,
        FingerprintTensorChanged;
    Signature:
        SignatureRefused,
        SignatureFileMissing,
        SignatureFileExtra,
        SignatureFileChanged,
        SignatureFileIrregular,
        SignatureWeightsLeftOut,
        SignatureLeftOut;
    Base:
        BaseSetShared,
        BaseSetLocationOnly,
        BaseSetMoved,
        BaseSetUnrelated,
        BaseNeuronChanged,
        BaseTokenizerChanged,
        BaseTokenizerDiffers,
        BaseTemplateChanged,
        BaseGenerationChanged,
        BaseSpecialTokensChanged,
        WorseThanBase;
    Baseline:
        ActivationsOutside,
        ActivationsNotFinite;
    Waivers:
        WaiverExpired,
        WaiverTooLong,
        WaiverUnused;
}

impl RuleId {
    /// Its name, in kebab case.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Every rule that the tool can find something by: what default.yaml has to list.
    pub fn all() -> impl Iterator<Item = RuleId> {
        Check::ALL.iter().map(|check| RuleId::Lint(*check)).chain(OTHERS.iter().copied())
    }

    /// The rule of this name, if there is one.
    pub fn of(name: &str) -> Option<RuleId> {
        RuleId::all().find(|id| id.as_str() == name)
    }

    /// Why it matters, where that stands beside the check and not in default.yaml.
    pub(super) fn why(self) -> Option<&'static str> {
        match self {
            RuleId::Lint(check) => Some(check.why()),
            _ => None,
        }
    }
}

impl From<Check> for RuleId {
    fn from(check: Check) -> RuleId {
        RuleId::Lint(check)
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
    let nearest = RuleId::all().map(|id| (strsim::levenshtein(name, id.as_str()), id.as_str())).min();
    let hint = match nearest {
        Some((distance, nearest)) if distance <= (name.len() / 3).min(3) => format!("did you mean `{nearest}`? "),
        _ => String::new(),
    };
    format!("unknown rule `{name}`; {hint}`achilles-audit rules list` lists them")
}
