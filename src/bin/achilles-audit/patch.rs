//! `patch`.

use crate::options::{ComputeArgs, Format, TextArgs};
use crate::{output, stderr, verify_patch};
use achilles_audit::architecture::{self, Recipe};
use achilles_audit::checkpoint::{Checkpoint, Source};
use achilles_audit::document::critical_set;
use achilles_audit::error::Count;
use achilles_audit::evaluate::metrics;
use achilles_audit::locate::{OpenedSubject, Subject};
use achilles_audit::neuron::{Action, Intervention, Neuron};
use achilles_audit::patch::{self, Edit, Folder, Plan, Receipt, WriteSettings};
use achilles_audit::progress::Progress;
use achilles_audit::{Error, Result};
use clap::ArgGroup;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "achilles-audit patch MODEL <--critical FILE|--neuron ID> <-o PATH|--in-place|--dry-run> ..."
)]
#[command(group = ArgGroup::new("which neurons").args(["critical", "neuron", "verify"]).required(true))]
#[command(group = ArgGroup::new("where to").args(["output", "in_place", "dry_run", "verify"]).required(true).multiple(true))]
pub struct Options {
    /// A model folder, a .gguf file, or a hub id (org/name[@revision])
    #[arg(required_unless_present = "verify")]
    pub model: Option<String>,
    /// The folder to write, which must not exist yet, or be empty; of a GGUF of one file, the new .gguf file
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Edit the model folder or .gguf file itself; the original bytes are kept beside the receipt
    #[arg(long, conflicts_with = "output")]
    pub in_place: bool,
    /// A critical-set.json: its critical neurons are patched
    #[arg(long, value_name = "FILE")]
    pub critical: Option<PathBuf>,
    /// A neuron to patch, such as L11.mlp.down_proj:out:507; can be given several times
    #[arg(long, value_name = "ID")]
    pub neuron: Vec<Neuron>,
    /// Multiply the neurons by this; 0 masks them
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    pub beta: f64,
    /// Set the neurons to their mean over the text instead; their modules need a bias
    #[arg(long, conflicts_with = "beta")]
    pub mean: bool,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print the plan and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Form of the plan
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// Hard-link the shards that do not change, instead of copying them. Shards that change are copied, which takes no
    /// time where the file system can share blocks
    #[arg(long, requires = "output")]
    pub link: bool,
    /// Put the SHA-256 of whole files that change into the receipt, beside those of their headers and of each changed
    /// range: slow, as all of their bytes are read. `unpatch` then checks them too
    #[arg(long)]
    pub digests: bool,
    /// The old name of verify-patch
    #[arg(long, hide = true, requires = "original", conflicts_with_all = ["model", "output", "in_place", "dry_run"])]
    pub verify: Option<PathBuf>,
    /// What --verify compares with
    #[arg(long, hide = true, requires = "verify")]
    pub original: Option<String>,
}

/// How many of the files are named that are not copied.
const BEHIND_LISTED: usize = 10;

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    if let (Some(folder), Some(original)) = (&options.verify, &options.original) {
        tracing::warn!("patch --verify is called verify-patch now; the old name is understood for one more release");
        let options = verify_patch::Options { patched: folder.clone(), original: original.clone() };
        return verify_patch::run(&options, progress);
    }
    let Some(model) = &options.model else { return Err(Error::input("no MODEL to patch")) };
    let settings = WriteSettings { link: options.link, digests: options.digests };
    if options.in_place && !options.dry_run {
        let (Source::Directory(root) | Source::Gguf(root)) = Source::find(model)? else {
            let problem = "is not a model folder or .gguf file; --in-place edits one, -o writes one";
            return Err(Error::input(format!("{model} {problem}")));
        };
        // Before the plan is made: nobody may change the folder in between.
        let folder = Folder::lock(&root)?;
        let (_, plan) = plan(options, model, progress)?;
        patch::check_in_place(&plan)?;
        print(options, &plan)?;
        return done(&plan, &root, &patch::in_place(&folder, &plan, settings)?);
    }
    let (checkpoint, plan) = plan(options, model, progress)?;
    let behind = match &options.output {
        Some(out) => patch::check_new(&plan, out)?,
        None if options.in_place => patch::check_in_place(&plan).map(|()| Vec::new())?,
        None => patch::check_unpatched(&plan).map(|()| Vec::new())?,
    };
    print(options, &plan)?;
    tell_behind(model, &behind);
    match &options.output {
        Some(out) if !options.dry_run => {
            done(&plan, out, &patch::write_new(&checkpoint, &plan, out, settings, progress)?)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn plan(options: &Options, model: &str, progress: &dyn Progress) -> Result<(Checkpoint, Plan)> {
    let checkpoint = Checkpoint::open(model, progress)?;
    let recipe = Recipe::of_known(checkpoint.config())?;
    let recipe = recipe.as_ref();
    let neurons = match &options.critical {
        Some(path) => critical_set::neurons(path, &architecture::name(checkpoint.config(), recipe))?.neurons,
        None => options.neuron.clone(),
    };
    let asked = |action: &dyn Fn(usize) -> Action| -> Vec<Intervention> {
        let one = |(at, neuron): (usize, &Neuron)| Intervention { neuron: neuron.clone(), action: action(at) };
        neurons.iter().enumerate().map(one).collect()
    };
    if !options.mean {
        let plan = Plan::new(&checkpoint, recipe, &asked(&|_| Action::Scale(options.beta)))?;
        return Ok((checkpoint, plan));
    }
    // What weights cannot hold is refused before the model is loaded.
    Plan::new(&checkpoint, recipe, &asked(&|_| Action::Set(0.0)))?;
    let opened = OpenedSubject::new(Checkpoint::open(model, progress)?, &options.text.read()?)?;
    let Subject { model: opened, text, .. } = opened.load(&options.compute.settings(), progress)?;
    let means = metrics::means(&opened, &text.ids, &neurons, progress)?;
    let plan = Plan::new(&checkpoint, recipe, &asked(&|at| Action::Set(means[at])))?;
    Ok((checkpoint, plan))
}

fn print(options: &Options, plan: &Plan) -> Result<()> {
    output::print(&options.format.render(&plan.document())?)
}

/// Names files of `model` that are not copied.
pub fn tell_behind(model: &str, behind: &[String]) {
    if let Some(first) = behind.get(..behind.len().min(BEHIND_LISTED)).filter(|first| !first.is_empty()) {
        let more = behind.len() - first.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        stderr::line(&format!("{model}: not copied: {}{more}", first.join(", ")));
    }
}

/// Tells what was written.
pub fn done(plan: &Plan, place: &Path, receipt: &Receipt) -> Result<ExitCode> {
    let bytes: u64 = plan.edits.iter().map(Edit::changed_bytes).sum();
    let edits = Count(plan.edits.len(), "edit", "edits");
    let files = Count(receipt.files.len(), "file", "files");
    let (place, name) = (place.display(), receipt.name());
    stderr::line(&format!("{place}: {bytes} bytes changed by {edits} of {files}, see {name}"));
    Ok(ExitCode::SUCCESS)
}
