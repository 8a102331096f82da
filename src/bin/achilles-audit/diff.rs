//! `diff`.

use crate::options::OutputArgs;
use crate::output;
use achilles_audit::Result;
use achilles_audit::integrity::document::diff_models;
use achilles_audit::progress::Progress;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder, a .gguf or .safetensors file, or a hub id: what was before
    #[arg(value_name = "A")]
    pub before: String,
    /// A model folder, a .gguf or .safetensors file, or a hub id: what is now
    #[arg(value_name = "B")]
    pub after: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let found = diff_models(&options.before, &options.after, progress)?;
    output::write(&options.output, &found)?;
    Ok(output::exit_code(found.result.result.differences.is_empty(), &found.result.not_examined))
}
