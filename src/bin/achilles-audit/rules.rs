//! `rules`.

use crate::output;
use achilles_audit::rules::{self, Rules};
use achilles_audit::{Result, report};
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List all rules
    List {
        /// Which rules: default, release, or a file
        #[arg(long, value_name = "FILE", default_value = "default")]
        rules: String,
    },
    /// Print the JSON Schema of rule files
    Schema,
}

pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::List { rules } => output::print(&report::rules::list(&Rules::find(rules)?))?,
        Command::Schema => output::print_as_it_is(rules::SCHEMA)?,
    }
    Ok(ExitCode::SUCCESS)
}
