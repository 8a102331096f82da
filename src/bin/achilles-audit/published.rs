//! `published`.

use crate::options::{Format, OutputArgs};
use crate::output;
use achilles_audit::compare::published::Published;
use achilles_audit::tool::Tool;
use achilles_audit::{Result, report};
use serde_json::json;
use std::process::ExitCode;

pub fn run(options: &OutputArgs) -> Result<ExitCode> {
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
