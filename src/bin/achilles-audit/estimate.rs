//! `estimate`.

use crate::options::{ModelArgs, OutputArgs, SearchArgs, TextArgs};
use crate::output;
use achilles_audit::Result;
use achilles_audit::progress::Progress;
use std::num::NonZeroUsize;
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
    /// Look on for a smaller critical set, as locate does
    #[arg(long, value_name = "ROWS", num_args = 0..=1, require_equals = true, default_missing_value = "500")]
    pub smallest: Option<NonZeroUsize>,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let mut settings = options.search.settings()?;
    settings.smallest = options.smallest.map(NonZeroUsize::get);
    let opened = options.model.before_loading(&options.text, progress)?;
    output::write(&options.output, &opened.estimate(&settings, &options.model.compute.settings())?)?;
    Ok(ExitCode::SUCCESS)
}
