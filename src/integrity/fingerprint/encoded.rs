//! Marks of lines, and digests of rows, as text.

use super::LineMark;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Base64 of the marks.
pub(super) fn encode_lines(lines: &[LineMark]) -> String {
    STANDARD.encode(lines.iter().flat_map(|line| line.to_bytes()).collect::<Vec<u8>>())
}

/// The marks of `expected` lines.
pub(super) fn decode_lines(text: &str, expected: usize, what: &str) -> std::result::Result<Vec<LineMark>, String> {
    let bytes = decode(text)?;
    let (lines, rest) = bytes.as_chunks::<{ LineMark::BYTES }>();
    if lines.len() != expected || !rest.is_empty() {
        return Err(format!("has {} bytes of {what}, its shape needs {expected} lines", bytes.len()));
    }
    Ok(lines.iter().map(LineMark::from_bytes).collect())
}

/// The bytes of such a text.
pub(super) fn decode(text: &str) -> std::result::Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|e| format!("is not base64: {e}"))
}
