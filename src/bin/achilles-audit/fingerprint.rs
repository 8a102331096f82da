//! `fingerprint`.

use crate::{output, stderr};
use achilles_audit::checkpoint::{Opened, hex};
use achilles_audit::error::Bytes;
use achilles_audit::integrity::fingerprint::{self, Cache, FingerprintSettings};
use achilles_audit::progress::Progress;
use achilles_audit::{Error, Result, escape, files, report};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder or a hub id (org/name[@revision])
    pub model: String,
    /// Write the fingerprint to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Leave out files whose path below the folder matches this glob (.git and .cache/huggingface always are); can be
    /// given several times
    #[arg(long, value_name = "GLOB")]
    pub ignore: Vec<String>,
    /// Tensors whose rows get SHA-256 digests of their own, by a glob over names; can be given several times
    #[arg(long, value_name = "GLOB", default_value = "*down_proj*")]
    pub row_digests: Vec<String>,
    /// Take what is known of files whose size, times and inode are as when they were last read: who can set the clock,
    /// or runs the network's file system that they lie in, can hide a change. What lies in the cache is believed
    #[arg(long, alias = "cache")]
    pub digest_cache: bool,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    options.output.as_deref().map_or(Ok(()), files::check_writable)?;
    let opened = Opened::open(&options.model, progress)?;
    let (root, origin) = (opened.folder()?, opened.origin());
    let settings = FingerprintSettings {
        ignore: options.ignore.clone(),
        row_digests: options.row_digests.clone(),
        ..FingerprintSettings::default()
    };
    let cache = options.digest_cache.then(Cache::of_user).transpose()?;
    let started = Instant::now();
    let taken = fingerprint::take(&opened, &settings, options.output.as_deref(), cache.as_ref(), progress)?;
    if let Some((path, problem)) = taken.problems.iter().chain(&taken.damaged).next() {
        let more = match taken.problems.len() + taken.damaged.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more such files)"),
        };
        return Err(Error::file(root.join(path), format!("{problem}{more}; leave it out with --ignore, or mend it")));
    }
    let found = taken.fingerprint;
    let text = found.to_json(&options.model, origin)?;
    match &options.output {
        Some(path) => files::write_whole(path, text.as_bytes())?,
        None => output::print(&escape::json(&text))?,
    }
    let bytes: u64 = found.files.iter().map(|f| f.bytes).sum();
    let seconds = started.elapsed().as_secs_f64();
    stderr::line(&format!(
        "{} files, {} tensors, {} in {seconds:.1} s ({}/s); tensors {}",
        found.files.len(),
        found.tensors.len(),
        Bytes(bytes),
        Bytes((bytes as f64 / seconds) as u64),
        hex(&found.tensors_sha256()),
    ));
    let not_examined: Vec<String> = origin.iter().flat_map(|origin| origin.not_examined(&origin.not_fetched)).collect();
    for line in report::hub::lines(origin, &not_examined).lines() {
        stderr::line(line);
    }
    Ok(ExitCode::SUCCESS)
}
