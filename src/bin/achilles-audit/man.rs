//! `man`.

use crate::Args;
use achilles_audit::{Error, Result, files};
use clap::{Command, CommandFactory};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder to write them to
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let folder = options.output.as_path();
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
