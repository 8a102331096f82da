//! What to do about a finding.

use super::{Measurement, RuleId};
use crate::integrity::lint::Check;

impl RuleId {
    /// What to do about a finding of this rule.
    pub fn advice(self) -> &'static str {
        match self {
            RuleId::BasePerplexityNotFinite | RuleId::BasePerplexityHigh | RuleId::BasePerplexityGuessing => {
                "Compute the perplexity of the same text with another library. If it is as bad there, do not \
                 release the model: fetch the weights and the tokenizer again, or look for what changed them with \
                 achilles-audit diff."
            }
            RuleId::CriticalSetAbsent => {
                "Search further (a larger --max-neurons, --ranking noise), and compare the model with the one it \
                 was made from (--base)."
            }
            RuleId::BaseTokenizerChanged
            | RuleId::BaseTokenizerDiffers
            | RuleId::BaseTemplateChanged
            | RuleId::BaseGenerationChanged
            | RuleId::BaseSpecialTokensChanged => {
                "Compare the two models' files. Where this model's own are meant, waive it; else put the base's \
                 back."
            }
            RuleId::CriticalNeuronScaled => {
                "Compare with the model that this was made from: achilles-audit diff. If the neuron's weights were \
                 changed and are not meant to be, put them back: achilles-audit unpatch or restore, or fetch them again."
            }
            RuleId::WorseThanBase => {
                "See with achilles-audit diff what changed in the weights, and with achilles-audit compare which \
                 critical neurons do not act as before. Where the loss is known and meant, waive it."
            }
            RuleId::Lint(Check::LesionReceipt | Check::LesionSign | Check::LesionHint) => {
                "Compare with the model that this was made from: achilles-audit diff. If a neuron was changed and \
                 is not meant to be, put the weights back: achilles-audit unpatch or restore, or fetch them again."
            }
            RuleId::Lint(Check::HardenedReceipt) => {
                "Nothing, where this release is meant to be hardened; verify-patch proves that nothing else was changed. \
                 To take the spares out: achilles-audit unpatch."
            }
            RuleId::Lint(
                Check::LesionNotExamined
                | Check::PartNotExamined
                | Check::TemplateNotTried
                | Check::ConfigUnknown
                | Check::ConfigRefused
                | Check::PackedFile
                | Check::ConvertedModel
                | Check::OtherWeights
                | Check::FolderNotExamined
                | Check::Script
                | Check::NestedModel
                | Check::AdapterBeside
                | Check::WeightsAlone,
            ) => "This was not examined. Look at it by other means, remove it if it is not needed, or waive it.",
            RuleId::Lint(
                Check::NotDownloaded
                | Check::UnfinishedDownload
                | Check::FileTruncated
                | Check::FileUnreadable
                | Check::BlobDigest
                | Check::SnapshotFile
                | Check::PartMissing
                | Check::ComponentMissing
                | Check::ComponentIncomplete
                | Check::PeerMissing,
            ) => "Fetch the file again from a source you trust.",
            RuleId::Lint(Check::AdapterAlone) => "Give the adapter's base: achilles-audit lint ADAPTER --base MODEL.",
            RuleId::Lint(Check::AdapterUntrained | Check::AdapterTarget | Check::AdapterMisfit) => {
                "Save the adapter again from the run that trained it, with the config and the base that belong to it."
            }
            RuleId::Lint(Check::SecretFile) => {
                "Take it out of the folder, and out of what was published; replace the key or password, which others \
                 may have read."
            }
            RuleId::Lint(
                Check::DtypeStored
                | Check::RotaryBuffer
                | Check::PeerDtype
                | Check::PackingBroken
                | Check::PackingLeftOver
                | Check::PackedIgnored
                | Check::ScaleValue
                | Check::ScaleDiffers,
            ) => {
                "Write the checkpoint again from the model that it was made from, with the config that belongs to its \
                 weights."
            }
            RuleId::Lint(Check::ConsolidatedSame) => "Nothing has to be done; remove the form that nobody loads.",
            RuleId::Lint(Check::LeftoverFile) => {
                "Run achilles-audit unpatch, which finishes what was begun, or remove the file if no run of the \
                 tool is under way."
            }
            RuleId::Lint(
                Check::TemplateDropsText
                | Check::TemplateDependsOnText
                | Check::TemplateDependsOnTag
                | Check::TemplateAddsText
                | Check::TemplateRefuses
                | Check::TemplateIgnoresSystem
                | Check::TemplateUntried
                | Check::PromptPrefix
                | Check::GenerationSilenced
                | Check::EosOrdinaryToken
                | Check::ContextShort,
            ) => {
                "Read the setting or the template that is named, and correct it in the file; where it is meant to \
                 be so, waive it."
            }
            other => of_measurement(other.measurement()),
        }
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
    use crate::rules::RuleId;

    #[test]
    fn every_rule_has_advice_of_its_own_kind() {
        for id in RuleId::all() {
            assert!(id.advice().ends_with('.'), "{id}");
        }
        assert!(RuleId::BasePerplexityHigh.advice().contains("another library"));
        assert!(RuleId::BaseSetShared.advice().contains("protect both"));
    }
}
