//! `compare`.

use crate::options::{ComputeArgs, OutputArgs, RulesArgs, SearchArgs, TextArgs};
use crate::output;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compare::{self, BaseName, Comparison, Unsearched, Variant};
use achilles_audit::locate::{OpenedSubject, locate};
use achilles_audit::progress::Progress;
use achilles_audit::{Result, audit};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(mut_arg("rules", |arg| arg.help("The rules whose thresholds the verdicts take: default, release, or a file")))]
pub struct Options {
    /// The model that the variants were made from: a model, a critical set (.json), or published:NAME
    pub base: String,
    /// Model folders, .gguf files or hub ids
    #[arg(required = true, value_name = "VARIANT")]
    pub variants: Vec<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub search: SearchArgs,
    #[command(flatten)]
    pub rules: RulesArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let limits = audit::base_limits(&options.rules.read()?);
    let (settings, compute) = (options.search.settings()?, options.compute.settings());
    let text = options.text.read()?;
    // Everything that can be wrong comes before the first search.
    let base = Unsearched::open(&BaseName::of(&options.base), &text, progress)?;
    let open = |name: &String| OpenedSubject::new(Checkpoint::open(name, progress)?, &text);
    let opened = options.variants.iter().map(open).collect::<Result<Vec<_>>>()?;
    opened.iter().try_for_each(|variant| base.check(variant, &settings))?;
    let base = base.search(&compute, &settings, progress)?;
    let mut variants = Vec::new();
    for variant in opened {
        let subject = variant.load(&compute, progress)?;
        let located = locate(&subject, &settings, progress)?;
        let compared = compare::compare(&base, &subject, &located, &limits, progress)?;
        variants.push(Variant { located: located.report, compared });
    }
    let result = Comparison::new(&base, limits, variants);
    output::write(&options.output, &result)?;
    Ok(ExitCode::SUCCESS)
}
