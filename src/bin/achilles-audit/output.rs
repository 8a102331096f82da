//! Results to standard output or, whole or not at all, to a file.

use crate::args::OutputArgs;
use achilles_audit::{Error, Result};
use std::io::Write;

/// Writes a rendered result to where the user wants it.
pub fn write(to: &OutputArgs, text: &str) -> Result<()> {
    let Some(path) = &to.output else {
        let mut stdout = std::io::stdout().lock();
        return match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            // Whoever read it has had enough.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(Error::io("standard output")),
        };
    };
    achilles_audit::files::write_whole(path, text.as_bytes())
}

/// Fails before the work rather than after it where the result could not be written.
pub fn check(to: &OutputArgs) -> Result<()> {
    to.output.as_deref().map_or(Ok(()), achilles_audit::files::check_writable)
}
