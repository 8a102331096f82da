//! `unpatch`.

use crate::stderr;
use achilles_audit::Result;
use achilles_audit::patch;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The patched folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let folder = options.folder.display();
    let unpatched = patch::unpatch(&options.folder)?;
    if unpatched.config_changed {
        stderr::line(&format!("{folder}: config.json is not the one that was patched; it stays as it is"));
    }
    match unpatched.receipt {
        Some(receipt) => {
            let bytes: u64 = receipt.edits.iter().map(|e| e.span.bytes()).sum();
            let made = &receipt.time_utc;
            stderr::line(&format!(
                "{folder}: {bytes} bytes are as {} had them, kept by the patch of {made}",
                patch::UNDO
            ));
        }
        None => stderr::line(&format!("{folder}: an unfinished run was found, the bytes are as it had kept them")),
    }
    Ok(ExitCode::SUCCESS)
}
