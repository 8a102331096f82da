//! The command line of achilles-audit.

mod compare;
mod completions;
mod diff;
mod estimate;
mod explain;
mod fingerprint;
mod harden;
mod import;
mod lint;
mod locate;
mod man;
mod monitor;
mod options;
mod output;
mod patch;
mod perplexity;
mod probe;
mod progress;
mod published;
mod renamed;
mod restore;
mod rules;
mod scan;
mod sign;
mod stderr;
mod study;
mod unpatch;
mod usage;
mod vault;
mod verify;
mod verify_patch;
mod verify_signature;

use achilles_audit::{Error, Result, worker};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use options::OutputArgs;
use std::process::ExitCode;

/// Finds the handful of neurons a language model cannot do without, and audits checkpoints before release.
///
/// MODEL is a model folder or a hub id (org/name[@revision]), and where it is not changed or signed a .gguf file, too.
/// Exit code: 0 done and clean, 1 findings, 2 could not do the job or not examine all that should be.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    /// How long waits are shown on standard error
    #[arg(long, global = true, value_enum, default_value = "auto")]
    progress: progress::Choice,
    #[command(subcommand)]
    command: Command,
}

/// Of the commands that judge by rules.
const JUDGED_EXIT_CODES: &str = "\
Exit code: 0 nothing speaks against it; 1 a finding does (by the rules: from a warning on); 2 nothing that was examined
does, but not everything that should was, or the job could not be done. The form of the report makes no difference.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Audit a checkpoint before release: may it ship? Files, critical set, base model, activations, fingerprint and
    /// signature, judged by rules
    #[command(after_help = JUDGED_EXIT_CODES)]
    Scan(scan::Options),
    /// List the rules that scan and lint judge by, or print the form of rule files
    #[command(subcommand)]
    Rules(rules::Command),
    /// Tell what a rule is about
    Explain(explain::Options),
    /// Find the critical set: noise importance, causal masking, minimization
    Locate(locate::Options),
    /// Tell what locate will take on this machine: memory, passes over the weights, seconds
    Estimate(estimate::Options),
    /// Tell whether variants of a model share its critical set: where it is, and what masking it does
    ///
    /// BASE is a model, what `locate --format json` wrote of one (a .json file), or published:NAME.
    Compare(compare::Options),
    /// List the critical sets that the paper's authors published
    Published(OutputArgs),
    /// Perplexity of a text or of corpora, as the model is or with neurons masked or scaled
    Perplexity(perplexity::Options),
    /// Ask questions before and after neurons are masked: the answers, and the probability of their first token
    Probe(probe::Options),
    /// Record how large activations usually are, and tell when they no longer are
    #[command(subcommand)]
    Monitor(monitor::Command),
    /// Repeat one of the paper's experiments, or all of them, on a model
    ///
    /// With -o, writes STUDY.json, a CSV file of each table, an SVG file of each chart, and index.html, a page of all
    /// studies that the folder holds. A study whose result is there, by the same version with the same settings, is not
    /// repeated: remove its .json file to have it repeated.
    Study(study::Options),
    /// Examine a checkpoint's files without running it: format, index, config, values, code
    ///
    /// Rules judge what is found, and say whether what was not examined counts.
    #[command(after_help = JUDGED_EXIT_CODES)]
    Lint(lint::Options),
    /// Convert a GGUF file to a Hugging Face model folder
    Import(import::Options),
    /// Bake a mask or a scaling of neurons into a checkpoint's weights, with a receipt
    Patch(patch::Options),
    /// Write spares of critical rows into a checkpoint: neurons that are silent until the row is lost, and then stand in
    ///
    /// Nothing is trained, and no shape changes. What they do is measured on texts that they were not fitted to, with the
    /// weights as they are written. `unpatch` undoes it, `verify-patch` proves that nothing else changed.
    Harden(harden::Options),
    /// Prove that a patched folder or GGUF differs from the original only as its receipt says; exit code 1 where it does not
    VerifyPatch(verify_patch::Options),
    /// Undo a patch by its receipt, bit for bit
    ///
    /// The edited ranges, and size and header of the files that hold them, have to be as the receipt says; with
    /// `patch --digests` so has every other byte of these files. Where they are not, nothing is changed.
    Unpatch(unpatch::Options),
    /// Write down what a checkpoint is: digests of its files, tensors, rows and columns
    Fingerprint(fingerprint::Options),
    /// Hold a checkpoint against its fingerprint: exit code 1 and what differs, down to the neuron, if it is not intact
    Verify(verify::Options),
    /// Say in what two checkpoints differ, down to the neuron; exit code 1 where they do
    Diff(diff::Options),
    /// Sign a checkpoint's files (OpenSSF Model Signing) with a key or a certificate
    Sign(sign::Options),
    /// Verify a checkpoint's signature (OpenSSF Model Signing)
    ///
    /// Exit code: 0 verified; 1 not verified, with every reason listed; 2 could not tell (a file cannot be read, is no
    /// signature, or is one of a kind that is not verified here).
    VerifySignature(verify_signature::Options),
    /// Keep the weights of a critical set in a small file, to repair the checkpoint with later
    Vault(vault::Options),
    /// Put the weights that a vault keeps back where they were changed, bit for bit
    ///
    /// Needs no receipt, and finds the tensors by name however they are sharded. Where that leaves nothing of a patch,
    /// its receipt is removed. Exit code 1: the kept parts are sound, but the same tensors were changed elsewhere.
    Restore(restore::Options),
    /// Print what makes a shell complete this command line
    Completions(completions::Options),
    /// Write manual pages, one for each command
    Man(man::Options),
}

fn main() -> ExitCode {
    if let Some(code) = worker::serve_if_asked() {
        return code;
    }
    let (args, typed) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => return usage::print(error),
    };
    tracing_subscriber::fmt()
        .with_writer(|| stderr::Escaping)
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_target(false)
        .without_time()
        .init();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The library turns these into errors.
        if std::thread::current().name() != Some(worker::GUARDED_THREAD) {
            usual(panic);
        }
    }));
    renamed::warn(&typed, std::env::args_os());
    match output::check_inputs(&typed).and_then(|()| run(args)) {
        Ok(code) => code,
        Err(error) => {
            stderr::line(&error.to_string());
            ExitCode::from(if matches!(error, Error::Interrupted) { 130 } else { 2 })
        }
    }
}

/// What was asked for, and as it was typed.
fn parse() -> std::result::Result<(Args, ArgMatches), clap::Error> {
    let typed = Args::command().try_get_matches()?;
    let args = Args::from_arg_matches(&typed).map_err(|error| error.format(&mut Args::command()))?;
    Ok((args, typed))
}

/// The subcommand that was typed, and its definition.
fn subcommand(mut typed: &ArgMatches) -> (&ArgMatches, clap::Command) {
    let mut command = Args::command();
    while let Some((name, below)) = typed.subcommand() {
        let Some(found) = command.find_subcommand(name) else { break };
        (typed, command) = (below, found.clone());
    }
    (typed, command)
}

fn run(args: Args) -> Result<ExitCode> {
    let progress = progress::Bars::new(args.progress)?;
    match args.command {
        Command::Scan(options) => scan::run(&options, &progress),
        Command::Rules(command) => rules::run(&command),
        Command::Explain(options) => explain::run(&options),
        Command::Compare(options) => compare::run(&options, &progress),
        Command::Published(options) => published::run(&options),
        Command::Locate(options) => locate::run(&options, &progress),
        Command::Estimate(options) => estimate::run(&options, &progress),
        Command::Perplexity(options) => perplexity::run(&options, &progress),
        Command::Probe(options) => probe::run(&options, &progress),
        Command::Study(options) => study::run(&options, &progress),
        Command::Monitor(command) => monitor::run(&command, &progress),
        Command::Lint(options) => lint::run(&options, &progress),
        Command::Import(options) => import::run(&options, &progress),
        Command::Patch(options) => patch::run(&options, &progress),
        Command::Harden(options) => harden::run(&options, &progress),
        Command::VerifyPatch(options) => verify_patch::run(&options, &progress),
        Command::Unpatch(options) => unpatch::run(&options),
        Command::Fingerprint(options) => fingerprint::run(&options, &progress),
        Command::Verify(options) => verify::run(&options, &progress),
        Command::Diff(options) => diff::run(&options, &progress),
        Command::Sign(options) => sign::run(&options, &progress),
        Command::VerifySignature(options) => verify_signature::run(&options, &progress),
        Command::Vault(options) => vault::run(&options, &progress),
        Command::Restore(options) => restore::run(&options),
        Command::Completions(options) => completions::run(&options),
        Command::Man(options) => man::run(&options),
    }
}
