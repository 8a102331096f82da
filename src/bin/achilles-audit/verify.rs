//! `verify`.

use crate::options::OutputArgs;
use crate::output;
use achilles_audit::checkpoint::hub::HubId;
use achilles_audit::integrity::document::verify_model;
use achilles_audit::integrity::fingerprint::Cache;
use achilles_audit::integrity::published::{Against, Manifest, verify_published};
use achilles_audit::progress::Progress;
use achilles_audit::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder, a .gguf or .safetensors file, or a hub id (org/name[@revision])
    pub model: String,
    /// Its fingerprint, or a manifest that `fingerprint --hub` wrote; without it and --hub, files of the Hugging Face
    /// cache are held against the digests that they are named by
    pub fingerprint: Option<PathBuf>,
    /// Hold it against the digests that the hub publishes of a repository; without a value, of the one that it was
    /// fetched from
    #[arg(long, value_name = "ORG/NAME[@REVISION]", num_args = 0..=1, conflicts_with = "fingerprint")]
    pub hub: Option<Option<HubId>>,
    /// Pass a checkpoint whose tensors are the same but lie in other weight files
    #[arg(long)]
    pub allow_resharding: bool,
    /// Take what is known of files whose size, times and inode are as when they were last read: who can set the clock,
    /// or runs the network's file system that they lie in, can hide a change. What lies in the cache is believed
    #[arg(long, alias = "cache")]
    pub digest_cache: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let against = match (&options.fingerprint, &options.hub) {
        (Some(file), _) if !Manifest::is_at(file) => return by_fingerprint(options, file, progress),
        (Some(file), _) => Against::Manifest(file),
        (None, Some(Some(id))) => Against::Hub(id),
        (None, Some(None)) => Against::Own,
        (None, None) => Against::Cache,
    };
    for (flag, is_given) in [("allow-resharding", options.allow_resharding), ("digest-cache", options.digest_cache)] {
        if is_given {
            return Err(Error::input(format!("--{flag} is of fingerprints: leave it out, or give one")));
        }
    }
    let found = verify_published(&options.model, &against, progress)?;
    output::write(&options.output, &found)?;
    Ok(output::exit_code(found.result.passed, &found.result.not_examined))
}

fn by_fingerprint(options: &Options, file: &Path, progress: &dyn Progress) -> Result<ExitCode> {
    let cache = options.digest_cache.then(Cache::of_user).transpose()?;
    let found = verify_model(&options.model, file, options.allow_resharding, cache.as_ref(), progress)?;
    output::write(&options.output, &found)?;
    Ok(output::exit_code(found.result.passed, &found.result.not_examined))
}
