//! `locate`.

use crate::args::{ComputeArgs, Format, Locate, ModelArgs, SearchArgs, TextArgs};
use crate::output;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::locate::{self, Settings};
use achilles_audit::model::{self, Model, Recipe, Residency};
use achilles_audit::progress::Progress;
use achilles_audit::text::{self, Encoded, Tokenizer};
use achilles_audit::{Result, report};
use std::process::ExitCode;
use std::time::Instant;

pub fn run(options: &Locate, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let settings = settings(&options.search)?;
    let started = Instant::now();
    let (model, text) = open(&options.model, &options.text, progress)?;
    let load_s = started.elapsed().as_secs_f64();
    let result = locate::locate(&model, &text, &settings, load_s, progress)?;
    let rendered = match options.output.format {
        Format::Table => report::table::critical_set(&result),
        Format::Json => report::json::document(&result)?,
    };
    output::write(&options.output, &rendered)?;
    Ok(ExitCode::SUCCESS)
}

/// The model to compute with and the text to compute on. The text comes first: a mistake there should not have to wait
/// for the weights.
pub fn open(args: &ModelArgs, text: &TextArgs, progress: &dyn Progress) -> Result<(Model, Encoded)> {
    let text = self::text(text)?;
    let checkpoint = Checkpoint::open(&args.model, progress)?;
    let recipe = Recipe::read(checkpoint.config())?;
    let text = Tokenizer::of(&checkpoint)?.encode(&text)?;
    Ok((Model::new(checkpoint, recipe, &model_settings(&args.compute), progress)?, text))
}

/// How to search.
pub fn settings(options: &SearchArgs) -> Result<Settings> {
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
    settings.check()?;
    Ok(settings)
}

/// The text as it was given, or the paper's.
pub fn text(text: &TextArgs) -> Result<String> {
    match (&text.text, &text.text_file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => text::read_file(path),
        (None, None) => Ok(text::REFERENCE_TEXT.to_owned()),
    }
}

/// How to compute.
pub fn model_settings(args: &ComputeArgs) -> model::Settings {
    model::Settings {
        arithmetic: args.dtype,
        device: args.device,
        residency: args.stream.then_some(Residency::Streamed),
    }
}
