//! The command line, for shells and for readers: `completions`, `man`, and what is said of a mistake in it.

use crate::args::Args;
use crate::{output, stderr};
use achilles_audit::{Error, Result, escape, files};
use clap::error::ContextValue;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::path::Path;
use std::process::ExitCode;

/// What the parser says in place of arguments: help, the version, or what is wrong. It quotes what was typed.
pub fn usage(mut error: clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    let said: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in said {
        let clean = |text: &dyn ToString| escape::printable(&text.to_string());
        let value = match value {
            ContextValue::String(text) => ContextValue::String(clean(&text)),
            ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(|t| clean(t)).collect()),
            ContextValue::StyledStrs(texts) => {
                ContextValue::StyledStrs(texts.iter().map(|t| clean(t).into()).collect())
            }
            other => other,
        };
        error.insert(kind, value);
    }
    stderr::usage(&error.render().to_string());
    ExitCode::from(2)
}

pub fn completions(shell: Shell) -> Result<ExitCode> {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    output::print_as_it_is(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

pub fn manual(folder: &Path) -> Result<ExitCode> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    page(&command, folder)?;
    Ok(ExitCode::SUCCESS)
}

/// The page of a command and those of its subcommands.
fn page(command: &Command, folder: &Path) -> Result<()> {
    let page = clap_mangen::Man::new(command.clone());
    let path = folder.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text).map_err(Error::io(&path))?;
    files::write_whole(&path, &text)?;
    command.get_subcommands().try_for_each(|below| self::page(below, folder))
}
