//! `harden`.

use crate::options::{ComputeArgs, Format, NeuronArgs};
use crate::{output, patch as written};
use achilles_audit::architecture::{self, Recipe};
use achilles_audit::checkpoint::{Checkpoint, Source};
use achilles_audit::document::Document;
use achilles_audit::evaluate::corpus::{Corpus, KINDS, Reading};
use achilles_audit::harden::{Calibration, HardenSettings, Hardened, harden};
use achilles_audit::patch::{self, Folder, Plan, WriteSettings};
use achilles_audit::progress::Progress;
use achilles_audit::{Error, Result};
use clap::ArgGroup;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(group = NeuronArgs::needed())]
#[command(group = ArgGroup::new("where to").args(["output", "in_place", "dry_run"]).required(true).multiple(true))]
pub struct Options {
    /// A model folder or a hub id (org/name[@revision])
    pub model: String,
    /// The folder to write, which must not exist yet, or be empty
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Edit the model folder itself; the original bytes are kept beside the receipt
    #[arg(long, conflicts_with = "output")]
    pub in_place: bool,
    /// Measure what the spares would do, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub neurons: NeuronArgs,
    /// Spares of each critical row: so many more have to be lost for the model to collapse
    #[arg(long, value_name = "N", default_value = "1")]
    pub spares: NonZeroUsize,
    /// Of several critical rows, spare no more once losing all of them costs no more than this (log10 of the perplexity
    /// ratio)
    #[arg(long, value_name = "DAMAGE", default_value_t = HardenSettings::default().enough)]
    pub enough: f64,
    /// The texts that spares are fitted to, and judged by every fourth of: a file, hf://datasets/ORG/NAME/CONFIG/SPLIT, or
    /// kinds or sample, which come with the program
    #[arg(long, value_name = "FILE", default_value = KINDS)]
    pub corpus: String,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Form of the result
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// Hard-link the shards that do not change, instead of copying them
    #[arg(long, requires = "output")]
    pub link: bool,
    /// Put the SHA-256 of whole files that change into the receipt, as `patch --digests`
    #[arg(long)]
    pub digests: bool,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    if !options.enough.is_finite() {
        return Err(Error::input(format!("--enough is {}, expected a number", options.enough)));
    }
    let settings = WriteSettings { link: options.link, digests: options.digests };
    if options.in_place && !options.dry_run {
        let Source::Directory(root) = Source::find(&options.model)? else {
            let problem = "is not a model folder; --in-place edits one, -o writes one";
            return Err(Error::input(format!("{} {problem}", options.model)));
        };
        // Before anything is measured: nobody may change the folder in between.
        let folder = Folder::lock(&root)?;
        let (_, plan, document) = hardened(options, progress)?;
        patch::check_in_place(&plan)?;
        output::print(&options.format.render(&document)?)?;
        return written::done(&plan, &root, &patch::in_place(&folder, &plan, settings)?);
    }
    let (checkpoint, plan, document) = hardened(options, progress)?;
    let behind = match &options.output {
        Some(out) => patch::check_new(&plan, out)?,
        None => Vec::new(),
    };
    output::print(&options.format.render(&document)?)?;
    written::tell_behind(&options.model, &behind);
    match &options.output {
        Some(out) if !options.dry_run => {
            written::done(&plan, out, &patch::write_new(&checkpoint, &plan, out, settings, progress)?)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn hardened(options: &Options, progress: &dyn Progress) -> Result<(Checkpoint, Plan, Document<Hardened>)> {
    let checkpoint = Checkpoint::open(&options.model, progress)?;
    patch::check_unpatched_at(checkpoint.root())?;
    let recipe = Recipe::read(checkpoint.config())?;
    let located = options.neurons.read(&architecture::name(checkpoint.config(), Some(&recipe)))?;
    let corpus = Corpus::open(&options.corpus, &Reading::default(), progress)?;
    let settings = HardenSettings { spares: options.spares.get(), enough: options.enough };
    let (calibration, compute) = (Calibration::of(&corpus)?, options.compute.settings());
    harden(checkpoint, &located.neurons, &calibration, &settings, &compute, progress)
}
