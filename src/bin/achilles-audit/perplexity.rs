//! `perplexity`.

use crate::options::{ModelArgs, OutputArgs, TextArgs};
use crate::output;
use achilles_audit::Result;
use achilles_audit::evaluate::perplexity::{Scaled, perplexity};
use achilles_audit::locate::Subject;
use achilles_audit::neuron::Neuron;
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
    /// A neuron to mask, such as L11.mlp.down_proj:out:507; can be given several times
    #[arg(long, value_name = "ID")]
    pub neuron: Vec<Neuron>,
    /// Multiply the neurons by this instead of masking them
    #[arg(long, requires = "neuron", allow_hyphen_values = true)]
    pub beta: Option<f64>,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let scaled = Scaled { neurons: options.neuron.clone(), beta: options.beta.unwrap_or(0.0) };
    scaled.check()?;
    let Subject { model, text, .. } = options.model.open(&options.text, progress)?;
    output::write(&options.output, &perplexity(&model, &text, &scaled, progress)?)?;
    Ok(ExitCode::SUCCESS)
}
