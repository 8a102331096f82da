//! `diff`.

use crate::options::{Format, OutputArgs};
use crate::output;
use achilles_audit::checkpoint::Opened;
use achilles_audit::integrity::{diff, difference};
use achilles_audit::progress::Progress;
use achilles_audit::tool::Tool;
use achilles_audit::{Result, report};
use serde_json::json;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder or a hub id: what was before
    #[arg(value_name = "A")]
    pub before: String,
    /// A model folder or a hub id: what is now
    #[arg(value_name = "B")]
    pub after: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let (before, after) = (Opened::open(&options.before, progress)?, Opened::open(&options.after, progress)?);
    let found = diff::diff(&before, &after, progress)?;
    let origins = [before.origin(), after.origin()];
    let not_examined = output::not_examined(origins);
    let rendered = match options.output.format {
        Format::Table => {
            let hub = origins.map(|origin| report::hub::lines(origin, &[]));
            report::differences::diff(&found) + &hub.concat() + &report::hub::lines(None, &not_examined)
        }
        Format::Json => report::json::document(&json!({
            "schema": "achilles-audit/diff/v1",
            "tool": Tool::this(),
            "settings": {"before": options.before, "after": options.after, "listed_lines": difference::LISTED},
            "hub": {"before": before.origin(), "after": after.origin()},
            "not_examined": not_examined,
            "result": found,
        }))?,
    };
    output::write(&options.output, &rendered)?;
    Ok(output::exit_code(found.differences.is_empty(), &not_examined))
}
