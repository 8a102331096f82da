//! `patch`.

use crate::args::Patch;
use crate::{locate, output, stderr};
use achilles_audit::checkpoint::{Checkpoint, Source};
use achilles_audit::model::Recipe;
use achilles_audit::neuron::{Action, Intervention, Neuron};
use achilles_audit::patch::{self, Folder, Plan, Receipt, Settings};
use achilles_audit::progress::Progress;
use achilles_audit::{Error, Result, metrics, report};
use std::path::Path;
use std::process::ExitCode;

pub fn run(options: &Patch, progress: &dyn Progress) -> Result<ExitCode> {
    if let (Some(patched), Some(original)) = (&options.verify, &options.original) {
        return verify(patched, original, progress);
    }
    let Some(model) = &options.model else { return Err(Error::input("no MODEL to patch")) };
    let neurons = match &options.critical {
        Some(path) => patch::critical_neurons(path)?,
        None => options.neuron.clone(),
    };
    let settings = Settings { link: options.link, digests: !options.no_digests };
    if options.in_place {
        let Source::Directory(root) = Source::find(model)? else {
            return Err(Error::input(format!("{model} is not a model folder; --in-place edits one, -o writes one")));
        };
        // Before the plan is made: nobody may change the folder in between.
        let folder = Folder::lock(&root)?;
        if folder.rolled_back() {
            stderr::line(&format!("{model}: an unfinished patch was found, the original bytes are back"));
        }
        let (_, plan) = plan(options, model, &neurons, progress)?;
        return finish(options, &plan, &root, |plan| patch::in_place(&folder, plan, settings));
    }
    let (checkpoint, plan) = plan(options, model, &neurons, progress)?;
    let out = options.output.as_deref().unwrap_or(Path::new(""));
    finish(options, &plan, out, |plan| patch::to_folder(&checkpoint, plan, out, settings, progress))
}

fn plan(options: &Patch, model: &str, neurons: &[Neuron], progress: &dyn Progress) -> Result<(Checkpoint, Plan)> {
    let checkpoint = Checkpoint::open(model, progress)?;
    let recipe = Recipe::read(checkpoint.config())?;
    let asked = |action: &dyn Fn(usize) -> Action| -> Vec<Intervention> {
        let one = |(at, neuron): (usize, &Neuron)| Intervention { neuron: neuron.clone(), action: action(at) };
        neurons.iter().enumerate().map(one).collect()
    };
    if !options.mean {
        let plan = Plan::new(&checkpoint, &recipe, &asked(&|_| Action::Scale(options.beta)))?;
        return Ok((checkpoint, plan));
    }
    // What weights cannot hold is refused before the model is loaded.
    Plan::new(&checkpoint, &recipe, &asked(&|_| Action::Set(0.0)))?;
    let (opened, text) = locate::open(&options.model_args(model), &options.text, progress)?;
    progress.begin("means", recipe.layers.len() as u64, "layers");
    let means = metrics::means(&opened, &text.ids, neurons, progress)?;
    progress.end();
    let plan = Plan::new(&checkpoint, &recipe, &asked(&|at| Action::Set(means[at])))?;
    Ok((checkpoint, plan))
}

/// Prints the plan, and writes it unless that is all that was asked for.
fn finish(
    options: &Patch,
    plan: &Plan,
    folder: &Path,
    write: impl FnOnce(&Plan) -> Result<Receipt>,
) -> Result<ExitCode> {
    output::print(&report::table::patch_plan(plan))?;
    if !options.dry_run {
        let receipt = write(plan)?;
        let bytes: u64 = receipt.edits.iter().map(|e| e.span.bytes()).sum();
        let (edits, files) = (receipt.edits.len(), receipt.files.len());
        stderr::line(&format!(
            "{}: {bytes} bytes in {edits} edits of {files} files, see {}",
            folder.display(),
            patch::RECEIPT
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(patched: &Path, original: &str, progress: &dyn Progress) -> Result<ExitCode> {
    let found = patch::verify(patched, &Checkpoint::open(original, progress)?, progress)?;
    let mut text: String = found.differences.iter().map(|line| format!("{line}\n")).collect();
    text += &format!(
        "{} files, {} bytes compared; {} bytes belong to the receipt's edits; {}\n",
        found.files,
        found.bytes,
        found.edited_bytes,
        match found.differences.len() {
            0 => "nothing else differs".to_owned(),
            n => format!("{n} differences"),
        }
    );
    output::print(&text)?;
    Ok(ExitCode::from(u8::from(!found.differences.is_empty())))
}
