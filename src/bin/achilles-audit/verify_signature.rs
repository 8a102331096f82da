//! `verify-signature`.

use crate::options::OutputArgs;
use crate::output;
use achilles_audit::Result;
use achilles_audit::integrity::signature::{self, PublicKey, Roots, SignatureVerdict, Trust};
use achilles_audit::progress::Progress;
use clap::ArgGroup;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("trusted").args(["public_key", "cert_roots"]).required(true))]
pub struct Options {
    /// A folder or a file
    pub model: PathBuf,
    /// The signature [default: MODEL/model.sig, or MODEL.sig beside a single file]
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Accept files that are not signed
    #[arg(long)]
    pub ignore_unsigned_files: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Whose signature is accepted.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct TrustArgs {
    /// Accept a signature by this public key, in PEM
    #[arg(long, alias = "key", value_name = "FILE")]
    pub public_key: Option<PathBuf>,
    /// Accept one by a certificate that is valid now and leads to one of these self-signed ones, in PEM. Revocation and
    /// transparency logs are not checked, and the time of the signature is not known
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub cert_roots: Vec<PathBuf>,
    /// Of these, accept only a signer whose certificate has this subject (such as CN=release,O=Example), or this email
    /// address, URI or DNS name among its alternative names
    #[arg(long, value_name = "NAME", conflicts_with = "public_key", requires = "cert_roots")]
    pub identity: Option<String>,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let place = options.signature.clone().unwrap_or_else(|| signature::default_path(&options.model));
    let trust = match &options.trust.public_key {
        Some(key) => Trust::Key(PublicKey::read(key)?),
        None => Trust::Roots(Roots::read(&options.trust.cert_roots)?.with_identity(options.trust.identity.clone())),
    };
    let found = signature::verify(&options.model, &place, &trust, options.ignore_unsigned_files, progress)?;
    output::write(&options.output, &found)?;
    Ok(ExitCode::from(u8::from(found.result.verdict != SignatureVerdict::Verified)))
}
