//! `restore`.

use crate::options::OutputArgs;
use crate::{output, stderr};
use achilles_audit::Result;
use achilles_audit::patch::{self, RestoreSettings};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The model folder or .gguf file to repair
    #[arg(value_name = "PATH")]
    pub folder: PathBuf,
    /// What `achilles-audit vault` wrote
    #[arg(long, value_name = "FILE")]
    pub vault: PathBuf,
    /// Say what would be restored and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Restore also where the tensors differ from the vault's in more than the kept parts, as another model's would
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    output::check(&options.output)?;
    let settings = RestoreSettings { dry_run: options.dry_run, force: options.force };
    let restored = patch::restore(&options.folder, &options.vault, settings)?;
    let folder = options.folder.display();
    if restored.rolled_back {
        stderr::line(&format!("{folder}: an unfinished run was found, its bytes were put back first"));
    }
    for tensor in &restored.other_tensors {
        stderr::line(&format!("{folder}: tensor {tensor} differs from the vault's model in more than the kept parts"));
    }
    output::write(&options.output, &restored.document(&options.folder, options.dry_run))?;
    // Forced, the caller knows.
    let found_elsewhere = !restored.other_tensors.is_empty() && !options.force;
    Ok(ExitCode::from(u8::from(found_elsewhere)))
}
