//! `sign`.

use crate::args::Sign;
use crate::stderr;
use achilles_audit::Result;
use achilles_audit::error::Bytes;
use achilles_audit::integrity::signature::{self, SignSettings, Signer};
use achilles_audit::progress::Progress;
use std::process::ExitCode;

pub fn run(options: &Sign, progress: &dyn Progress) -> Result<ExitCode> {
    let place = options.output.clone().unwrap_or_else(|| signature::default_path(&options.model));
    let signer = Signer::read(&options.key, options.cert.as_deref(), &options.chain)?;
    let settings = SignSettings {
        allow_symlinks: options.allow_symlinks,
        shard_bytes: options.shard_size,
        ignore: options.ignore.clone(),
    };
    let signed = signature::sign(&options.model, &place, &signer, &settings, progress)?;
    let (files, bytes, signer) = (signed.files, Bytes(signed.bytes), signed.signer);
    stderr::line(&format!("{}: {files} files, {bytes} signed by {signer}", place.display()));
    Ok(ExitCode::SUCCESS)
}
