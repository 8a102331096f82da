//! `locate`.

use crate::options::{LocateArgs, ModelArgs, OutputArgs, TextArgs};
use crate::{output, stderr};
use achilles_audit::locate::{self, IgnoreList};
use achilles_audit::progress::Progress;
use achilles_audit::{Result, report};
use clap::ValueEnum;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Print instead what makes a quantizer leave the modules alone that hold the critical set
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "format")]
    pub ignore_list: Option<IgnoreForm>,
    #[command(flatten)]
    pub locate: LocateArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IgnoreForm {
    /// `ignore` of an llm-compressor recipe (YAML)
    LlmCompressor,
    /// `--tensor-type` arguments of llama.cpp's llama-quantize
    Gguf,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let settings = options.locate.settings()?;
    let opened = options.model.before_loading(&options.text, progress)?;
    let subject = opened.load_to_locate((&options.model.compute.settings(), &settings), progress)?;
    let result = locate::locate(&subject, &settings, progress)?.report;
    let Some(form) = options.ignore_list else {
        output::write(&options.output, &result)?;
        return Ok(ExitCode::SUCCESS);
    };
    let neurons = result.result.critical_set.as_ref().map_or(&[][..], |set| &set.neurons);
    let list = IgnoreList::of(neurons, subject.model.recipe(), subject.model.checkpoint().tensors());
    let (text, unnamed) = match form {
        IgnoreForm::LlmCompressor => (report::ignore_list::llm_compressor(&list), Vec::new()),
        IgnoreForm::Gguf => report::ignore_list::llama_quantize(&list),
    };
    if neurons.is_empty() {
        stderr::line("no entry: nothing collapsed, so that there is no critical set");
    }
    list.left.iter().chain(&unnamed).for_each(|why| stderr::line(why));
    output::write_to(options.output.output.as_deref(), &text)?;
    Ok(ExitCode::SUCCESS)
}
