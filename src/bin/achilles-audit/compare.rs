//! `compare`.

use crate::options::{ComputeArgs, OutputArgs, RulesArgs, SearchArgs, TextArgs};
use crate::output;
use achilles_audit::compare::{self, BaseName};
use achilles_audit::progress::Progress;
use achilles_audit::{Result, audit};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(mut_arg("rules", |arg| arg.help("The rules whose thresholds the verdicts take: default, release, or a file")))]
pub struct Options {
    /// The model that the variants were made from: a model, a critical set (.json), or published:NAME
    pub base: String,
    /// Model folders, .gguf files or hub ids
    #[arg(required = true, value_name = "VARIANT")]
    pub variants: Vec<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub search: SearchArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let limits = audit::base_limits(&options.rules.read()?);
    let (compute, settings) = (options.compute.settings(), options.search.settings()?);
    let (base, text) = (BaseName::of(&options.base), options.text.read()?);
    let how = (&compute, &settings, limits);
    let result = compare::compare_models(&base, &options.variants, &text, how, progress)?;
    output::write(&options.output, &result)?;
    Ok(ExitCode::SUCCESS)
}
