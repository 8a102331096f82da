//! Every family against what its authors' code computes: every hook, logits and NLL, clean and under interventions, in
//! every dtype, streamed and resident (fixtures/README.md tells where the figures come from).

use achilles_audit::Result;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::locate::SiteSelection;
use achilles_audit::metrics::nll_nats;
use achilles_audit::model::{Arithmetic, DeviceChoice, Hook, Model, NoHook, Recipe, Residency, Row, Settings};
use achilles_audit::neuron::{Action, Intervention, Side, Site};
use achilles_audit::progress::Silent;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest difference allowed, relative to the largest value of the tensor (of an NLL: to the NLL).
fn tolerance(arithmetic: Arithmetic) -> f64 {
    match arithmetic {
        Arithmetic::F64 => 1e-10,
        Arithmetic::F32 => 1e-5,
        // Rounding steps are 2^-11 and 2^-8; errors add up over layers.
        Arithmetic::F16 => 0.02,
        Arithmetic::Bf16 => 0.15,
    }
}

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("reference.safetensors").exists())
        .collect();
    folders.sort();
    folders
}

/// What the authors' code computed.
struct Reference {
    json: Value,
    tensors: HashMap<String, Tensor>,
    tokens: Arc<[u32]>,
}

impl Reference {
    fn read(folder: &Path) -> Reference {
        let json: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join("reference.json")).unwrap()).unwrap();
        let tensors = candle_core::safetensors::load(folder.join("reference.safetensors"), &Device::Cpu).unwrap();
        let tokens = json["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        Reference { json, tensors, tokens }
    }

    /// The f64 activations at a site.
    fn clean(&self, site: &str) -> Option<&Tensor> {
        let key = self.json["same_as"][site].as_str().unwrap_or(site);
        self.tensors.get(&format!("f64/clean/{key}"))
    }

    /// Every case. Its router margin says by how much the router's choice was clear.
    fn cases(&self) -> Vec<Case> {
        let case = |case: &Value| {
            let interventions = case["interventions"].as_array().unwrap().iter().map(|i| {
                let value = i["value"].as_f64().unwrap();
                let action = match i["action"].as_str().unwrap() {
                    "zero" => Action::Zero,
                    "scale" => Action::Scale(value),
                    _ => Action::Set(value),
                };
                Intervention { neuron: i["neuron"].as_str().unwrap().parse().unwrap(), action }
            });
            Case {
                name: case["name"].as_str().unwrap().to_owned(),
                interventions: interventions.collect(),
                nll_f64: case["nll_f64"].as_f64().unwrap(),
                router_margin: case["router_margin"].as_f64().unwrap_or(f64::INFINITY),
            }
        };
        self.json["cases"].as_array().unwrap().iter().map(case).collect()
    }
}

struct Case {
    name: String,
    interventions: Vec<Intervention>,
    nll_f64: f64,
    router_margin: f64,
}

/// Records every site of the first row of the batch.
#[derive(Default)]
struct Record(BTreeMap<String, Tensor>);

impl Hook for Record {
    fn wants(&self, _: &Site) -> bool {
        true
    }

    fn on(&mut self, site: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        if let Some(group) = rows.iter().position(|rows| rows.contains(&0)) {
            self.0.insert(site.to_string(), x.get(group)?);
        }
        Ok(None)
    }
}

/// Largest difference over the largest value of `theirs`.
fn difference(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.shape(), theirs.shape());
    let flat = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (ours, theirs) = (flat(ours), flat(theirs));
    let scale = theirs.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    // f64::max would drop a NaN.
    ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d }) / scale
}

fn model(folder: &Path, config: &str, arithmetic: Arithmetic, residency: Residency) -> Model {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join(config), copy.path().join("config.json")).unwrap();
    std::fs::copy(folder.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(copy.path().to_str().unwrap(), &Silent).unwrap();
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    let settings = Settings { arithmetic, device: DeviceChoice::Cpu, residency: Some(residency) };
    Model::new(checkpoint, recipe, &settings, &Silent).unwrap()
}

#[test]
fn every_hook_of_every_family_is_what_its_authors_compute() {
    let folders = fixtures();
    assert!(folders.len() >= 16, "fixtures are missing");
    let mut failed = Vec::new();
    for folder in &folders {
        let family = folder.file_name().unwrap().to_str().unwrap();
        let reference = Reference::read(folder);
        for (arithmetic, residency) in [
            (Arithmetic::F64, Residency::Resident),
            (Arithmetic::F64, Residency::Streamed),
            (Arithmetic::F32, Residency::Resident),
            (Arithmetic::F32, Residency::Streamed),
            (Arithmetic::F16, Residency::Streamed),
            (Arithmetic::Bf16, Residency::Resident),
        ] {
            let model = model(folder, "config.json", arithmetic, residency);
            let (worst, sites) = largest_difference(&model, &reference);
            let (difference, what) = worst;
            println!(
                "{family:12} {:4} {residency:?}: {sites} tensors, largest difference {difference:.2e} ({what})",
                arithmetic.as_str()
            );
            if !(difference <= tolerance(arithmetic)) {
                failed.push(format!("{family} {}: {difference:.2e} at {what}", arithmetic.as_str()));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The largest difference of all hooks, logits and NLLs, where it is, and how many tensors were compared.
fn largest_difference(model: &Model, reference: &Reference) -> ((f64, String), usize) {
    let mut compared = 0;
    let mut worst = (0.0, "nothing".to_owned());
    let mut compare = |what: String, difference: f64| {
        compared += 1;
        if !(difference <= worst.0) {
            worst = (difference, what);
        }
    };
    let clean = Row::clean(reference.tokens.clone());
    let exact = matches!(model.arithmetic(), Arithmetic::F64 | Arithmetic::F32);

    // The clean text and every case as rows of one batch: rows with different masks must not touch each other.
    let cases = reference.cases();
    let mut rows = vec![clean];
    rows.extend(cases.iter().map(|c| Row::with(reference.tokens.clone(), c.interventions.clone())));
    let mut record = Record::default();
    let logits = model.logits(&rows, &mut record, &Silent).unwrap();
    compare("logits".into(), difference(&logits[0], &reference.tensors["f64/clean/logits"]));
    if model.arithmetic() == Arithmetic::F32 {
        compare("f32 logits".into(), difference(&logits[0], &reference.tensors["f32/clean/logits"]));
    }
    for info in model.sites() {
        let site = info.site.to_string();
        if info.site.side == Side::Out {
            assert_eq!(
                reference.json["sites"][info.site.module.as_str()].as_u64(),
                Some(info.channels as u64),
                "{site}"
            );
        }
        let ours = record.0.get(&site);
        match (reference.clean(&site), ours) {
            // An expert that no position is routed to is not computed.
            (Some(theirs), None) => assert_eq!(difference(&theirs.zeros_like().unwrap(), theirs), 0.0, "{site}"),
            (Some(theirs), Some(ours)) => compare(site, difference(ours, theirs)),
            (None, Some(_)) => assert!(info.site.side == Side::In, "{site} has no reference"),
            (None, None) => panic!("{site} was not seen"),
        }
    }
    let theirs = reference.json["sites"].as_object().unwrap().keys();
    for path in theirs.filter(|p| !["lm_head", "model.rotary_emb"].contains(&p.as_str())) {
        assert!(record.0.contains_key(&format!("{path}:out")) || path.contains("experts"), "{path} has no hook");
    }

    let log_probs = model.target_log_probs(&rows, &mut NoHook, &Silent).unwrap();
    let base = reference.json["nll_f64"].as_f64().unwrap();
    compare("NLL".into(), (nll_nats(&log_probs[0]) - base).abs() / base);
    let last = reference.tokens.len() - 1;
    for (at, Case { name, nll_f64: nll, router_margin, .. }) in cases.iter().enumerate() {
        // A mask can bring two experts so near to each other that half precision chooses the other one.
        if exact || *router_margin > 0.1 {
            compare(format!("NLL of {name}"), (nll_nats(&log_probs[at + 1]) - nll).abs() / nll);
            let theirs = &reference.tensors[&format!("f64/case/{name}/last_logits")];
            compare(format!("logits of {name}"), difference(&logits[at + 1].get(last).unwrap(), theirs));
        }
    }
    (worst, compared)
}

#[test]
fn both_forms_of_a_config_are_one_recipe() {
    for folder in fixtures() {
        let recipe = |config: &str| {
            let copy = tempfile::tempdir().unwrap();
            let to = copy.path().join("config.json");
            std::fs::copy(folder.join(config), &to).unwrap();
            Recipe::read(&achilles_audit::checkpoint::ConfigFile::read(&to).unwrap()).unwrap()
        };
        let new = recipe("config.json");
        assert_eq!(recipe("config.v4.json"), new, "{}", folder.display());
        if folder.join("config.nested.json").exists() {
            assert_eq!(recipe("config.nested.json"), new, "{}", folder.display());
        }
    }
}

#[test]
fn reference_sites_are_those_the_published_code_hooks() {
    for folder in fixtures() {
        let reference = Reference::read(&folder);
        let model = model(&folder, "config.json", Arithmetic::F32, Residency::Streamed);
        let sites = SiteSelection::Reference.select(&model, Side::Out).unwrap();
        let mut ours: Vec<&str> = sites.iter().map(|s| s.site.module.as_str()).collect();
        let mut theirs: Vec<&str> =
            reference.json["reference_sites"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{}", folder.display());
    }
}
