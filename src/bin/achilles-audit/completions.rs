//! `completions`.

use crate::{Args, output};
use achilles_audit::Result;
use clap::CommandFactory;
use clap_complete::Shell;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The shell
    pub shell: Shell,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    output::print_as_it_is(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
