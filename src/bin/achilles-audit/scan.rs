//! `scan`: the release gate.

use crate::options::{ModelArgs, ReportArgs, RulesArgs, SearchArgs, TextArgs, TrustArgs};
use crate::{output, stderr};
use achilles_audit::Result;
use achilles_audit::audit::{self, BaselineCheck, Request, Run, Signature};
use achilles_audit::compare::BaseName;
use achilles_audit::monitor::Baseline;
use achilles_audit::progress::Progress;
use achilles_audit::rules::Date;
use clap::ArgGroup;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("trusted").args(TrustArgs::ANCHORS).requires("signature"))]
#[command(mut_arg("ignore_unsigned_files", |arg| arg.requires("signature")))]
pub struct Options {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
    /// Do not run the model: look at its files only
    #[arg(long = "static", conflicts_with_all = ["base", "baseline", "result_cache"])]
    pub no_run: bool,
    /// Compare with the model that this one was made from: a model, what `locate --format json` wrote of one (a .json
    /// file), or published:NAME
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Hold its activations against this baseline (see monitor record)
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub baseline: Option<PathBuf>,
    /// The prompts for that, other ones than were recorded, one a line; in a .jsonl file one {"text": …} a line
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "baseline")]
    pub prompts: Vec<PathBuf>,
    /// Keep what running the model gives in the user's cache, and take it from there while no byte and no setting that
    /// it depends on has changed: all bytes are digested for that. What lies in the cache is believed
    #[arg(long, alias = "cache")]
    pub result_cache: bool,
    /// Hold the checkpoint against this fingerprint
    #[arg(long, value_name = "FILE")]
    pub fingerprint: Option<PathBuf>,
    /// Verify its signature [FILE: MODEL/model.sig, or MODEL.sig beside a single file]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, requires = "trusted")]
    pub signature: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub search: SearchArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check_file(options.report.output.as_deref())?;
    let rules = options.rules.read()?;
    let run = (!options.no_run).then(|| run_of(options)).transpose()?;
    let signature = options.signature.as_ref().map(|file| signature_of(options, file.clone())).transpose()?;
    let request = Request {
        model: &options.model.model,
        rules: &rules,
        run,
        fingerprint: options.fingerprint.clone(),
        signature,
        today: Date::today(),
    };
    let found = audit::audit(&request, progress)?;
    output::write_report(&options.report, &found)?;
    for left in &found.result.not_examined {
        stderr::line(&format!("not examined: {}: {}", left.measurement.as_str(), left.why));
    }
    Ok(ExitCode::from(found.result.verdict.exit_code()))
}

fn signature_of(options: &Options, file: Option<PathBuf>) -> Result<Signature> {
    let ignore_unsigned_files = options.trust.ignore_unsigned_files;
    Ok(Signature { trust: options.trust.read()?, file, ignore_unsigned_files })
}

fn run_of(options: &Options) -> Result<Run> {
    let baseline = match &options.baseline {
        None => None,
        Some(file) => Some(BaselineCheck {
            file: file.clone(),
            baseline: Baseline::read(file)?,
            prompts: options.prompts.clone(),
        }),
    };
    Ok(Run {
        text: options.text.read()?,
        model: options.model.compute.settings(),
        locate: options.search.settings()?,
        base: options.base.as_deref().map(BaseName::of),
        baseline,
        cache: options.result_cache,
    })
}
