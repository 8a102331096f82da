//! `perplexity`.

use crate::options::{CorpusArgs, ModelArgs, NeuronArgs, OutputArgs, TextArgs};
use crate::output;
use achilles_audit::Result;
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::{Footprint, Model};
use achilles_audit::evaluate::corpus_perplexity::{check_memory, corpus_perplexity};
use achilles_audit::evaluate::perplexity::{Scaled, perplexity};
use achilles_audit::evaluate::text::Tokenizer;
use achilles_audit::evaluate::windows::EncodedCorpus;
use achilles_audit::progress::Progress;
use clap::ArgGroup;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("texts").args(["corpus", "text", "text_file"]))]
pub struct Options {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub corpora: CorpusArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub neurons: NeuronArgs,
    /// Multiply the neurons by this instead of masking them
    #[arg(long, requires = "NeuronArgs", allow_hyphen_values = true)]
    pub beta: Option<f64>,
}

impl Options {
    /// The neurons, in a model of `architecture`, and their factor.
    fn scaled(&self, architecture: &str) -> Result<Scaled> {
        let scaled = Scaled { neurons: self.neurons.read(architecture)?.neurons, beta: self.beta.unwrap_or(0.0) };
        scaled.check()?;
        Ok(scaled)
    }
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let settings = options.corpora.settings()?;
    let (text, corpora) = (options.text.read()?, options.corpora.read(progress)?);
    // The weights come last: a mistake should not have to wait for them.
    let mut checkpoint = Checkpoint::open(&options.model.model, progress)?;
    let recipe = Recipe::read(checkpoint.config())?;
    let scaled = options.scaled(recipe.architecture)?;
    let tokenizer = Tokenizer::of(&checkpoint)?;
    let compute = options.model.compute.settings();
    if corpora.is_empty() {
        let text = tokenizer.encode(&text)?;
        let model = Model::new(checkpoint, recipe, &compute, progress)?;
        output::write(&options.output, &perplexity(&model, &text, &scaled, progress)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let encode = |corpus| EncodedCorpus::of(&checkpoint, &tokenizer, corpus, &settings);
    let encoded: Vec<EncodedCorpus> = corpora.iter().map(encode).collect::<Result<_>>()?;
    Model::check_tensors(&mut checkpoint, &recipe)?;
    check_memory(&Footprint::of(&recipe, &compute)?, &recipe, &encoded)?;
    let model = Model::new(checkpoint, recipe, &compute, progress)?;
    let how = (&options.corpora.reading()?, &settings);
    output::write(&options.output, &corpus_perplexity(&model, &encoded, how, &scaled, progress)?)?;
    Ok(ExitCode::SUCCESS)
}
