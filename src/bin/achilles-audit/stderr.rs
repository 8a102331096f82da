//! Lines on standard error. What a checkpoint says of itself may be in them: it must not forge a line, drive the
//! terminal, or be taken for a command by a build server.

use achilles_audit::escape;
use std::io::Write;

/// Prints one line, which says whose it is; where standard error cannot be written to, nobody is there to be told.
pub fn line(text: &str) {
    write(&format!("achilles-audit: {}", escape::printable(text)));
}

/// Prints a JSON object on a line of its own.
pub fn json(object: &serde_json::Value) {
    write(&escape::json(&object.to_string()));
}

/// Prints lines that the command line's parser made.
pub fn usage(lines: &str) {
    write(lines.trim_end());
}

fn write(lines: &str) {
    let _ = writeln!(std::io::stderr(), "{}", escape::lines(lines));
}

/// Standard error for a logger that writes a line at a time.
pub struct Escaping;

impl Write for Escaping {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        line(String::from_utf8_lossy(bytes).trim());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
