//! `monitor record` and `monitor check`.

use crate::args::{ComputeArgs, Format, Monitor, MonitorCheck, MonitorRecord};
use crate::locate::model_settings;
use crate::output;
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::{Checkpoint, sha256_hex};
use achilles_audit::compute::Model;
use achilles_audit::evaluate::text::Tokenizer;
use achilles_audit::monitor::{self, Baseline, Prompts};
use achilles_audit::progress::Progress;
use achilles_audit::tool::Tool;
use achilles_audit::{Error, Result, files, report};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub fn run(command: &Monitor, progress: &dyn Progress) -> Result<ExitCode> {
    match command {
        Monitor::Record(options) => record(options, progress),
        Monitor::Check(options) => check(options, progress),
    }
}

fn record(options: &MonitorRecord, progress: &dyn Progress) -> Result<ExitCode> {
    files::check_writable(&options.output)?;
    monitor::check_max_tokens(options.max_tokens)?;
    let (model, prompts) =
        open(&options.model.model, &options.model.compute, &options.text, options.max_tokens, progress)?;
    let baseline = monitor::record(&model, &prompts, &options.sites, options.max_tokens, progress)?;
    files::write_whole(&options.output, baseline.to_json()?.as_bytes())?;
    output::print(&report::monitor::recorded(&baseline))?;
    Ok(ExitCode::SUCCESS)
}

fn check(options: &MonitorCheck, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    monitor::check_alpha(options.alpha)?;
    let baseline = Baseline::read(&options.baseline)?;
    let (model, checked) = match (&options.activations, &options.model) {
        (Some(dump), _) => {
            let observed = monitor::read_activations(dump, &baseline)?;
            (None, monitor::check(&baseline, &observed, options.alpha)?)
        }
        (None, Some(model)) => {
            let (model, prompts) =
                open(model, &options.compute, &options.text, baseline.settings.max_tokens, progress)?;
            let checked = monitor::check_model(&model, &baseline, &prompts, options.alpha, progress)?;
            let identity = json!({"source": model.checkpoint().name(), "architecture": model.recipe().architecture,
                "config_sha256": model.checkpoint().config().sha256(), "hub": model.checkpoint().origin(), "dtype": model.arithmetic().as_str(),
                "device": model.device_name(), "text_sha256": prompts.sha256});
            (Some(identity), checked)
        }
        (None, None) => return Err(Error::input("give a MODEL with --text, or --activations")),
    };
    let rendered = match options.output.format {
        Format::Table => report::monitor::checked(&checked),
        Format::Json => report::json::document(&json!({
            "schema": "achilles-audit/activation-check/v1",
            "tool": Tool::this(),
            "model": model,
            "settings": {"alpha": options.alpha, "activations": options.activations.as_deref().map(Path::to_string_lossy),
                "baseline": options.baseline.to_string_lossy(),
                "baseline_sha256": sha256_hex(&files::read_regular(&options.baseline)?)},
            "baseline": {"model": baseline.model, "settings": baseline.settings},
            "result": checked,
        }))?,
    };
    output::write(&options.output, &rendered)?;
    Ok(ExitCode::from(u8::from(checked.alarm)))
}

/// The prompts come before the weights: a mistake there should not have to wait for them.
fn open(
    model: &str,
    compute: &ComputeArgs,
    text: &[PathBuf],
    max_tokens: usize,
    progress: &dyn Progress,
) -> Result<(Model, Prompts)> {
    let checkpoint = Checkpoint::open(model, progress)?;
    let recipe = Recipe::read(checkpoint.config())?;
    let prompts = Prompts::read(text, &Tokenizer::of(&checkpoint)?, max_tokens)?;
    Ok((Model::new(checkpoint, recipe, &model_settings(compute), progress)?, prompts))
}
