//! A real model against figures that PyTorch gave for it (fixtures/smollm2/expected.json).

use achilles_audit::Result;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::metrics;
use achilles_audit::model::{DeviceChoice, Hook, Model, Recipe, Residency, Row, Settings};
use achilles_audit::neuron::{Action, Intervention, Neuron, Side, Site};
use achilles_audit::progress::Silent;
use achilles_audit::text::{REFERENCE_TEXT, Tokenizer};
use candle_core::{DType, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest relative difference allowed.
const TOLERANCE: f64 = 1e-4;

fn expected() -> Value {
    serde_json::from_str(include_str!("../../fixtures/smollm2/expected.json")).unwrap()
}

/// What expected.json gives of each module's output.
#[derive(Default)]
struct Summaries(BTreeMap<String, (f64, usize, f64, f64)>);

impl Hook for Summaries {
    fn wants(&self, site: &Site) -> bool {
        site.side == Side::Out
    }

    fn on(&mut self, site: &Site, _: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        let channels = x.dim(2)?;
        let values: Vec<f64> = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        let largest = (0..values.len()).max_by(|a, b| values[*a].abs().total_cmp(&values[*b].abs())).unwrap();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let l2 = values.iter().map(|v| v * v).sum::<f64>().sqrt();
        self.0.insert(site.module.to_string(), (values[largest].abs(), largest % channels, mean, l2));
        Ok(None)
    }
}

#[test]
#[ignore = "needs `make model`"]
fn every_expected_figure_is_met() {
    let expected = expected();
    let checkpoint = Checkpoint::open(&crate::smollm2_folder(), &Silent).unwrap();
    let tokens = Tokenizer::of(&checkpoint).unwrap().encode(REFERENCE_TEXT).unwrap().ids;
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    assert_eq!(serde_json::to_value(tokens.to_vec()).unwrap(), expected["token_ids"]);
    let settings = Settings { device: DeviceChoice::Cpu, residency: Some(Residency::Streamed), ..Settings::default() };
    let model = Model::new(checkpoint, recipe, &settings, &Silent).unwrap();

    let mut worst: (f64, String) = (0.0, String::new());
    let mut close = |what: String, ours: f64, theirs: f64, scale: f64| {
        let difference = (ours - theirs).abs() / scale.abs();
        if difference > worst.0 {
            worst = (difference, what.clone());
        }
        assert!(difference <= TOLERANCE, "{what}: {ours}, expected {theirs}, difference {difference:.2e}");
    };

    // Every masked and scaled run is one row of one batch.
    let mut cases = vec![("base".to_owned(), vec![], expected["base_nll"].as_f64().unwrap())];
    for (neuron, nll) in
        expected["mask_out"].as_object().unwrap().iter().chain(expected["mask_in"].as_object().unwrap())
    {
        cases.push((neuron.clone(), vec![Intervention::zero(neuron.parse().unwrap())], nll.as_f64().unwrap()));
    }
    for (beta, nll) in expected["beta_out_11_507"].as_object().unwrap() {
        let neuron: Neuron = "L11.mlp.down_proj:out:507".parse().unwrap();
        let action = Action::Scale(beta.parse().unwrap());
        cases.push((format!("β {beta}"), vec![Intervention { neuron, action }], nll.as_f64().unwrap()));
    }
    for (set, nll) in expected["mask_in_pairs"].as_object().unwrap() {
        let neuron = |pair: &str| {
            let (layer, channel) = pair.split_once(':').unwrap();
            format!("L{layer}.mlp.down_proj:in:{channel}").parse().unwrap()
        };
        let mask = set.split('+').map(|pair| Intervention::zero(neuron(pair))).collect();
        cases.push((set.clone(), mask, nll.as_f64().unwrap()));
    }
    let rows: Vec<Row> = cases.iter().map(|(_, i, _)| Row::with(tokens.clone(), i.clone())).collect();
    let nlls = metrics::nlls(&model, &rows, &Silent).unwrap();
    for ((what, _, theirs), ours) in cases.iter().zip(nlls) {
        close(what.clone(), ours, *theirs, *theirs);
    }

    let mut hook = Summaries::default();
    let logits = model.logits(&[Row::clean(tokens.clone())], &mut hook, &Silent).unwrap().remove(0);
    let hooks = expected["hook_max_abs"].as_object().unwrap();
    assert_eq!(hooks.len(), 270);
    for (module, figures) in hooks {
        let (max, channel, mean, l2) = hook.0[module];
        let number = |key: &str| figures[key].as_f64().unwrap();
        close(format!("{module} max"), max, number("value"), number("value"));
        assert_eq!(channel as u64, figures["channel"].as_u64().unwrap(), "{module}");
        // A mean near 0 is a difference of large numbers: its scale is that of what it is the mean of.
        close(format!("{module} mean"), mean, number("mean"), number("value"));
        close(format!("{module} L2"), l2, number("l2"), number("l2"));
    }

    let last: Vec<f64> = logits.get(tokens.len() - 1).unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
    let mut order: Vec<usize> = (0..last.len()).collect();
    order.sort_by(|a, b| last[*b].total_cmp(&last[*a]));
    for (id, theirs) in order.iter().zip(expected["logits_last_top5"].as_array().unwrap()) {
        assert_eq!(*id as u64, theirs[0].as_u64().unwrap());
        close(format!("logit {id}"), last[*id], theirs[1].as_f64().unwrap(), theirs[1].as_f64().unwrap());
    }
    println!("largest relative difference of all figures: {:.2e} ({})", worst.0, worst.1);
}

// In every dtype.

/// What the paper found: one neuron.
const CRITICAL: &str = "L11.mlp.down_proj:out:507";

#[test]
#[ignore = "needs `make model`"]
fn the_critical_set_is_the_same_in_every_dtype() {
    use achilles_audit::locate::{self, locate};
    use achilles_audit::model::Arithmetic;

    let mut nlls = std::collections::HashMap::new();
    for arithmetic in [Arithmetic::F64, Arithmetic::F32, Arithmetic::F16, Arithmetic::Bf16] {
        let checkpoint = Checkpoint::open(&crate::smollm2_folder(), &Silent).unwrap();
        let text = Tokenizer::of(&checkpoint).unwrap().encode(REFERENCE_TEXT).unwrap();
        let recipe = Recipe::read(checkpoint.config()).unwrap();
        let settings = Settings { arithmetic, device: DeviceChoice::Cpu, residency: Some(Residency::Streamed) };
        let model = Model::new(checkpoint, recipe, &settings, &Silent).unwrap();
        let settings = locate::Settings { samples: 10, ..locate::Settings::default() };
        let started = std::time::Instant::now();
        let report = locate(&model, &text, &settings, 0.0, &Silent).unwrap();
        let seconds = started.elapsed().as_secs_f64();
        println!("{:4} base NLL {:.6} nats, located in {seconds:.1} s", arithmetic.as_str(), report.base.nll_nats);
        let expected: Vec<Neuron> = vec![CRITICAL.parse().unwrap()];
        assert_eq!(report.critical_set.unwrap().neurons, expected, "{}", arithmetic.as_str());
        nlls.insert(arithmetic.as_str(), report.base.nll_nats);
    }
    assert!((nlls["f32"] - nlls["f64"]).abs() <= 1e-4, "{nlls:?}");
}
