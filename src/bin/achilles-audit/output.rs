//! Results to standard output or, whole or not at all, to a file. What a checkpoint says of itself may be in them, so
//! all that leaves here is escaped; of a document (JSON, HTML, XML) that was done in its own way, and nothing is left
//! to do.

use crate::options::{OutputArgs, ReportArgs};
use achilles_audit::report::{Show, ShowFindings};
use achilles_audit::{Error, Result, escape, files};
use clap::ArgMatches;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Writes a document to where the user wants it, in the form that is asked for.
pub fn write(to: &OutputArgs, document: &dyn Show) -> Result<()> {
    write_to(to.output.as_deref(), &to.format.render(document)?)
}

/// As [`write`], of findings.
pub fn write_report(to: &ReportArgs, document: &dyn ShowFindings) -> Result<()> {
    write_to(to.output.as_deref(), &to.format.render(document)?)
}

/// Writes to a file, or where there is none to standard output.
pub fn write_to(file: Option<&Path>, text: &str) -> Result<()> {
    match file {
        Some(path) => files::write_whole(path, escape::lines(text).as_bytes()),
        None => print(text),
    }
}

/// Writes to standard output.
pub fn print(text: &str) -> Result<()> {
    print_as_it_is(&escape::lines(text))
}

/// Writes text of our own, in which nothing is anybody else's, to standard output.
pub fn print_as_it_is(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever read it has had enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(Error::io("standard output")),
    }
}

/// 1 where the answer is no, 2 where it is yes but not everything was examined.
pub fn exit_code(yes: bool, not_examined: &[String]) -> ExitCode {
    ExitCode::from(match (yes, not_examined) {
        (false, _) => 1,
        (true, []) => 0,
        (true, _) => 2,
    })
}

/// Refuses a result in the place of a file that the same command line names, to be read.
pub fn check_inputs(typed: &ArgMatches) -> Result<()> {
    let (typed, command) = crate::subcommand(typed);
    let values = |id: &str| typed.try_get_raw(id).ok().flatten().into_iter().flatten().map(Path::new);
    let place = |path: &Path| path.canonicalize().ok().filter(|place| place.is_file());
    let Some(output) = values(OUTPUT).next().and_then(|output| Some((output, place(output)?))) else { return Ok(()) };
    let inputs = command.get_arguments().map(|argument| argument.get_id().as_str()).filter(|id| *id != OUTPUT);
    match inputs.flat_map(values).find(|input| place(input).as_ref() == Some(&output.1)) {
        Some(_) => Err(Error::file(
            output.0,
            "is to be read by this run, and the result would replace it; choose another name",
        )),
        None => Ok(()),
    }
}

/// What every command calls the file that its result goes to.
const OUTPUT: &str = "output";

/// Fails before the work rather than after it where the result could not be written.
pub fn check(to: &OutputArgs) -> Result<()> {
    check_file(to.output.as_deref())
}

/// As [`check`], of a file; none is standard output.
pub fn check_file(file: Option<&Path>) -> Result<()> {
    file.map_or(Ok(()), files::check_writable)
}
