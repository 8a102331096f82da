//! `sign`.

use crate::stderr;
use achilles_audit::Result;
use achilles_audit::error::Bytes;
use achilles_audit::integrity::signature::{self, SignSettings, Signer};
use achilles_audit::progress::Progress;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A folder or a file
    pub model: PathBuf,
    /// The private key, in PEM: ECDSA on P-256, P-384 or P-521, not encrypted
    #[arg(long, alias = "key", value_name = "FILE")]
    pub private_key: PathBuf,
    /// The key's certificate, in PEM: the signature is then verified with the root it leads to
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The certificates between that one and its root, in PEM
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "cert")]
    pub chain: Vec<PathBuf>,
    /// The signature to write [default: MODEL/model.sig, or MODEL.sig beside a single file]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Sign the files that symbolic links lead to; else a link is an error
    #[arg(long)]
    pub allow_symlinks: bool,
    /// Sign pieces of so many bytes instead of whole files
    #[arg(long, value_name = "BYTES")]
    pub shard_size: Option<u64>,
    /// Leave out this file or folder of the model (.git, .gitattributes, .github, .gitignore and .cache/huggingface
    /// always are); the signature says so, and no weights can be left out; can be given several times
    #[arg(long, alias = "ignore", value_name = "PATH")]
    pub ignore_path: Vec<String>,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    let place = options.output.clone().unwrap_or_else(|| signature::default_path(&options.model));
    let signer = Signer::read(&options.private_key, options.cert.as_deref(), &options.chain)?;
    let settings = SignSettings {
        allow_symlinks: options.allow_symlinks,
        shard_bytes: options.shard_size,
        ignore: options.ignore_path.clone(),
    };
    let signed = signature::sign(&options.model, &place, &signer, &settings, progress)?;
    let (files, bytes, signer) = (signed.files, Bytes(signed.bytes), signed.signer);
    stderr::line(&format!("{}: {files} files, {bytes} signed by {signer}", place.display()));
    Ok(ExitCode::SUCCESS)
}
