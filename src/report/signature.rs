//! What verifying a signature found, for people.

use crate::document::Document;
use crate::error::Bytes;
use crate::escape::printable;
use crate::integrity::signature::{SignatureReport, SignatureVerdict};

/// One line for each difference and for each thing that is not vouched for, and one with the answer.
pub fn lines(document: &Document<SignatureReport>) -> String {
    let found = &document.result;
    let mut lines: Vec<String> =
        found.differences.iter().map(|d| format!("{} {}: {}", d.kind.as_str(), d.path, d.problem)).collect();
    lines.extend(found.left_out.iter().map(|left| format!("not vouched for {}: {}", left.path, left.why.as_str())));
    let (files, bytes, differences) = (found.files, Bytes(found.bytes), found.differences.len());
    let signer = found.signer.as_deref().unwrap_or("nobody");
    let (model, signature) = (&document.model.source, &document.model.signature);
    lines.push(match (found.verdict, &found.refusal) {
        (SignatureVerdict::Verified, _) => format!("model {model}: verified: {files} files, {bytes} signed by {signer}"),
        (SignatureVerdict::Differs, _) => {
            format!(
                "model {model}: NOT VERIFIED: {differences} differences from what {signer} signed; {files} files are intact"
            )
        }
        (SignatureVerdict::Refused, refusal) => {
            format!("signature {signature}: NOT VERIFIED: {}", refusal.as_deref().unwrap_or("the signature is not accepted"))
        }
    });
    // A name must not forge a line.
    lines.iter().map(|line| printable(line) + "\n").collect()
}
