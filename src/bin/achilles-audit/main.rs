//! The command line of achilles-audit.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod import;
mod locate;
mod output;
mod patch;
mod perplexity;
mod progress;
mod unpatch;

use achilles_audit::Error;
use args::{Args, Command};
use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(tracing::Level::WARN)
        .with_target(false)
        .without_time()
        .init();
    match run(args) {
        Ok(code) => code,
        Err(Error::Interrupted) => {
            eprintln!("achilles-audit: interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("achilles-audit: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> achilles_audit::Result<ExitCode> {
    let progress = progress::Bars::new(args.progress)?;
    match args.command {
        Command::Scan(options) | Command::Locate(options) => locate::run(&options, &progress),
        Command::Perplexity(options) => perplexity::run(&options, &progress),
        Command::Import(options) => import::run(&options, &progress),
        Command::Patch(options) => patch::run(&options, &progress),
        Command::Unpatch(options) => unpatch::run(&options),
    }
}
