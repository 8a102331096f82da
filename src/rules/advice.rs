//! What to do about a finding.

use super::{Measurement, RuleId, rule};
use crate::integrity::lint::Check;

/// Of rules for which what is said of their measurement would be wrong.
const BY_RULE: [(&[RuleId], &str); 9] = [
    (
        &[rule!("base-perplexity-not-finite"), rule!("base-perplexity-high"), rule!("base-perplexity-guessing")],
        "Compute the perplexity of the same text with another library. If it is as bad there, do not release the model: \
         fetch the weights and the tokenizer again, or look for what changed them with achilles-audit diff.",
    ),
    (
        &[rule!("critical-set-absent")],
        "Search further (a larger --max-neurons, --ranking noise), and compare the model with the one it was made from \
         (--base).",
    ),
    (
        &[
            rule!("base-tokenizer-changed"),
            rule!("base-tokenizer-differs"),
            rule!("base-template-changed"),
            rule!("base-generation-changed"),
            rule!("base-special-tokens-changed"),
        ],
        "Compare the two models' files. Where this model's own are meant, waive it; else put the base's back.",
    ),
    (
        &[rule!("worse-than-base")],
        "See with achilles-audit diff what changed in the weights, and with achilles-audit compare which critical \
         neurons do not act as before. Where the loss is known and meant, waive it.",
    ),
    (
        &[Check::LesionReceipt.rule(), Check::LesionSign.rule(), Check::LesionHint.rule()],
        "Compare with the model that this was made from: achilles-audit diff. If a neuron was changed and is not meant \
         to be, put the weights back: achilles-audit unpatch or restore, or fetch them again.",
    ),
    (
        &[
            Check::LesionNotExamined.rule(),
            Check::TemplateNotTried.rule(),
            Check::ConfigUnknown.rule(),
            Check::PackedFile.rule(),
            Check::ConvertedModel.rule(),
            Check::OtherWeights.rule(),
            Check::FolderNotExamined.rule(),
            Check::AdapterBeside.rule(),
        ],
        "This was not examined. Look at it by other means, remove it if it is not needed, or waive it.",
    ),
    (
        &[
            Check::NotDownloaded.rule(),
            Check::UnfinishedDownload.rule(),
            Check::FileTruncated.rule(),
            Check::FileUnreadable.rule(),
            Check::BlobDigest.rule(),
        ],
        "Fetch the file again from a source you trust.",
    ),
    (
        &[Check::LeftoverFile.rule()],
        "Run achilles-audit unpatch, which finishes what was begun, or remove the file if no run of the tool is under way.",
    ),
    (
        &[
            Check::TemplateDropsText.rule(),
            Check::TemplateDependsOnText.rule(),
            Check::TemplateDependsOnTag.rule(),
            Check::TemplateAddsText.rule(),
            Check::TemplateRefuses.rule(),
            Check::PromptPrefix.rule(),
            Check::GenerationSilenced.rule(),
            Check::EosOrdinaryToken.rule(),
            Check::ContextShort.rule(),
        ],
        "Read the setting or the template that is named, and correct it in the file; where it is meant to be so, waive it.",
    ),
];

impl RuleId {
    /// What to do about a finding of this rule.
    pub fn advice(self) -> &'static str {
        let own = BY_RULE.iter().find(|(rules, _)| rules.contains(&self));
        own.map_or_else(|| of_measurement(self.measurement()), |(_, advice)| advice)
    }
}

fn of_measurement(measurement: Measurement) -> &'static str {
    match measurement {
        Measurement::Lint => {
            "Fetch the file again from a source you trust, write it again, or remove it; where it is meant to be so, \
             waive it."
        }
        Measurement::CriticalSet => {
            "Keep the weights of the critical set apart with achilles-audit vault, to put them back if they are \
             damaged; where such a set is not acceptable, do not release the model."
        }
        Measurement::Fingerprint => {
            "Find out who changed it: achilles-audit verify lists all that differs. Fetch the checkpoint again from its \
             source or, where the change is meant, take a new fingerprint."
        }
        Measurement::Signature => {
            "Fetch the checkpoint again from whoever signed it or, where the change is meant, have it signed again."
        }
        Measurement::Base => {
            "See with achilles-audit compare what is shared, and with achilles-audit diff what changed. Where the set is \
             shared, what breaks the base breaks this: protect both. Where it is not, find out who changed it."
        }
        Measurement::Baseline => {
            "See with achilles-audit monitor check which sites are outside, and with achilles-audit diff what changed \
             in the weights; where the change is meant, record a new baseline."
        }
        Measurement::Waivers => "Correct the rule file: renew the waiver with a reason, or remove it.",
    }
}

#[cfg(test)]
mod tests {
    use super::BY_RULE;
    use crate::rules::{RuleId, rule};
    use std::collections::BTreeSet;

    #[test]
    fn a_rule_has_one_advice() {
        let own: Vec<RuleId> = BY_RULE.iter().flat_map(|(rules, _)| rules.iter().copied()).collect();
        assert_eq!(own.iter().collect::<BTreeSet<_>>().len(), own.len());
        for id in RuleId::all() {
            assert!(id.advice().ends_with('.'), "{id}");
        }
        assert!(rule!("base-perplexity-high").advice().contains("another library"));
        assert!(rule!("base-set-shared").advice().contains("protect both"));
    }
}
