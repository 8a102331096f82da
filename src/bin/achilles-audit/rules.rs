//! `rules`.

use crate::options::RulesArgs;
use crate::output;
use achilles_audit::rules;
use achilles_audit::{Result, report};
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all rules
    List(RulesArgs),
    /// Print the JSON Schema of rule files
    Schema,
}

pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::List(rules) => output::print(&report::rules::list(&rules.read()?))?,
        Command::Schema => output::print_as_it_is(rules::SCHEMA)?,
    }
    Ok(ExitCode::SUCCESS)
}
