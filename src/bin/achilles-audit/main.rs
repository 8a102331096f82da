//! The command line of achilles-audit.

mod args;
mod compare;
mod diff;
mod fingerprint;
mod import;
mod lint;
mod locate;
mod monitor;
mod output;
mod patch;
mod perplexity;
mod probe;
mod progress;
mod rules;
mod scan;
mod shell;
mod sign;
mod stderr;
mod unpatch;
mod vault;
mod verify;
mod verify_signature;

use achilles_audit::{Error, Result, worker};
use args::{Args, Command};
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = worker::serve_if_asked() {
        return code;
    }
    let (args, typed) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => return shell::usage(error),
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

fn run(args: Args) -> Result<ExitCode> {
    let progress = progress::Bars::new(args.progress)?;
    match args.command {
        Command::Scan(options) => scan::run(&options, &progress),
        Command::Rules(command) => rules::run(&command),
        Command::Explain(options) => rules::explain(&options),
        Command::Compare(options) => compare::run(&options, &progress),
        Command::Published(options) => compare::published(&options),
        Command::Locate(options) => locate::run(&options, &progress),
        Command::Perplexity(options) => perplexity::run(&options, &progress),
        Command::Probe(options) => probe::run(&options, &progress),
        Command::Monitor { command } => monitor::run(&command, &progress),
        Command::Lint(options) => lint::run(&options, &progress),
        Command::Import(options) => import::run(&options, &progress),
        Command::Patch(options) => patch::run(&options, &progress),
        Command::Unpatch(options) => unpatch::run(&options),
        Command::Fingerprint(options) => fingerprint::run(&options, &progress),
        Command::Verify(options) => verify::run(&options, &progress),
        Command::Diff(options) => diff::run(&options, &progress),
        Command::Sign(options) => sign::run(&options, &progress),
        Command::VerifySignature(options) => verify_signature::run(&options, &progress),
        Command::Vault(options) => vault::keep(&options, &progress),
        Command::Restore(options) => vault::restore(&options),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { output } => shell::manual(&output),
    }
}
