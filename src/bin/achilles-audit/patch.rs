//! `patch`.

use crate::args::{Format, Patch};
use crate::{locate, output, stderr};
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::{Checkpoint, Source};
use achilles_audit::error::Count;
use achilles_audit::evaluate::metrics;
use achilles_audit::locate::Subject;
use achilles_audit::neuron::{Action, Intervention, Neuron};
use achilles_audit::patch::{self, Edit, Folder, Plan, Receipt, Settings};
use achilles_audit::progress::Progress;
use achilles_audit::{Error, Result, report};
use std::path::Path;
use std::process::ExitCode;

/// How many of the files are named that are not copied.
const BEHIND_LISTED: usize = 10;

pub fn run(options: &Patch, progress: &dyn Progress) -> Result<ExitCode> {
    if let (Some(patched), Some(original)) = (&options.verify, &options.original) {
        return verify(patched, original, progress);
    }
    let Some(model) = &options.model else { return Err(Error::input("no MODEL to patch")) };
    let settings = Settings { link: options.link, digests: options.digests };
    if options.in_place && !options.dry_run {
        let Source::Directory(root) = Source::find(model)? else {
            return Err(Error::input(format!("{model} is not a model folder; --in-place edits one, -o writes one")));
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
        Some(out) => patch::check_to_folder(&plan, out)?,
        None if options.in_place => patch::check_in_place(&plan).map(|()| Vec::new())?,
        None => patch::check_unpatched(&plan).map(|()| Vec::new())?,
    };
    print(options, &plan)?;
    if let Some(first) = behind.get(..behind.len().min(BEHIND_LISTED)).filter(|first| !first.is_empty()) {
        let more = behind.len() - first.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        stderr::line(&format!("{model}: not copied: {}{more}", first.join(", ")));
    }
    match &options.output {
        Some(out) if !options.dry_run => {
            done(&plan, out, &patch::to_folder(&checkpoint, &plan, out, settings, progress)?)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn plan(options: &Patch, model: &str, progress: &dyn Progress) -> Result<(Checkpoint, Plan)> {
    let checkpoint = Checkpoint::open(model, progress)?;
    let recipe = Recipe::read(checkpoint.config())?;
    let neurons = match &options.critical {
        Some(path) => patch::critical_neurons(path, recipe.architecture)?,
        None => options.neuron.clone(),
    };
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
    let Subject { model: opened, text, .. } = locate::open(&options.model_args(model), &options.text, progress)?;
    progress.begin("means", recipe.layers.len() as u64, "layers");
    let means = metrics::means(&opened, &text.ids, &neurons, progress)?;
    progress.end();
    let plan = Plan::new(&checkpoint, &recipe, &asked(&|at| Action::Set(means[at])))?;
    Ok((checkpoint, plan))
}

fn print(options: &Patch, plan: &Plan) -> Result<()> {
    output::print(&match options.format {
        Format::Table => report::table::patch_plan(plan),
        Format::Json => report::json::document(&report::json::patch_plan(plan))?,
    })
}

fn done(plan: &Plan, folder: &Path, receipt: &Receipt) -> Result<ExitCode> {
    let bytes: u64 = plan.edits.iter().map(Edit::changed_bytes).sum();
    let edits = Count(plan.edits.len(), "edit", "edits");
    let files = Count(receipt.files.len(), "file", "files");
    let folder = folder.display();
    stderr::line(&format!("{folder}: {bytes} bytes changed by {edits} of {files}, see {}", patch::RECEIPT));
    Ok(ExitCode::SUCCESS)
}

fn verify(patched: &Path, original: &str, progress: &dyn Progress) -> Result<ExitCode> {
    let found = patch::verify(patched, &Checkpoint::open(original, progress)?, progress)?;
    let mut text: String = found.differences.iter().map(|line| format!("differs: {line}\n")).collect();
    text += &format!(
        "{}, {} bytes compared; {} bytes belong to the receipt's edits; {}\n",
        Count(found.files, "file", "files"),
        found.bytes,
        found.edited_bytes,
        match found.differences.len() {
            0 => "nothing else differs".to_owned(),
            n => Count(n, "difference", "differences").to_string(),
        }
    );
    output::print(&text)?;
    Ok(ExitCode::from(u8::from(!found.differences.is_empty())))
}
