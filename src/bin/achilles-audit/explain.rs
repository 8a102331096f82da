//! `explain`.

use crate::output;
use achilles_audit::rules::{self, RuleId, Rules};
use achilles_audit::{Error, Result, report};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The rule's id, such as zero-row
    pub rule: String,
    /// Which rules: default, release, or a file
    #[arg(long, value_name = "FILE", default_value = "default")]
    pub rules: String,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let rules = Rules::find(&options.rules)?;
    let id = RuleId::of(&options.rule).ok_or_else(|| Error::input(rules::unknown(&options.rule)))?;
    output::print(&report::rules::explain(rules.rule(id)))?;
    Ok(ExitCode::SUCCESS)
}
