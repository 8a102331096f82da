//! `explain`.

use crate::options::RulesArgs;
use crate::output;
use achilles_audit::rules::{self, RuleId};
use achilles_audit::{Error, Result, report};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The rule's id, such as zero-row
    pub rule: String,
    #[command(flatten)]
    pub rules: RulesArgs,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let rules = options.rules.read()?;
    let id = RuleId::of(&options.rule).ok_or_else(|| Error::input(rules::unknown(&options.rule)))?;
    output::print(&report::rules::explain(rules.rule(id)))?;
    Ok(ExitCode::SUCCESS)
}
