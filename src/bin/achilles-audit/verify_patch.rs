//! `verify-patch`.

use crate::output;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::progress::Progress;
use achilles_audit::{Result, patch, report};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The patched folder or .gguf file
    #[arg(value_name = "PATH")]
    pub patched: PathBuf,
    /// The model that it was made from: a model folder, a .gguf file, or a hub id (org/name[@revision])
    #[arg(long, value_name = "MODEL")]
    pub original: String,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    let found = patch::verify(&options.patched, &Checkpoint::open(&options.original, progress)?, progress)?;
    output::print(&report::differences::patched(&found))?;
    Ok(ExitCode::from(u8::from(!found.differences.is_empty())))
}
