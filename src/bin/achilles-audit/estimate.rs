//! `estimate`.

use crate::options::{LocateArgs, ModelArgs, OutputArgs, TextArgs};
use crate::output;
use achilles_audit::Result;
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
    pub locate: LocateArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let settings = options.locate.settings()?;
    let opened = options.model.before_loading(&options.text, progress)?;
    output::write(&options.output, &opened.estimate(&settings, &options.model.compute.settings())?)?;
    Ok(ExitCode::SUCCESS)
}
