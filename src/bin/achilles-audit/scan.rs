//! `scan`: the release gate.

use crate::args::{Scan, ScanFormat};
use crate::{locate, output, stderr};
use achilles_audit::audit::{self, Request, Run, Signature, Watch};
use achilles_audit::compare::BaseName;
use achilles_audit::integrity::signature::{PublicKey, Roots, Trust};
use achilles_audit::monitor::Baseline;
use achilles_audit::progress::Progress;
use achilles_audit::rules::{Date, Rules};
use achilles_audit::{Result, files, report};
use std::process::ExitCode;

pub fn run(options: &Scan, progress: &dyn Progress) -> Result<ExitCode> {
    options.output.as_deref().map_or(Ok(()), files::check_writable)?;
    let rules = Rules::find(&options.rules)?;
    let run = (!options.no_run).then(|| run_of(options)).transpose()?;
    let trust = match (&options.trust.key, options.trust.cert_roots.as_slice()) {
        (Some(key), _) => Some(Trust::Key(PublicKey::read(key)?)),
        (None, []) => None,
        (None, roots) => Some(Trust::Roots(Roots::read(roots)?.with_identity(options.trust.identity.clone()))),
    };
    let request = Request {
        model: &options.model.model,
        rules: &rules,
        run,
        fingerprint: options.fingerprint.clone(),
        signature: trust.map(|trust| Signature {
            trust,
            file: options.signature.clone().flatten(),
            ignore_unsigned_files: options.trust.ignore_unsigned_files,
        }),
        today: Date::today(),
    };
    let found = audit::audit(&request, progress)?;
    let rendered = match options.format {
        ScanFormat::Table => report::scan::table(&found),
        ScanFormat::Json => report::json::document(&found)?,
        ScanFormat::Sarif => report::sarif::document(&found)?,
        ScanFormat::Junit => report::junit::document(&found),
        ScanFormat::Html => report::html::document(&found),
    };
    output::write_to(options.output.as_deref(), &rendered)?;
    for left in &found.not_examined {
        stderr::line(&format!("not examined: {}: {}", left.measurement.as_str(), left.why));
    }
    Ok(ExitCode::from(found.verdict.exit_code()))
}

fn run_of(options: &Scan) -> Result<Run> {
    let baseline = match &options.baseline {
        None => None,
        Some(file) => {
            Some(Watch { file: file.clone(), baseline: Baseline::read(file)?, prompts: options.prompts.clone() })
        }
    };
    Ok(Run {
        text: locate::text(&options.text)?,
        model: locate::model_settings(&options.model.compute),
        locate: locate::settings(&options.search)?,
        base: options.base.as_deref().map(BaseName::of),
        baseline,
        cache: options.cache,
    })
}
