//! The checkpoint against what is known of it: its fingerprint, its signature.

use super::Measured;
use crate::architecture::place::Axis;
use crate::checkpoint::Opened;
use crate::document::Document;
use crate::error::{Error, Result};
use crate::integrity::difference::{Difference, Repacked};
use crate::integrity::fingerprint::Fingerprint;
use crate::integrity::lint::Location;
use crate::integrity::signature::{self, DifferenceKind, SignatureReport, SignatureVerdict, Trust};
use crate::integrity::verify;
use crate::progress::Progress;
use crate::rules::RuleId;
use crate::rules::finding::RuleObservation;
use serde::Serialize;
use std::path::Path;

/// The comparison with a fingerprint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Integrity {
    /// The fingerprint's file.
    pub fingerprint: String,
    /// Every byte of every file is as it was.
    pub intact: bool,
    /// Every tensor is as it was, wherever it lies.
    pub same_tensors: bool,
    /// How many files were compared.
    pub files: usize,
    /// How many tensors were compared.
    pub tensors: usize,
    /// How many bytes of the files were read and digested.
    pub bytes: u64,
}

/// A fingerprint and its file.
pub fn read(path: &Path) -> Result<(&Path, Fingerprint)> {
    Ok((path, Fingerprint::read(path)?))
}

/// Compares a folder with its fingerprint.
pub fn fingerprint(
    opened: &Opened,
    path: &Path,
    before: &Fingerprint,
    progress: &dyn Progress,
) -> Result<Measured<Integrity>> {
    if opened.is_gguf() {
        return Err(Error::file(opened.root(), "is a GGUF; fingerprints are of model folders"));
    }
    let found = verify::verify(opened, before, Some(path), None, progress)?;
    // Where the tensor lay when the fingerprint was taken.
    let lay_in = |name: &str| {
        let weight = before.weights.iter().find(|weight| weight.name == name);
        let name = weight.and_then(|weight| weight.stored.first()).map_or(name, String::as_str);
        let tensor = before.tensors.iter().find(|tensor| tensor.name == name);
        Location::file(tensor.map_or("", |tensor| &tensor.file))
    };
    let mut seen = Vec::new();
    let mut not_examined = Vec::new();
    for difference in &found.differences {
        let (rule, location) = match difference {
            Difference::NotExamined { path, problem } => {
                not_examined.push(format!("{}: {problem}", path.escape_debug()));
                continue;
            }
            Difference::FileMissing { path } => (RuleId::FingerprintFileMissing, Location::file(path)),
            Difference::FileExtra { path } => (RuleId::FingerprintFileExtra, Location::file(path)),
            Difference::FileChanged { path, same_tensors: true, .. } => {
                (RuleId::FingerprintFileRewritten, Location::file(path))
            }
            Difference::FileChanged { path, .. } => (RuleId::FingerprintFileChanged, Location::file(path)),
            Difference::TensorMissing { name } => (RuleId::FingerprintTensorMissing, lay_in(name).tensor(name)),
            Difference::TensorExtra { name, file } => {
                (RuleId::FingerprintTensorExtra, Location::file(file).tensor(name))
            }
            Difference::TensorRenamed { before, after } => {
                (RuleId::FingerprintTensorRenamed, lay_in(before).tensor(after))
            }
            Difference::TensorReshaped { name, .. } | Difference::WeightRepacked(Repacked { name, .. }) => {
                (RuleId::FingerprintTensorReshaped, lay_in(name).tensor(name))
            }
            Difference::TensorMoved { name, after, .. } => {
                (RuleId::FingerprintTensorMoved, Location::file(after).tensor(name))
            }
            Difference::FileLinked { path, .. } => (RuleId::FingerprintFileLinked, Location::file(path)),
            Difference::FileDamaged { path, .. } => (RuleId::FingerprintFileDamaged, Location::file(path)),
            Difference::TensorReplaced { name, .. } => (RuleId::FingerprintTensorChanged, lay_in(name).tensor(name)),
            Difference::TensorChanged(change) => {
                let place = lay_in(&change.name).tensor(&change.name);
                let changed = |axis| if axis == Axis::Column { change.columns_changed } else { change.rows_changed };
                let place = match change.lines.as_slice() {
                    [line] if changed(line.axis) == 1 => place.at(line.axis, line.index as u64),
                    _ => place,
                };
                (RuleId::FingerprintTensorChanged, place)
            }
        };
        let evidence = serde_json::to_value(difference).unwrap_or_default();
        seen.push(RuleObservation { rule, location, message: short(difference), evidence });
    }
    let result = Integrity {
        fingerprint: path.to_string_lossy().into_owned(),
        intact: found.intact,
        same_tensors: found.same_tensors,
        files: found.files,
        tensors: found.tensors,
        bytes: found.bytes,
    };
    Ok(Measured { seen, not_examined, result })
}

/// What differs, on one line.
fn short(difference: &Difference) -> String {
    const LINES: usize = 4;
    let text = difference.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let more = lines.len().saturating_sub(LINES);
    let shown = lines[..lines.len() - more].join("; ");
    if more > 0 { format!("{shown}; and {more} more") } else { shown }
}

/// Verifies a model's signature; `at` is where it lies if not at its usual place.
pub fn signature(
    model: &Path,
    at: Option<&Path>,
    trust: &Trust,
    ignore_unsigned_files: bool,
    progress: &dyn Progress,
) -> Result<Measured<Document<SignatureReport>>> {
    let place = at.map_or_else(|| signature::default_path(model), Path::to_owned);
    let document = signature::verify(model, &place, trust, ignore_unsigned_files, progress)?;
    let report = &document.result;
    let mut seen = Vec::new();
    if report.verdict == SignatureVerdict::Refused {
        let why = report.refusal.as_deref().unwrap_or("it is not accepted");
        let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let message = format!("the signature is refused: {why}");
        seen.push(RuleObservation {
            rule: RuleId::SignatureRefused,
            location: Location::file(name),
            message,
            evidence: serde_json::Value::Null,
        });
    }
    for difference in &report.differences {
        let rule = match difference.kind {
            DifferenceKind::Missing => RuleId::SignatureFileMissing,
            DifferenceKind::Extra => RuleId::SignatureFileExtra,
            DifferenceKind::Changed => RuleId::SignatureFileChanged,
            DifferenceKind::Irregular => RuleId::SignatureFileIrregular,
            DifferenceKind::LeftOut => RuleId::SignatureWeightsLeftOut,
        };
        let file = if difference.path == "." { String::new() } else { difference.path.clone() };
        let (location, message) = (Location::file(file), difference.problem.clone());
        seen.push(RuleObservation { rule, location, message, evidence: serde_json::Value::Null });
    }
    for left in &report.left_out {
        seen.push(RuleObservation {
            rule: RuleId::SignatureLeftOut,
            location: Location::file(&left.path),
            message: left.why.as_str().to_owned(),
            evidence: serde_json::to_value(left).unwrap_or_default(),
        });
    }
    Ok(Measured { seen, not_examined: Vec::new(), result: document })
}
