//! Measurements, judged: how bad what was seen is.

use crate::integrity::lint::{Check, Location, Observation};
use serde::Serialize;
use std::fmt;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// Unusual in a checkpoint that is fit to be released: somebody has to look at it.
    Warning,
    /// Broken, dangerous, or not what it is said to be.
    Error,
}

impl Severity {
    /// From here on a command that looks for findings exits with 1.
    pub const FAIL_ON: Severity = Severity::Warning;

    /// `note`, `warning` or `error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A rule's verdict on a measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The rule, in kebab case.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    pub location: Location,
    /// What it is, in a sentence.
    pub message: String,
    /// Why it matters, in a sentence.
    pub why: String,
    /// The figures behind it, an object; null where the message says all.
    pub evidence: serde_json::Value,
}

/// Judges observations by each check's default severity; the worst come first.
pub fn judge(observations: Vec<Observation>) -> Vec<Finding> {
    let finding = |o: Observation| Finding {
        id: o.check.id().into(),
        severity: default_severity(o.check),
        location: o.location,
        message: o.message,
        why: o.check.why().into(),
        evidence: o.evidence,
    };
    let mut findings: Vec<Finding> = observations.into_iter().map(finding).collect();
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    findings
}

/// Whether any finding is bad enough for exit code 1.
pub fn fails(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.severity >= Severity::FAIL_ON)
}

/// What a check means where no rule says otherwise.
pub fn default_severity(check: Check) -> Severity {
    use Check as C;
    match check {
        // Usual in checkpoints that nothing is wrong with.
        C::UnalignedData
        | C::NoFormat
        | C::IndexTotalSize
        | C::ZeroEmbedding
        | C::LesionHint
        | C::LesionNotExamined => Severity::Note,
        // Could run code, or could be read differently by two readers, or was not examined: only if somebody lets it.
        C::PickleFile
        | C::KerasFile
        | C::CustomCode
        | C::TemplateAttr
        | C::LinkOutside
        | C::LesionSign
        | C::OddFileName
        | C::LeftoverFile
        | C::JsonInvalid
        | C::JsonDuplicateKey
        | C::ConfigUnknown
        | C::WeightsAmbiguous
        | C::StrayWeights
        | C::ConsolidatedWeights
        | C::IndexTensorUnlisted
        | C::TensorExtra
        | C::DtypeMix
        | C::Denormal
        | C::ZeroTensor
        | C::ZeroRow
        | C::ZeroColumn => Severity::Warning,
        // The checkpoint breaks its format or lacks a part, a value is no number, or code waits to be run.
        C::TemplateDunder
        | C::LesionReceipt
        | C::SpecialFile
        | C::DanglingLink
        | C::FileUnreadable
        | C::ConfigMissing
        | C::ConfigInvalid
        | C::WeightsMissing
        | C::HeaderInvalid
        | C::HeaderTooLong
        | C::HeaderNotUtf8
        | C::HeaderLeadingBytes
        | C::DuplicateTensor
        | C::DuplicateMetadataKey
        | C::DuplicateTensorField
        | C::UnknownTensorField
        | C::OddTensorName
        | C::TensorSize
        | C::TensorOverflow
        | C::TensorOverlap
        | C::DataHole
        | C::FileTruncated
        | C::TrailingBytes
        | C::IndexInvalid
        | C::IndexDuplicate
        | C::IndexShardPath
        | C::IndexShardMissing
        | C::IndexWrongShard
        | C::IndexTensorMissing
        | C::TensorTwice
        | C::TensorMissing
        | C::TensorShape
        | C::Nan
        | C::Infinite => Severity::Error,
    }
}
