//! `compare` and `published`.

use crate::args::{Compare, Format, OutputArgs};
use crate::{locate, output};
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compare::published::Published;
use achilles_audit::compare::{self, BaseName, Comparison, Unsearched, Variant};
use achilles_audit::locate::{Opened, locate as search};
use achilles_audit::progress::Progress;
use achilles_audit::rules::Rules;
use achilles_audit::tool::Tool;
use achilles_audit::{Result, audit, report};
use serde_json::json;
use std::process::ExitCode;

pub fn run(options: &Compare, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let limits = audit::base_limits(&Rules::find(&options.rules)?);
    let (settings, compute) = (locate::settings(&options.search)?, locate::model_settings(&options.compute));
    let text = locate::text(&options.text)?;
    // Everything that can be wrong comes before the first search.
    let base = Unsearched::open(&BaseName::of(&options.base), &text, progress)?;
    let open = |name: &String| Opened::new(Checkpoint::open(name, progress)?, &text);
    let opened = options.variants.iter().map(open).collect::<Result<Vec<_>>>()?;
    opened.iter().try_for_each(|variant| base.check(variant, &settings))?;
    let base = base.search(&compute, &settings, progress)?;
    let mut variants = Vec::new();
    for variant in opened {
        let subject = variant.load(&compute, progress)?;
        let located = search(&subject, &settings, progress)?;
        let compared = compare::compare(&base, &subject, &located, &limits, progress)?;
        variants.push(Variant { located: located.report, compared });
    }
    let result = Comparison::new(&base, limits, variants);
    let rendered = match options.output.format {
        Format::Table => report::compare::comparison(&result),
        Format::Json => report::json::document(&result)?,
    };
    output::write(&options.output, &rendered)?;
    Ok(ExitCode::SUCCESS)
}

pub fn published(options: &OutputArgs) -> Result<ExitCode> {
    output::check(options)?;
    let sets = Published::all()?;
    let rendered = match options.format {
        Format::Table => report::compare::published(&sets),
        Format::Json => report::json::document(
            &json!({"schema": "achilles-audit/published/v1", "tool": Tool::this(), "sets": sets}),
        )?,
    };
    output::write(options, &rendered)?;
    Ok(ExitCode::SUCCESS)
}
