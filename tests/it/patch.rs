//! Lesions baked into weights: they do what the hooked intervention does, in every family; what weights cannot express
//! is refused.

use achilles_audit::Result;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::metrics::nll_nats;
use achilles_audit::model::{Arithmetic, DeviceChoice, Model, NoHook, Recipe, Residency, Row, Settings};
use achilles_audit::neuron::{Action, Intervention, Neuron, Side, Site};
use achilles_audit::patch::Plan;
use achilles_audit::progress::Silent;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const BETAS: [f64; 9] = [0.0, 0.3, 0.5, 0.8, 1.0, 2.0, 5.0, -1.0, -5.0];

fn families() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = folders.filter(|path| path.join("reference.safetensors").exists()).collect();
    folders.sort();
    folders
}

/// A model folder of a fixture's weights and config, and nothing else.
fn copy(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

fn open(folder: &Path) -> (Checkpoint, Recipe) {
    let checkpoint = Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap();
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    (checkpoint, recipe)
}

fn plan(folder: &Path, interventions: &[Intervention]) -> Result<Plan> {
    let (checkpoint, recipe) = open(folder);
    Plan::new(&checkpoint, &recipe, interventions)
}

fn nlls(folder: &Path, rows: &[Row]) -> Vec<f64> {
    let (checkpoint, recipe) = open(folder);
    let settings =
        Settings { arithmetic: Arithmetic::F64, device: DeviceChoice::Cpu, residency: Some(Residency::Resident) };
    let model = Model::new(checkpoint, recipe, &settings, &Silent).unwrap();
    // One by one: a batch's products may sum in another order, and masks are compared to the last bit.
    let nll =
        |row: &Row| nll_nats(&model.target_log_probs(std::slice::from_ref(row), &mut NoHook, &Silent).unwrap()[0]);
    rows.iter().map(nll).collect()
}

fn neuron(text: &str) -> Neuron {
    text.parse().unwrap()
}

/// One neuron of every kind of site that hooks see: of each name within layers one, in the last layer that has it.
fn one_of_each(recipe: &Recipe) -> Vec<Neuron> {
    let mut seen = BTreeSet::new();
    let mut neurons = Vec::new();
    for module in recipe.modules().iter().rev() {
        for (side, channels) in [(Side::In, module.inputs), (Side::Out, module.outputs)] {
            let site = Site { module: module.path.parse().unwrap(), side };
            let kind = site.module.in_layer().replace(|c: char| c.is_ascii_digit(), "");
            if seen.insert((kind, side)) {
                neurons.push(Neuron { site, channel: channels * 2 / 3 });
            }
        }
    }
    neurons
}

#[test]
fn a_baked_neuron_is_the_hooked_one() {
    for folder in families() {
        let family = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let reference: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
        let tokens: Vec<u32> = serde_json::from_value(reference["tokens"].clone()).unwrap();
        let tokens: std::sync::Arc<[u32]> = tokens.into();
        let (_, recipe) = open(&folder);
        let copy = copy(&folder);
        let original = std::fs::read(folder.join("model.safetensors")).unwrap();
        let (mut compared, mut refused, mut moved, mut worst) = (0, Vec::new(), 0, 0f64);
        for neuron in one_of_each(&recipe) {
            std::fs::write(copy.path().join("model.safetensors"), &original).unwrap();
            let change = |beta| Intervention { neuron: neuron.clone(), action: Action::Scale(beta) };
            if let Err(error) = plan(copy.path(), &[change(0.0)]) {
                refused.push((neuron, error.to_string()));
                continue;
            }
            let rows: Vec<Row> = BETAS.iter().map(|beta| Row::with(tokens.clone(), vec![change(*beta)])).collect();
            let hooked = nlls(&folder, &rows);
            for (beta, hooked) in BETAS.iter().zip(hooked) {
                std::fs::write(copy.path().join("model.safetensors"), &original).unwrap();
                let plan = plan(copy.path(), &[change(*beta)]).unwrap();
                let mut bytes = original.clone();
                for edit in &plan.edits {
                    for (offset, piece) in edit.span.offsets().zip(edit.after.chunks(edit.span.piece_bytes as usize)) {
                        bytes[offset as usize..][..piece.len()].copy_from_slice(piece);
                    }
                }
                std::fs::write(copy.path().join("model.safetensors"), bytes).unwrap();
                let baked = nlls(copy.path(), &[Row::clean(tokens.clone())])[0];
                let difference = (baked - hooked).abs();
                let exact = *beta == 0.0 || *beta == 1.0;
                let allowed = if exact { 0.0 } else { 2e-6 };
                assert!(difference <= allowed, "{family} {neuron} × {beta}: baked {baked}, hooked {hooked}");
                worst = worst.max(difference);
                compared += 1;
                moved += usize::from(*beta != 1.0 && (baked - reference["nll_f64"].as_f64().unwrap()).abs() > 1e-9);
            }
        }
        println!("{family:13} {compared} compared, {moved} moved the NLL, largest difference {worst:.1e}");
        for (neuron, why) in &refused {
            println!("    {why}");
            assert!(why.starts_with(&format!("neuron {:?}: ", neuron.to_string())), "{why}");
        }
        // Edits that change nothing would prove nothing.
        assert!(compared >= 9 * 13 && moved * 9 == compared * 8, "{family}: {compared}, {moved}");
    }
}
