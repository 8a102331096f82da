//! `verify-signature`.

use crate::options::{OutputArgs, TrustArgs};
use crate::output;
use achilles_audit::Result;
use achilles_audit::integrity::signature::{self, SignatureVerdict};
use achilles_audit::progress::Progress;
use clap::ArgGroup;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("trusted").args(TrustArgs::ANCHORS).required(true))]
pub struct Options {
    /// A folder or a file
    pub model: PathBuf,
    /// The signature [default: MODEL/model.sig, or MODEL.sig beside a single file]
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let place = options.signature.clone().unwrap_or_else(|| signature::default_path(&options.model));
    let (trust, ignore_unsigned_files) = (options.trust.read()?, options.trust.ignore_unsigned_files);
    let found = signature::verify(&options.model, &place, &trust, ignore_unsigned_files, progress)?;
    output::write(&options.output, &found)?;
    Ok(ExitCode::from(u8::from(found.result.verdict != SignatureVerdict::Verified)))
}
