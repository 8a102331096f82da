//! `rules` and `explain`.

use crate::args::{Explain, RulesCommand};
use crate::output;
use achilles_audit::rules::{self, RuleId, Rules};
use achilles_audit::{Error, Result, report};
use std::process::ExitCode;

pub fn run(command: &RulesCommand) -> Result<ExitCode> {
    match command {
        RulesCommand::List { rules } => output::print(&report::rules::list(&Rules::find(rules)?))?,
        RulesCommand::Schema => output::print_as_it_is(rules::SCHEMA)?,
    }
    Ok(ExitCode::SUCCESS)
}

pub fn explain(options: &Explain) -> Result<ExitCode> {
    let rules = Rules::find(&options.rules)?;
    let id = RuleId::of(&options.rule).ok_or_else(|| Error::input(rules::unknown(&options.rule)))?;
    output::print(&report::rules::explain(rules.rule(id)))?;
    Ok(ExitCode::SUCCESS)
}
