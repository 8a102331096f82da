//! `unpatch`.

use crate::stderr;
use achilles_audit::Result;
use achilles_audit::patch;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The patched folder or .gguf file
    #[arg(value_name = "PATH")]
    pub model: PathBuf,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let model = options.model.display();
    let unpatched = patch::unpatch(&options.model)?;
    if unpatched.config_changed {
        stderr::line(&format!("{model}: config.json is not the one that was patched; it stays as it is"));
    }
    match unpatched.receipt {
        Some(receipt) => {
            let bytes: u64 = receipt.edits.iter().map(|e| e.span.bytes()).sum();
            let (undo, made) = (&receipt.undo.name, &receipt.time_utc);
            stderr::line(&format!("{model}: {bytes} bytes are as {undo} had them, kept by the patch of {made}"));
        }
        None => stderr::line(&format!("{model}: an unfinished run was found, the bytes are as it had kept them")),
    }
    Ok(ExitCode::SUCCESS)
}
