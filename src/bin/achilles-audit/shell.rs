//! `completions` and `man`: the command line, for shells and for readers.

use crate::args::Args;
use crate::output;
use achilles_audit::{Error, Result, files};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::path::Path;
use std::process::ExitCode;

pub fn completions(shell: Shell) -> Result<ExitCode> {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
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
