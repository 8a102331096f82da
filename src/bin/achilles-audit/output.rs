//! Results to standard output or, whole or not at all, to a file.

use crate::args::OutputArgs;
use achilles_audit::checkpoint::hub::Origin;
use achilles_audit::{Error, Result};
use std::io::Write;
use std::process::ExitCode;

/// Writes a rendered result to where the user wants it.
pub fn write(to: &OutputArgs, text: &str) -> Result<()> {
    match &to.output {
        Some(path) => achilles_audit::files::write_whole(path, text.as_bytes()),
        None => print(text),
    }
}

/// Writes to standard output.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever read it has had enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Error::io("standard output")),
    }
}

/// A table with what files say of themselves in it.
pub fn printable(table: &str) -> String {
    table.lines().map(|line| achilles_audit::error::printable(line) + "\n").collect()
}

/// What of checkpoints from the hub was not examined, where every file counts.
pub fn not_examined<'a>(origins: impl IntoIterator<Item = &'a Option<Origin>>) -> Vec<String> {
    origins.into_iter().flatten().flat_map(|origin| origin.not_examined(&origin.not_fetched)).collect()
}

/// 1 where the answer is no, 2 where it is yes but not everything was examined.
pub fn exit_code(yes: bool, not_examined: &[String]) -> ExitCode {
    ExitCode::from(match (yes, not_examined) {
        (false, _) => 1,
        (true, []) => 0,
        (true, _) => 2,
    })
}

/// Fails before the work rather than after it where the result could not be written.
pub fn check(to: &OutputArgs) -> Result<()> {
    to.output.as_deref().map_or(Ok(()), achilles_audit::files::check_writable)
}
