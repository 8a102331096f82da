//! `locate`.

use crate::args::{ComputeArgs, Format, Locate, ModelArgs, SearchArgs, TextArgs};
use crate::output;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::{self, Residency};
use achilles_audit::evaluate::text;
use achilles_audit::locate::{self, Settings, Subject};
use achilles_audit::progress::Progress;
use achilles_audit::{Result, report};
use std::process::ExitCode;

pub fn run(options: &Locate, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let settings = settings(&options.search)?;
    let subject = open(&options.model, &options.text, progress)?;
    let result = locate::locate(&subject, &settings, progress)?.report;
    let rendered = match options.output.format {
        Format::Table => report::table::critical_set(&result),
        Format::Json => report::json::document(&result)?,
    };
    output::write(&options.output, &rendered)?;
    Ok(ExitCode::SUCCESS)
}

/// The model to compute with and the text to compute on.
pub fn open(args: &ModelArgs, text: &TextArgs, progress: &dyn Progress) -> Result<Subject> {
    let text = self::text(text)?;
    let checkpoint = Checkpoint::open(&args.model, progress)?;
    Subject::load(checkpoint, &text, &model_settings(&args.compute), progress)
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
pub fn model_settings(args: &ComputeArgs) -> compute::Settings {
    compute::Settings {
        arithmetic: args.dtype,
        device: args.device,
        residency: args.stream.then_some(Residency::Streamed),
    }
}
