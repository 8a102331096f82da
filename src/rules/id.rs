//! Which rule.

use super::Measurement;
use crate::integrity::lint::Check;
use serde::{Serialize, Serializer};
use std::fmt;

macro_rules! rule_ids {
    ($($measurement:ident: $($variant:ident $id:literal),+;)+) => {
        /// A rule's identity: what rule files, reports and waivers call it, and what it judges. Every rule is a variant;
        /// rules/default.yaml says how it judges.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum RuleId {
            /// Of what one of lint's checks finds.
            Lint(Check),
            $($(#[doc = concat!("`", $id, "`")] $variant,)+)+
        }

        /// Those that are not lint's.
        const OTHERS: &[RuleId] = &[$($(RuleId::$variant),+),+];

        impl RuleId {
            /// Its name, in kebab case.
            pub fn as_str(self) -> &'static str {
                match self {
                    RuleId::Lint(check) => check.id(),
                    $($(RuleId::$variant => $id,)+)+
                }
            }

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
        CriticalSetSmall "critical-set-small",
        CriticalSetAbsent "critical-set-absent",
        CriticalNeuronScaled "critical-neuron-scaled",
        BasePerplexityNotFinite "base-perplexity-not-finite",
        BasePerplexityHigh "base-perplexity-high",
        BasePerplexityGuessing "base-perplexity-guessing";
    Fingerprint:
        FingerprintFileMissing "fingerprint-file-missing",
        FingerprintFileExtra "fingerprint-file-extra",
        FingerprintFileChanged "fingerprint-file-changed",
        FingerprintFileLinked "fingerprint-file-linked",
        FingerprintFileDamaged "fingerprint-file-damaged",
        FingerprintFileRewritten "fingerprint-file-rewritten",
        FingerprintTensorMissing "fingerprint-tensor-missing",
        FingerprintTensorExtra "fingerprint-tensor-extra",
        FingerprintTensorRenamed "fingerprint-tensor-renamed",
        FingerprintTensorReshaped "fingerprint-tensor-reshaped",
        FingerprintTensorMoved "fingerprint-tensor-moved",
        FingerprintTensorChanged "fingerprint-tensor-changed";
    Signature:
        SignatureRefused "signature-refused",
        SignatureFileMissing "signature-file-missing",
        SignatureFileExtra "signature-file-extra",
        SignatureFileChanged "signature-file-changed",
        SignatureFileIrregular "signature-file-irregular",
        SignatureWeightsLeftOut "signature-weights-left-out",
        SignatureLeftOut "signature-left-out";
    Base:
        BaseSetShared "base-set-shared",
        BaseSetLocationOnly "base-set-location-only",
        BaseSetMoved "base-set-moved",
        BaseSetUnrelated "base-set-unrelated",
        BaseNeuronChanged "base-neuron-changed",
        BaseTokenizerChanged "base-tokenizer-changed",
        BaseTokenizerDiffers "base-tokenizer-differs",
        BaseTemplateChanged "base-template-changed",
        BaseGenerationChanged "base-generation-changed",
        BaseSpecialTokensChanged "base-special-tokens-changed",
        WorseThanBase "worse-than-base";
    Baseline:
        ActivationsOutside "activations-outside",
        ActivationsNotFinite "activations-not-finite";
    Waivers:
        WaiverExpired "waiver-expired",
        WaiverTooLong "waiver-too-long",
        WaiverUnused "waiver-unused";
}

impl RuleId {
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
