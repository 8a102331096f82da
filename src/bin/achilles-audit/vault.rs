//! `vault`.

use crate::options::NeuronArgs;
use crate::stderr;
use achilles_audit::Result;
use achilles_audit::architecture::{self, Recipe};
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::document::critical_set::CAUTION;
use achilles_audit::error::Count;
use achilles_audit::patch::vault;
use achilles_audit::progress::Progress;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(group = NeuronArgs::needed())]
pub struct Options {
    /// A model folder, a .gguf file or a hub id (org/name[@revision])
    pub model: String,
    #[command(flatten)]
    pub neurons: NeuronArgs,
    /// The vault to write, such as vault.safetensors; it must not exist yet, nor lie in a model folder
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    vault::check_out(&options.output)?;
    let checkpoint = Checkpoint::open(&options.model, progress)?;
    let recipe = Recipe::of_known(checkpoint.config())?;
    let located = options.neurons.read(&architecture::name(checkpoint.config(), recipe.as_ref()))?;
    let kept = vault::keep(&checkpoint, recipe.as_ref(), &located.neurons, &options.output)?;
    let parts = Count(kept.index.parts.len(), "part", "parts");
    stderr::line(&format!("{}: keeps {parts} of the weights, {} bytes", options.output.display(), kept.bytes));
    if located.gradual {
        stderr::line(&format!("{CAUTION}, which this vault does not keep"));
    }
    Ok(ExitCode::SUCCESS)
}
