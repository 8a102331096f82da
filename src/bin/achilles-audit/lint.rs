//! `lint`.

use crate::options::{Format, OutputArgs};
use crate::output;
use achilles_audit::audit;
use achilles_audit::checkpoint::Opened;
use achilles_audit::integrity::{lesion, lint};
use achilles_audit::progress::Progress;
use achilles_audit::rules::Rules;
use achilles_audit::rules::finding;
use achilles_audit::tool::Tool;
use achilles_audit::{Result, report};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A model folder or a hub id (org/name[@revision])
    pub model: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let opened = Arc::new(Opened::open_at_hand(&options.model, progress)?);
    let (folder, origin) = (opened.folder()?, opened.origin());
    let rules = Rules::default_rules()?;
    let examine = || {
        let seen = lint::lint(&opened, progress)?;
        Ok((seen, lesion::observe(&opened, progress)?, audit::observe_template(&opened)?))
    };
    let (seen, signs, templates) = audit::unchanged(folder, examine)?;
    let by_name = origin.map(|origin| lint::by_name(origin, folder)).unwrap_or_default();
    let seen_all = seen.observations.into_iter().chain(templates).chain(signs).chain(by_name.observations);
    let findings = finding::judge(seen_all, &rules);
    let not_examined = origin.map(|origin| origin.not_examined(by_name.unknown)).unwrap_or_default();
    let fails = finding::fails(&findings, rules.fail_on);
    let rendered = match options.output.format {
        Format::Json => report::json::document(&json!({
            "schema": "achilles-audit/lint/v1",
            "tool": Tool::this(),
            "model": {"source": options.model, "config_sha256": seen.config_sha256, "hub": origin},
            "settings": {"fail_on": rules.fail_on},
            "examined": seen.examined,
            "findings": findings,
            "not_listed": seen.not_listed,
            "not_examined": not_examined,
        }))?,
        Format::Table => {
            report::findings::table(&findings, seen.not_listed, &seen.examined)
                + &report::hub::lines(origin, &not_examined)
        }
    };
    output::write(&options.output, &rendered)?;
    Ok(output::exit_code(!fails, &not_examined))
}
