//! `verify`.

use crate::options::OutputArgs;
use crate::output;
use achilles_audit::Result;
use achilles_audit::integrity::document::verify_model;
use achilles_audit::integrity::fingerprint::Cache;
use achilles_audit::progress::Progress;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder, a .gguf or .safetensors file, or a hub id (org/name[@revision])
    pub model: String,
    /// Its fingerprint
    pub fingerprint: PathBuf,
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
    let cache = options.digest_cache.then(Cache::of_user).transpose()?;
    let (file, allow_resharding) = (&options.fingerprint, options.allow_resharding);
    let found = verify_model(&options.model, file, allow_resharding, cache.as_ref(), progress)?;
    output::write(&options.output, &found)?;
    Ok(output::exit_code(found.result.passed, &found.result.not_examined))
}
