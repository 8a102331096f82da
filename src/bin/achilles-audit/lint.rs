//! `lint`.

use crate::options::ReportArgs;
use crate::output;
use achilles_audit::progress::Progress;
use achilles_audit::rules::{Date, Rules};
use achilles_audit::{Result, audit};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder or a hub id (org/name[@revision])
    pub model: String,
    /// The rules to judge by: default, release, or a file
    #[arg(long, value_name = "FILE", default_value = "default")]
    pub rules: String,
    #[command(flatten)]
    pub report: ReportArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check_file(options.report.output.as_deref())?;
    let found = audit::lint(&options.model, &Rules::find(&options.rules)?, Date::today(), progress)?;
    output::write_report(&options.report, &found)?;
    Ok(ExitCode::from(found.result.verdict.exit_code()))
}
