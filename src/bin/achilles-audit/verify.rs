//! `verify`.

use crate::options::{Format, OutputArgs};
use crate::output;
use achilles_audit::checkpoint::Opened;
use achilles_audit::integrity::fingerprint::{Cache, Fingerprint};
use achilles_audit::integrity::{difference, verify};
use achilles_audit::progress::Progress;
use achilles_audit::tool::Tool;
use achilles_audit::{Result, report};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder or a hub id (org/name[@revision])
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
    let before = Fingerprint::read(&options.fingerprint)?;
    let opened = Opened::open(&options.model, progress)?;
    let cache = options.digest_cache.then(Cache::of_user).transpose()?;
    let found = verify::verify(&opened, &before, Some(&options.fingerprint), cache.as_ref(), progress)?;
    let passed = found.intact || options.allow_resharding && found.is_resharding();
    let not_examined = output::not_examined([opened.origin()]);
    let rendered = match options.output.format {
        Format::Table => {
            report::differences::verification(&found) + &report::hub::lines(opened.origin(), &not_examined)
        }
        Format::Json => report::json::document(&json!({
            "schema": "achilles-audit/verification/v1",
            "tool": Tool::this(),
            "model": {"source": options.model, "hub": opened.origin()},
            "settings": {"fingerprint": options.fingerprint.to_string_lossy(), "allow_resharding": options.allow_resharding,
                "listed_lines": difference::LISTED},
            "passed": passed,
            "not_examined": not_examined,
            "result": found,
        }))?,
    };
    output::write(&options.output, &rendered)?;
    Ok(output::exit_code(passed, &not_examined))
}
