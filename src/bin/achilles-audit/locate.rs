//! `locate`.

use crate::options::{ModelArgs, OutputArgs, SearchArgs, TextArgs};
use crate::output;
use achilles_audit::Result;
use achilles_audit::locate;
use achilles_audit::progress::Progress;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub search: SearchArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let settings = options.search.settings()?;
    let subject = options.model.open(&options.text, progress)?;
    let result = locate::locate(&subject, &settings, progress)?.report;
    output::write(&options.output, &result)?;
    Ok(ExitCode::SUCCESS)
}
