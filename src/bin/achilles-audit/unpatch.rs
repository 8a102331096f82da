//! `unpatch`.

use crate::args::Unpatch;
use crate::stderr;
use achilles_audit::Result;
use achilles_audit::patch;
use std::process::ExitCode;

pub fn run(options: &Unpatch) -> Result<ExitCode> {
    let folder = options.folder.display();
    match patch::unpatch(&options.folder)?.receipt {
        Some(receipt) => {
            let bytes: u64 = receipt.edits.iter().map(|e| e.span.bytes()).sum();
            stderr::line(&format!("{folder}: {bytes} bytes are as they were before the patch of {}", receipt.time_utc));
        }
        None => stderr::line(&format!("{folder}: an unfinished patch was found, the original bytes are back")),
    }
    Ok(ExitCode::SUCCESS)
}
