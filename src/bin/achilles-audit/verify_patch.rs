//! `verify-patch`.

use crate::output;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::error::Count;
use achilles_audit::progress::Progress;
use achilles_audit::{Result, patch};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The patched folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The model that it was made from: a model folder or a hub id (org/name[@revision])
    #[arg(long, value_name = "MODEL")]
    pub original: String,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    let found = patch::verify(&options.folder, &Checkpoint::open(&options.original, progress)?, progress)?;
    let mut text: String = found.differences.iter().map(|line| format!("differs: {line}\n")).collect();
    text += &format!(
        "{}, {} bytes compared; {} bytes belong to the receipt's edits; {}\n",
        Count(found.files, "file", "files"),
        found.bytes,
        found.edited_bytes,
        match found.differences.len() {
            0 => "nothing else differs".to_owned(),
            n => Count(n, "difference", "differences").to_string(),
        }
    );
    output::print(&text)?;
    Ok(ExitCode::from(u8::from(!found.differences.is_empty())))
}
