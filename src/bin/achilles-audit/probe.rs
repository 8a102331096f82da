//! `probe`.

use crate::options::{ModelArgs, NeuronArgs, OutputArgs};
use crate::output;
use achilles_audit::Result;
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::Model;
use achilles_audit::evaluate::text::Tokenizer;
use achilles_audit::probe::{self, ChatTemplate, DEFAULT_MAX_NEW_TOKENS, Prompts, Question};
use achilles_audit::progress::Progress;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(group = NeuronArgs::needed())]
pub struct Options {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub neurons: NeuronArgs,
    /// Prompts, one a line; in a .jsonl file one {"prompt": …, "answer": …} a line, where the answer is optional
    /// [default: five questions in the manner of the paper's]
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_NEW_TOKENS)]
    pub max_new_tokens: usize,
    /// Give the prompts as they are, where the checkpoint has a chat template
    #[arg(long)]
    pub no_chat_template: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    probe::check_max_new_tokens(options.max_new_tokens)?;
    let questions = match &options.prompts {
        Some(path) => Question::read(path)?,
        None => Question::defaults(),
    };
    // The weights come last: a mistake should not have to wait for them.
    let checkpoint = Checkpoint::open(&options.model.model, progress)?;
    let recipe = Recipe::read(checkpoint.config())?;
    let neurons = options.neurons.read(recipe.architecture)?.neurons;
    let tokenizer = Tokenizer::of(&checkpoint)?;
    let template = if options.no_chat_template { None } else { ChatTemplate::of(checkpoint.opened())? };
    let prompts = Prompts::new(questions, &checkpoint, &tokenizer, template.as_ref())?;
    let model = Model::new(checkpoint, recipe, &options.model.compute.settings(), progress)?;
    let probed = probe::probe(&model, &tokenizer, &prompts, &neurons, options.max_new_tokens, progress)?;
    output::write(&options.output, &probed)?;
    Ok(ExitCode::SUCCESS)
}
