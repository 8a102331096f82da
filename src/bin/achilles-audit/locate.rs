//! `scan` and `locate`.

use crate::args::{Format, Locate, ModelArgs, TextArgs};
use crate::output;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::locate::{self, Settings};
use achilles_audit::model::{self, Model, Residency};
use achilles_audit::progress::Progress;
use achilles_audit::{Result, report, text};
use std::process::ExitCode;
use std::time::Instant;

pub fn run(options: &Locate, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let text = text_of(&options.text)?;
    let started = Instant::now();
    let model = open(&options.model, progress)?;
    let load_s = started.elapsed().as_secs_f64();
    let settings = Settings {
        ranking: options.ranking,
        side: options.side,
        sites: options.sites.clone(),
        counting: options.counting,
        alpha: options.alpha,
        samples: options.samples,
        seed: options.seed,
        epsilon: options.epsilon,
        max_neurons: options.max_neurons,
    };
    let result = locate::locate(&model, &text, &settings, load_s, progress)?;
    let rendered = match options.output.format {
        Format::Table => report::table::critical_set(&result),
        Format::Json => report::json::document(&result)?,
    };
    output::write(&options.output, &rendered)?;
    Ok(ExitCode::SUCCESS)
}

/// The text to compute on.
pub fn text_of(args: &TextArgs) -> Result<String> {
    match (&args.text, &args.text_file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => text::read_file(path),
        (None, None) => Ok(text::REFERENCE_TEXT.to_owned()),
    }
}

/// The model to compute with.
pub fn open(args: &ModelArgs, progress: &dyn Progress) -> Result<Model> {
    let checkpoint = Checkpoint::open(&args.model, progress)?;
    let settings = model::Settings {
        arithmetic: args.dtype,
        device: args.device,
        residency: args.stream.then_some(Residency::Streamed),
    };
    Model::new(checkpoint, &settings, progress)
}
