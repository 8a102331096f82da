//! `published`.

use crate::options::OutputArgs;
use crate::output;
use achilles_audit::Result;
use achilles_audit::compare::published::PublishedSets;
use std::process::ExitCode;

pub fn run(options: &OutputArgs) -> Result<ExitCode> {
    output::check(options)?;
    output::write(options, &PublishedSets::document()?)?;
    Ok(ExitCode::SUCCESS)
}
