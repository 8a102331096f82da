//! Lines on standard error. What a checkpoint says of itself may be in them, so control characters are escaped: it must
//! not forge a line or drive the terminal.

use achilles_audit::error::printable;
use std::io::Write;

/// Prints one line; where standard error cannot be written to, nobody is there to be told.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// Standard error for a logger that writes a line at a time.
pub struct Escaping;

impl Write for Escaping {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        line(String::from_utf8_lossy(bytes).trim_end_matches('\n'));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
