//! `lint`.

use crate::options::{ReportArgs, RulesArgs};
use crate::output;
use achilles_audit::progress::Progress;
use achilles_audit::rules::Date;
use achilles_audit::{Result, audit};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder, an adapter's or a pipeline's, a .gguf or .safetensors file, or a hub id (org/name[@revision])
    pub model: String,
    /// Hold an adapter against the model that it changes
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Download the weights of a hub id that the cache does not hold, to read their values as well; without it their
    /// headers are all that is read
    #[arg(long)]
    pub download: bool,
    #[command(flatten)]
    pub rules: RulesArgs,
    #[command(flatten)]
    pub report: ReportArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check_file(options.report.output.as_deref())?;
    let base = options.base.as_deref();
    let found = audit::lint(&options.model, base, options.download, &options.rules.read()?, Date::today(), progress)?;
    output::write_report(&options.report, &found)?;
    Ok(ExitCode::from(found.result.verdict.exit_code()))
}
