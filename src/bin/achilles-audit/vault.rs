//! `vault` and `restore`.

use crate::args::{Format, Restore, Vault};
use crate::{output, stderr};
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::error::Count;
use achilles_audit::neuron::Intervention;
use achilles_audit::patch::{self, Plan, RestoreSettings, vault};
use achilles_audit::progress::Progress;
use achilles_audit::{Result, report};
use std::process::ExitCode;

pub fn keep(options: &Vault, progress: &dyn Progress) -> Result<ExitCode> {
    vault::check_out(&options.output)?;
    let checkpoint = Checkpoint::open(&options.model, progress)?;
    let recipe = Recipe::read(checkpoint.config())?;
    let neurons = options.neurons.read(recipe.architecture)?;
    let plan = Plan::new(&checkpoint, &recipe, &neurons.into_iter().map(Intervention::zero).collect::<Vec<_>>())?;
    let index = vault::keep(&checkpoint, &plan, &options.output)?;
    let bytes: u64 = plan.edits.iter().map(|edit| edit.span.bytes()).sum();
    let parts = Count(index.parts.len(), "part", "parts");
    stderr::line(&format!("{}: keeps {parts} of the weights, {bytes} bytes", options.output.display()));
    Ok(ExitCode::SUCCESS)
}

pub fn restore(options: &Restore) -> Result<ExitCode> {
    output::check(&options.output)?;
    let settings = RestoreSettings { dry_run: options.dry_run, force: options.force };
    let restored = patch::restore(&options.folder, &options.vault, settings)?;
    let folder = options.folder.display();
    if restored.rolled_back {
        stderr::line(&format!("{folder}: an unfinished run was found, its bytes were put back first"));
    }
    for tensor in &restored.other_tensors {
        stderr::line(&format!("{folder}: tensor {tensor} differs from the vault's model in more than the kept parts"));
    }
    let rendered = match options.output.format {
        Format::Table => report::table::restored(&restored, options.dry_run),
        Format::Json => report::json::document(&report::json::restored(&restored, &options.folder, options.dry_run))?,
    };
    output::write(&options.output, &rendered)?;
    // Forced, the caller knows.
    let found_elsewhere = !restored.other_tensors.is_empty() && !options.force;
    Ok(ExitCode::from(u8::from(found_elsewhere)))
}
