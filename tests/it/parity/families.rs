//! Every family against what its authors' code computes: every hook, logits and NLL, clean and under interventions, in
//! every dtype, streamed and resident (fixtures/README.md tells where the figures come from).

use achilles_audit::Result;
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::{Arithmetic, ComputeSettings, DeviceChoice, Hook, Model, NoHook, Residency, Row};
use achilles_audit::evaluate::metrics::nll_nats;
use achilles_audit::locate::SiteSelection;
use achilles_audit::neuron::{Action, Intervention, Side, Site};
use achilles_audit::progress::Silent;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is compared: a site (`…:out`, `…:in`), the logits, or an NLL, clean or of a case.
#[derive(Debug, Clone, Copy, PartialEq)]
enum What<'a> {
    Site(&'a str),
    Logits(Option<&'a str>),
    Nll(Option<&'a str>),
}

impl std::fmt::Display for What<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Site(site) => f.write_str(site),
            What::Logits(case) => write!(f, "logits of {}", case.unwrap_or("the clean text")),
            What::Nll(case) => write!(f, "NLL of {}", case.unwrap_or("the clean text")),
        }
    }
}

/// The largest difference allowed: relative to the largest value of a tensor, in nats of an NLL.
///
/// In f16 and bf16 a tiny random network blows rounding up by a factor of its own, so there is no tolerance that is
/// both safe and strict: the authors' code in the same dtype is the measure (`rounding` of reference.json).
/// We round where they round, so both differ from f64 by about as much at every single site.
///  - A tensor: at most twice what theirs differs, at the same site of the same case, or two roundings of its largest
///    value: early sites have so few roundings behind them that theirs can be 0.
///  - Logits of a case are those of the last position alone, where theirs can be right by luck: at most twice theirs of
///    this case or of the clean text's logits, whichever is larger.
///  - An NLL is one number and theirs can be right by luck: at most twice the worst of theirs, over all cases.
fn allowed(arithmetic: Arithmetic, reference: &Reference, what: What<'_>) -> f64 {
    let rounding = match arithmetic {
        Arithmetic::F64 => return 1e-10,
        Arithmetic::F32 => return 1e-5,
        Arithmetic::F16 => 2f64.powi(-11),
        Arithmetic::Bf16 => 2f64.powi(-8),
    };
    match what {
        What::Nll(_) => 2.0 * reference.worst_nll_of_the_authors(arithmetic),
        What::Logits(_) => {
            let clean = reference.authors(arithmetic, What::Logits(None)).unwrap();
            2.0 * reference.authors(arithmetic, what).unwrap().max(clean)
        }
        What::Site(_) => 2.0 * reference.authors(arithmetic, what).unwrap().max(rounding),
    }
}

/// The folder of one tiny model.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The folders of all of them.
pub fn fixtures() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixture(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("reference.safetensors").exists())
        .collect();
    folders.sort();
    folders
}

/// What the authors' code computed.
pub struct Reference {
    json: Value,
    pub tensors: HashMap<String, Tensor>,
    pub tokens: Arc<[u32]>,
}

impl Reference {
    pub fn read(folder: &Path) -> Reference {
        let json: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join("reference.json")).unwrap()).unwrap();
        let tensors = candle_core::safetensors::load(folder.join("reference.safetensors"), &Device::Cpu).unwrap();
        let tokens = json["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
        Reference { json, tensors, tokens }
    }

    /// The f64 activations at a site.
    pub fn clean(&self, site: &str) -> Option<&Tensor> {
        let key = self.json["same_as"][site].as_str().unwrap_or(site);
        self.tensors.get(&format!("f64/clean/{key}"))
    }

    /// How far the authors' code is from f64 when it computes in f16 or bf16; none in a case in which rounding sent a
    /// token to another expert.
    fn authors(&self, arithmetic: Arithmetic, what: What<'_>) -> Option<f64> {
        let figures = &self.json["rounding"][arithmetic.as_str()];
        let of = |case: Option<&str>| case.map_or(figures, |name| &figures["cases"][name]);
        match what {
            What::Site(site) => &figures["sites"][self.json["same_as"][site].as_str().unwrap_or(site)],
            What::Logits(case) => &of(case)["logits"],
            What::Nll(case) => &of(case)["nll"],
        }
        .as_f64()
    }

    fn worst_nll_of_the_authors(&self, arithmetic: Arithmetic) -> f64 {
        let cases = self.cases();
        let all = std::iter::once(None).chain(cases.iter().map(|c| Some(c.name.as_str())));
        all.filter_map(|case| self.authors(arithmetic, What::Nll(case))).fold(0.0, f64::max)
    }

    /// Every case.
    pub fn cases(&self) -> Vec<Case> {
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
            }
        };
        self.json["cases"].as_array().unwrap().iter().map(case).collect()
    }
}

pub struct Case {
    pub name: String,
    pub interventions: Vec<Intervention>,
    nll_f64: f64,
}

/// Records every site of the first row of the batch, and every row's routes.
#[derive(Default)]
struct Record {
    sites: BTreeMap<String, Tensor>,
    routes: Routes,
}

/// Which tokens go into an expert, by row and what the expert's modules see.
type Routes = BTreeMap<(usize, String), Vec<bool>>;

impl Hook for Record {
    fn wants(&self, _: &Site) -> bool {
        true
    }

    fn on(&mut self, site: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        if let Some(group) = rows.iter().position(|rows| rows.contains(&0)) {
            self.sites.insert(site.to_string(), x.get(group)?);
        }
        // An expert's modules see zeros of tokens that do not go into it.
        if site.side == Side::In && site.module.as_str().contains(".experts.") {
            for (group, rows) in rows.iter().enumerate() {
                let seen: Vec<Vec<f64>> = x.get(group)?.to_dtype(DType::F64)?.to_vec2()?;
                let routes: Vec<bool> = seen.iter().map(|seen| seen.iter().any(|value| *value != 0.0)).collect();
                for &row in rows {
                    self.routes.insert((row, site.to_string()), routes.clone());
                }
            }
        }
        Ok(None)
    }
}

/// Largest difference over the largest value of `theirs`.
pub fn difference(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.shape(), theirs.shape());
    let flat = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (ours, theirs) = (flat(ours), flat(theirs));
    let scale = theirs.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    // f64::max would drop a NaN.
    ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d }) / scale
}

pub fn model(folder: &Path, config: &str, arithmetic: Arithmetic, residency: Residency) -> Model {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join(config), copy.path().join("config.json")).unwrap();
    std::fs::copy(folder.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    open(copy.path(), arithmetic, residency)
}

pub fn open(folder: &Path, arithmetic: Arithmetic, residency: Residency) -> Model {
    let checkpoint = Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap();
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    let settings = ComputeSettings {
        arithmetic,
        device: DeviceChoice::Cpu,
        residency: Some(residency),
        ..ComputeSettings::default()
    };
    Model::new(checkpoint, recipe, &settings, &Silent).unwrap()
}

#[test]
fn every_hook_of_every_family_is_what_its_authors_compute() {
    let folders = fixtures();
    assert!(folders.len() >= 38, "fixtures are missing");
    hold_against_references(&folders);
}

/// Every hook, logits and NLL of these fixtures in every dtype, streamed and resident.
pub fn hold_against_references(folders: &[PathBuf]) {
    let mut failed = Vec::new();
    for folder in folders {
        let family = folder.file_name().unwrap().to_str().unwrap();
        let reference = Reference::read(folder);
        let mut exact_routes = None;
        for (arithmetic, residency) in [
            (Arithmetic::F64, Residency::Resident),
            (Arithmetic::F64, Residency::Streamed),
            (Arithmetic::F32, Residency::Resident),
            (Arithmetic::F32, Residency::Streamed),
            (Arithmetic::F16, Residency::Streamed),
            (Arithmetic::Bf16, Residency::Resident),
        ] {
            let model = model(folder, "config.json", arithmetic, residency);
            let mut compared = Compared { family, reference: &reference, arithmetic, all: Vec::new() };
            let routes = compare(&model, &mut compared, exact_routes.as_ref());
            exact_routes.get_or_insert(routes);
            println!("{residency:?} {}", compared.summary());
            failed.extend(compared.failures());
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Differences of a model from its reference.
struct Compared<'a> {
    family: &'a str,
    reference: &'a Reference,
    arithmetic: Arithmetic,
    all: Vec<Difference>,
}

struct Difference {
    what: String,
    found: f64,
    allowed: f64,
    /// The authors' own in this dtype.
    authors: Option<f64>,
}

impl Compared<'_> {
    fn add(&mut self, what: What<'_>, found: f64) {
        let allowed = allowed(self.arithmetic, self.reference, what);
        let authors = self.reference.authors(self.arithmetic, what);
        self.all.push(Difference { what: what.to_string(), found, allowed, authors });
    }

    fn failures(&self) -> impl Iterator<Item = String> {
        let head = format!("{} {}", self.family, self.arithmetic.as_str());
        // Not `found > allowed`: NaN fails.
        let failed = self.all.iter().filter(|d| d.found.is_nan() || d.found > d.allowed);
        failed.map(move |d| format!("{head} {}: {:.2e}, allowed {:.2e}", d.what, d.found, d.allowed))
    }

    fn summary(&self) -> String {
        let largest = |f: &dyn Fn(&Difference) -> f64| self.all.iter().max_by(|a, b| f(a).total_cmp(&f(b))).unwrap();
        let worst = largest(&|d| d.found);
        let nearest = largest(&|d| d.found / d.allowed);
        let of_authors = nearest.authors.map_or(String::new(), |a| format!(", the authors' own {a:.2e}"));
        format!(
            "{:13} {:4}: {} compared, largest difference {:.2e} ({}); nearest to what is allowed {:.2e} of {:.2e} ({}{})",
            self.family,
            self.arithmetic.as_str(),
            self.all.len(),
            worst.found,
            worst.what,
            nearest.found,
            nearest.allowed,
            nearest.what,
            of_authors
        )
    }
}

/// Compares all hooks, logits and NLLs, and returns the routes taken. In half precision a case in which rounding, the
/// authors' or ours, sends a token to another expert than in f64 (`exact_routes`) is another computation: it is left
/// out.
fn compare(model: &Model, compared: &mut Compared<'_>, exact_routes: Option<&Routes>) -> Routes {
    let reference = compared.reference;
    let half = matches!(model.arithmetic(), Arithmetic::F16 | Arithmetic::Bf16);

    // The clean text and every case as rows of one batch: rows with different masks must not touch each other.
    let cases = reference.cases();
    let mut rows = vec![Row::clean(reference.tokens.clone())];
    rows.extend(cases.iter().map(|c| Row::with(reference.tokens.clone(), c.interventions.clone())));
    let mut record = Record::default();
    let logits = model.logits(&rows, &mut record, &Silent).unwrap();
    let routes_of = |routes: &Routes, row: usize| -> Routes {
        routes.iter().filter(|((at, _), _)| *at == row).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let same_routes =
        |row: usize| exact_routes.is_none_or(|exact| routes_of(exact, row) == routes_of(&record.routes, row));
    assert!(same_routes(0), "{}: the clean text takes other routes than in f64", compared.family);

    compared.add(What::Logits(None), difference(&logits[0], &reference.tensors["f64/clean/logits"]));
    if model.arithmetic() == Arithmetic::F32 {
        compared.add(What::Logits(None), difference(&logits[0], &reference.tensors["f32/clean/logits"]));
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
        let ours = record.sites.get(&site).unwrap_or_else(|| panic!("{site} was not seen"));
        match reference.clean(&site) {
            Some(theirs) => compared.add(What::Site(&site), difference(ours, theirs)),
            None => assert!(info.site.side == Side::In, "{site} has no reference"),
        }
    }
    let theirs = reference.json["sites"].as_object().unwrap().keys();
    for path in theirs.filter(|p| !["lm_head", "model.rotary_emb"].contains(&p.as_str())) {
        assert!(record.sites.contains_key(&format!("{path}:out")), "{path} has no hook");
    }

    let log_probs = model.target_log_probs(&rows, &mut NoHook, &Silent).unwrap();
    let base = reference.json["nll_f64"].as_f64().unwrap();
    compared.add(What::Nll(None), (nll_nats(&log_probs[0]) - base).abs());
    let last = reference.tokens.len() - 1;
    let mut left_out = 0;
    for (at, Case { name, nll_f64: nll, .. }) in cases.iter().enumerate() {
        let (row, name) = (at + 1, name.as_str());
        let rerouted =
            !same_routes(row) || compared.reference.authors(model.arithmetic(), What::Nll(Some(name))).is_none();
        if half && rerouted {
            left_out += 1;
            continue;
        }
        assert!(half || same_routes(row), "{name} takes other routes than in f64");
        compared.add(What::Nll(Some(name)), (nll_nats(&log_probs[row]) - nll).abs());
        let theirs = &reference.tensors[&format!("f64/case/{name}/last_logits")];
        compared.add(What::Logits(Some(name)), difference(&logits[row].get(last).unwrap(), theirs));
    }
    assert!(left_out <= cases.len() / 6, "{}: {left_out} cases are left out", compared.family);
    record.routes
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

/// A multimodal checkpoint keeps its text model under a prefix: another one in each version of transformers.
#[test]
fn a_text_model_within_a_checkpoint_computes_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gemma3");
    let reference = Reference::read(&folder);
    for prefix in ["language_model.model.", "model.language_model."] {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(folder.join("config.nested.json"), copy.path().join("config.json")).unwrap();
        let mut tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        tensors = tensors.into_iter().map(|(name, t)| (name.replacen("model.", prefix, 1), t)).collect();
        tensors.insert("vision_tower.x.weight".into(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
        candle_core::safetensors::save(&tensors, copy.path().join("model.safetensors")).unwrap();
        let model = open(copy.path(), Arithmetic::F64, Residency::Streamed);
        let logits = model.logits(&[Row::clean(reference.tokens.clone())], &mut NoHook, &Silent).unwrap();
        assert!(difference(&logits[0], &reference.tensors["f64/clean/logits"]) < 1e-10);
        let norm = model.checkpoint().tensors().stored_name("model.norm.weight");
        assert_eq!(norm, format!("{prefix}norm.weight"));
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
