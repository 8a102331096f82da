//! `diff`.

use crate::args::{Diff, Format};
use crate::output;
use achilles_audit::checkpoint::Source;
use achilles_audit::integrity::{diff, difference};
use achilles_audit::progress::Progress;
use achilles_audit::tool::Tool;
use achilles_audit::{Result, report};
use serde_json::json;
use std::process::ExitCode;

pub fn run(options: &Diff, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let (before, after) =
        (Source::find(&options.before)?.folder(progress)?, Source::find(&options.after)?.folder(progress)?);
    let found = diff::diff(&before, &after, progress)?;
    let rendered = match options.output.format {
        Format::Table => report::differences::diff(&found),
        Format::Json => report::json::document(&json!({
            "schema": "achilles-audit/diff/v1",
            "tool": Tool::this(),
            "settings": {"before": options.before, "after": options.after, "listed_lines": difference::LISTED},
            "result": found,
        }))?,
    };
    output::write(&options.output, &rendered)?;
    Ok(if found.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
