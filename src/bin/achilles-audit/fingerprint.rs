//! `fingerprint`.

use crate::{output, stderr};
use achilles_audit::checkpoint::Opened;
use achilles_audit::checkpoint::hub::HubId;
use achilles_audit::checkpoint::model_card::ModelCard;
use achilles_audit::integrity::fingerprint::{self, Cache, FingerprintSettings};
use achilles_audit::integrity::published;
use achilles_audit::progress::Progress;
use achilles_audit::{Result, escape, files, report};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder, a .gguf or .safetensors file, or a hub id (org/name[@revision])
    #[arg(required_unless_present = "hub")]
    pub model: Option<String>,
    /// Write what the hub publishes of a repository (names, sizes and digests; nothing is downloaded), to verify a copy
    /// against it later
    #[arg(long, value_name = "ORG/NAME[@REVISION]", conflicts_with_all = ["model", "ignore", "row_digests", "digest_cache"])]
    pub hub: Option<HubId>,
    /// Write the fingerprint to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Form of the result; cyclonedx is a bill of materials, not to be verified against
    #[arg(long, value_enum, default_value = "json", conflicts_with = "hub")]
    pub format: Form,
    /// Leave out files whose path below the folder matches this glob (.git and .cache/huggingface always are); can be
    /// given several times
    #[arg(long, value_name = "GLOB")]
    pub ignore: Vec<String>,
    /// Tensors whose rows get BLAKE3 digests of their own, by a glob over names; can be given several times
    #[arg(long, value_name = "GLOB", default_value = "*down_proj*")]
    pub row_digests: Vec<String>,
    /// Take what is known of files whose size, times and inode are as when they were last read: who can set the clock,
    /// or runs the network's file system that they lie in, can hide a change. What lies in the cache is believed
    #[arg(long, alias = "cache")]
    pub digest_cache: bool,
}

/// How a fingerprint is written.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Form {
    /// With marks of rows and columns, for verify and diff
    Json,
    /// CycloneDX 1.5: files, tensors, architecture, quantization, license, base model
    Cyclonedx,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    options.output.as_deref().map_or(Ok(()), files::check_writable)?;
    if let Some(id) = &options.hub {
        let found = published::manifest(id)?;
        stderr::line(&report::fingerprint::published(found.result.published()));
        return output::write_to(options.output.as_deref(), &report::json::document(&found)?)
            .map(|()| ExitCode::SUCCESS);
    }
    let model = options.model.as_deref().unwrap_or_default();
    let opened = Opened::open(model, progress)?;
    // A card that cannot be read should not have to wait for the weights; one beside a file may be another model's.
    let card = match (options.format, opened.is_file()) {
        (Form::Cyclonedx, false) => ModelCard::of(opened.root())?,
        _ => ModelCard::default(),
    };
    let settings = FingerprintSettings {
        ignore: options.ignore.clone(),
        row_digests: options.row_digests.clone(),
        ..FingerprintSettings::default()
    };
    let cache = options.digest_cache.then(Cache::of_user).transpose()?;
    let started = Instant::now();
    let taken = fingerprint::take(&opened, &settings, options.output.as_deref(), cache.as_ref(), progress)?;
    let found = taken.sound(opened.base())?;
    let text = match options.format {
        Form::Json => found.to_json(model, opened.origin())?,
        Form::Cyclonedx => report::cyclonedx::document(&found, &opened, &card)?,
    };
    match &options.output {
        Some(path) => files::write_whole(path, text.as_bytes())?,
        None => output::print(&escape::json(&text))?,
    }
    report::fingerprint::summary(&found, opened.origin(), started.elapsed()).lines().for_each(stderr::line);
    Ok(ExitCode::SUCCESS)
}
