//! `monitor record` and `monitor check`.

use crate::options::{ComputeArgs, ModelArgs, OutputArgs};
use crate::output;
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::Model;
use achilles_audit::evaluate::text::Tokenizer;
use achilles_audit::locate::SiteSelection;
use achilles_audit::monitor::{self, Baseline, DEFAULT_FALSE_ALARM_RATE, DEFAULT_MAX_TOKENS, Prompts, Watched};
use achilles_audit::progress::Progress;
use achilles_audit::{Error, Result, files, report};
use clap::{ArgGroup, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write down the distribution of norms at every site over many prompts
    ///
    /// Sites are the outputs of modules and of every RMSNorm; norms are the L2 norm and max |x| of a position, with the
    /// channel that holds it. Every other prompt makes the profile, the others calibrate the alarm.
    Record(RecordOptions),
    /// Hold a model, or norms that a serving process dumped, against a baseline: exit code 1 where they are not like it
    ///
    /// On prompts like those of the baseline a model like the baseline's alarms with probability --false-alarm-rate or
    /// less.
    Check(CheckOptions),
}

#[derive(Debug, clap::Args)]
pub struct RecordOptions {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompts, one a line; in a .jsonl file one {"text": …} a line. Some 200 make a good baseline
    #[arg(long, alias = "text", value_name = "FILE", num_args = 1.., required = true)]
    pub prompts: Vec<PathBuf>,
    /// The baseline to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Which modules beside the RMSNorms: reference (as the published code), linear, down_proj, or a glob over module
    /// paths
    #[arg(long, default_value = "reference")]
    pub sites: SiteSelection,
    /// Cut prompts after so many tokens; a check cuts its own likewise
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_TOKENS)]
    pub max_tokens: usize,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").args(["prompts", "activations"]).required(true))]
pub struct CheckOptions {
    /// A model folder, a .gguf file, or a hub id (org/name[@revision])
    #[arg(required_unless_present = "activations", requires = "prompts")]
    pub model: Option<String>,
    /// What `monitor record` wrote
    #[arg(long, value_name = "FILE")]
    pub baseline: PathBuf,
    /// Prompts of the same kind as the baseline's, but none of them: one a line; in a .jsonl file one {"text": …} a
    /// line
    #[arg(long, alias = "text", value_name = "FILE", num_args = 1..)]
    pub prompts: Vec<PathBuf>,
    /// Norms that a serving process dumped, as contrib/ records them, instead of a model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "dtype", "device", "weights", "memory", "stream"])]
    pub activations: Option<PathBuf>,
    /// The probability of a false alarm
    #[arg(long, alias = "alpha", value_name = "P", default_value_t = DEFAULT_FALSE_ALARM_RATE, allow_hyphen_values = true)]
    pub false_alarm_rate: f64,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(command: &Command, progress: &dyn Progress) -> Result<ExitCode> {
    match command {
        Command::Record(options) => record(options, progress),
        Command::Check(options) => check(options, progress),
    }
}

fn record(options: &RecordOptions, progress: &dyn Progress) -> Result<ExitCode> {
    files::check_writable(&options.output)?;
    monitor::check_max_tokens(options.max_tokens)?;
    let (model, prompts) =
        open(&options.model.model, &options.model.compute, &options.prompts, options.max_tokens, progress)?;
    let baseline = monitor::record(&model, &prompts, &options.sites, options.max_tokens, progress)?;
    files::write_whole(&options.output, baseline.to_json()?.as_bytes())?;
    output::print(&report::monitor::recorded(&baseline))?;
    Ok(ExitCode::SUCCESS)
}

fn check(options: &CheckOptions, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    monitor::check_false_alarm_rate(options.false_alarm_rate)?;
    let baseline = Baseline::read(&options.baseline)?;
    let of = (options.baseline.as_path(), &baseline);
    let checked = match (&options.activations, &options.model) {
        (Some(dump), _) => monitor::check_watched(&Watched::Activations(dump), of, options.false_alarm_rate, progress)?,
        (None, Some(model)) => {
            let (model, prompts) =
                open(model, &options.compute, &options.prompts, baseline.settings.max_tokens, progress)?;
            monitor::check_watched(&Watched::Model(&model, &prompts), of, options.false_alarm_rate, progress)?
        }
        (None, None) => return Err(Error::input("give a MODEL with --prompts, or --activations")),
    };
    output::write(&options.output, &checked)?;
    Ok(ExitCode::from(u8::from(checked.result.result.alarm)))
}

/// The prompts come before the weights: a mistake there should not have to wait for them.
fn open(
    model: &str,
    compute: &ComputeArgs,
    text: &[PathBuf],
    max_tokens: usize,
    progress: &dyn Progress,
) -> Result<(Model, Prompts)> {
    let checkpoint = Checkpoint::open(model, progress)?;
    let recipe = Recipe::read(checkpoint.config())?;
    let prompts = Prompts::read(text, &Tokenizer::of(&checkpoint)?, max_tokens)?;
    Ok((Model::new(checkpoint, recipe, &compute.settings(), progress)?, prompts))
}
