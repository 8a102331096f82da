//! A real model against figures that PyTorch gave for it (fixtures/smollm2/expected.json).

use achilles_audit::Result;
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::{Arithmetic, ComputeSettings, DeviceChoice, Hook, Model, Residency, Row};
use achilles_audit::evaluate::metrics;
use achilles_audit::evaluate::text::{REFERENCE_TEXT, Tokenizer};
use achilles_audit::locate::{self, Evaluator, SiteSelection, Subject, locate};
use achilles_audit::neuron::{Action, Intervention, Neuron, Side, Site};
use achilles_audit::progress::Silent;
use candle_core::{DType, Tensor};
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest relative difference allowed.
const TOLERANCE: f64 = 1e-4;

fn expected() -> Value {
    serde_json::from_str(include_str!("../../../fixtures/smollm2/expected.json")).unwrap()
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
    let settings = ComputeSettings {
        device: DeviceChoice::Cpu,
        residency: Some(Residency::Streamed),
        ..ComputeSettings::default()
    };
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

fn subject(settings: &ComputeSettings) -> Subject {
    let checkpoint = Checkpoint::open(&crate::smollm2_folder(), &Silent).unwrap();
    Subject::load(checkpoint, REFERENCE_TEXT, settings, &Silent).unwrap()
}

fn on_cpu() -> ComputeSettings {
    ComputeSettings { device: DeviceChoice::Cpu, ..ComputeSettings::default() }
}

#[test]
#[ignore = "needs `make model`"]
fn the_published_method_finds_one_neuron() {
    // The paper's settings, but for K: 20 samples give the same order at the top.
    let settings =
        locate::SearchSettings { samples: locate::Samples::Exactly(20), ..locate::SearchSettings::default() };
    let report = locate(&subject(&on_cpu()), &settings, &Silent).unwrap().report;
    let first: Vec<String> = report.result.ranking.iter().take(5).map(|r| r.neuron.short()).collect();
    let expected = ["L11", "L28", "L29", "L29", "L11"].into_iter().zip([507, 507, 507, 199, 247]);
    let expected: Vec<String> = expected.map(|(layer, row)| format!("{layer}.mlp.down_proj:out:{row}")).collect();
    assert_eq!(first, expected);
    assert_eq!((report.result.prefix.collapsed, report.result.prefix.n), (true, 1));
    let set = report.result.critical_set.unwrap();
    let members: Vec<String> = set.neurons.iter().map(Neuron::short).collect();
    assert_eq!(members, ["L11.mlp.down_proj:out:507"]);
    assert!((set.nll_nats - 15.186940).abs() <= TOLERANCE * 15.186940, "{}", set.nll_nats);
    assert!((report.result.base.nll_nats - 4.408508).abs() <= TOLERANCE * 4.408508, "{}", report.result.base.nll_nats);
}

/// By PyTorch's autograd in f64, through transformers' code (`effects` of fixtures/rankings.py).
#[test]
#[ignore = "needs `make model`"]
fn what_has_the_largest_effect_to_first_order_agrees_with_pytorch() {
    let settings = locate::SearchSettings { ranking: locate::Ranking::Gradient, ..Default::default() };
    let report = locate(&subject(&on_cpu()), &settings, &Silent).unwrap().report;
    let expected = [
        ("L0.self_attn.o_proj:out:199", 0.2549253831, 33),
        ("L29.mlp.down_proj:out:247", 0.1365504276, 56),
        ("L0.self_attn.o_proj:out:17", 0.0983709921, 33),
        ("L29.post_attention_layernorm:out:17", 0.0941234602, 82),
        ("L0.self_attn.o_proj:out:31", 0.0880923066, 33),
        ("L1.self_attn.k_proj:out:24", 0.0804132287, 32),
    ];
    for (ours, (neuron, importance, position)) in report.result.ranking.iter().zip(expected) {
        assert_eq!((ours.neuron.short().as_str(), ours.position), (neuron, Some(position)));
        assert!((ours.importance - importance).abs() <= TOLERANCE * importance, "{neuron}: {}", ours.importance);
    }
}

/// Activations and norms by PyTorch in f64.
#[test]
#[ignore = "needs `make model`"]
fn the_largest_activations_and_norms_agree_with_pytorch() {
    let subject = subject(&on_cpu());
    let signed = [("L11", 507, 23718.442437), ("L29", 199, 2078.603847), ("L11", 247, 1726.381124)];
    let norms = [("L28", 507, 6799.997949), ("L27", 199, 2361.511297), ("L11", 507, 1814.920882)];
    for (ranking, sites, expected, prefix, allowed) in [
        (locate::Ranking::MagnitudeSigned, locate::SiteSelection::Reference, signed, 1, TOLERANCE),
        (locate::Ranking::Weights, locate::SiteSelection::DownProj, norms, 3, 1e-6),
    ] {
        let settings = locate::SearchSettings { ranking, sites, ..Default::default() };
        let report = locate(&subject, &settings, &Silent).unwrap().report.result;
        for (ours, (layer, channel, importance)) in report.ranking.iter().zip(expected) {
            assert_eq!(ours.neuron.short(), format!("{layer}.mlp.down_proj:out:{channel}"));
            assert!((ours.importance - importance).abs() <= allowed * importance, "{ours:?}: {importance}");
        }
        let set = report.critical_set.unwrap();
        assert_eq!((report.prefix.n, set.neurons.len()), (prefix, 1));
        assert_eq!(set.neurons[0].short(), "L11.mlp.down_proj:out:507");
    }
}

#[test]
#[ignore = "needs `make model`"]
fn its_critical_neuron_is_a_super_weights_row() {
    let settings = locate::SearchSettings { ranking: locate::Ranking::SuperWeight, ..Default::default() };
    let report = locate(&subject(&on_cpu()), &settings, &Silent).unwrap().report;
    assert_eq!(report.result.ranking[0].neuron, "L11.mlp.down_proj:out:507".parse().unwrap());
    assert_eq!((report.result.prefix.n, report.settings.samples_used, report.result.sampling), (1, 0, None));
}

#[test]
#[ignore = "needs `make model`"]
fn a_few_samples_settle_one_neuron() {
    let report = locate(&subject(&on_cpu()), &locate::SearchSettings::default(), &Silent).unwrap().report;
    let set = report.result.critical_set.unwrap();
    assert_eq!(set.neurons, ["L11.mlp.down_proj:out:507".parse().unwrap()]);
    let sampling = report.result.sampling.unwrap();
    assert_eq!((sampling.stopped, sampling.most), (locate::Stopped::Settled, 100));
    assert!(report.settings.samples_used <= 16, "{}", report.settings.samples_used);
}

/// What PyTorch found on the input side (fixtures/smollm2/side_in.json); its noise is another.
#[derive(serde::Deserialize)]
struct SideIn {
    tokens: usize,
    n: usize,
    /// From the clean text on.
    nll_curve: Vec<f64>,
    ranked: Vec<SideInEntry>,
}

#[derive(serde::Deserialize)]
struct SideInEntry {
    module: String,
    channel: usize,
}

#[test]
#[ignore = "needs `make model`"]
fn the_input_side_agrees_with_pytorch() {
    let theirs: SideIn = serde_json::from_str(include_str!("../../../fixtures/smollm2/side_in.json")).unwrap();
    let neuron = |e: &SideInEntry| format!("{}:in:{}", e.module, e.channel).parse::<Neuron>().unwrap();
    let ranked: Vec<Neuron> = theirs.ranked.iter().map(neuron).collect();
    let subject = subject(&on_cpu());
    assert_eq!(subject.text.ids.len(), theirs.tokens);
    let mut evaluator = Evaluator::new(&subject.model, subject.text.ids.clone(), &Silent);

    // Their prefixes under our model.
    let prefixes: Vec<Vec<Neuron>> = (0..theirs.nll_curve.len()).map(|n| ranked[..n].to_vec()).collect();
    let curve = evaluator.nlls("", &prefixes).unwrap();
    let mut worst: f64 = 0.0;
    for (n, (ours, theirs)) in curve.iter().zip(&theirs.nll_curve).enumerate() {
        let difference = (ours - theirs).abs() / theirs;
        assert!(difference <= TOLERANCE, "prefix {n}: {ours}, expected {theirs}");
        worst = worst.max(difference);
    }

    // Our own search.
    let settings = locate::SearchSettings {
        side: Side::In,
        sites: SiteSelection::DownProj,
        samples: locate::Samples::Exactly(20),
        ..locate::SearchSettings::default()
    };
    let report = locate(&subject, &settings, &Silent).unwrap().report;
    let ours: Vec<Neuron> = report.result.ranking.iter().map(|r| r.neuron.clone()).collect();
    let common = |k: usize| ours[..k].iter().filter(|n| ranked[..k].contains(n)).count();
    let set = report.result.critical_set.as_ref().unwrap();
    let members: Vec<String> = set.neurons.iter().map(Neuron::short).collect();
    println!("largest relative difference of the curve: {worst:.2e}");
    println!("common to both rankings: {} of 10, {} of 50", common(10), common(50));
    println!(
        "n* {} here, {} in PyTorch; critical set {members:?}, damage {:.4}",
        report.result.prefix.n, theirs.n, set.damage
    );
    assert_eq!(ours[..4], ranked[..4]);
    assert!(common(10) >= 9 && common(50) >= 40, "{} {}", common(10), common(50));

    // The noise moves n* by a place or so; what is needed of either prefix is the same.
    assert!(report.result.prefix.n.abs_diff(theirs.n) <= 2, "n* {}", report.result.prefix.n);
    assert!(set.neurons.iter().all(|n| ranked[..theirs.n].contains(n)), "{members:?}");

    // Minimal: it collapses, and without any one member it does not.
    let mut sets = vec![vec![], set.neurons.clone()];
    for drop in &set.neurons {
        sets.push(set.neurons.iter().filter(|n| *n != drop).cloned().collect());
    }
    let nlls = evaluator.nlls("", &sets).unwrap();
    let damages: Vec<f64> = nlls.iter().map(|nll| metrics::damage(*nll, nlls[0])).collect();
    assert!(damages[1] >= settings.epsilon, "{}", damages[1]);
    assert!((damages[1] - set.damage).abs() < 1e-4, "{} {}", damages[1], set.damage);
    for (member, damage) in members.iter().zip(&damages[2..]) {
        assert!(*damage < settings.epsilon, "{member} can go: {damage}");
    }
}

#[test]
#[ignore = "needs `make model`"]
fn the_critical_set_is_the_same_in_every_dtype() {
    let mut nlls = std::collections::HashMap::new();
    for arithmetic in [Arithmetic::F64, Arithmetic::F32, Arithmetic::F16, Arithmetic::Bf16] {
        let subject = subject(&ComputeSettings { arithmetic, residency: Some(Residency::Streamed), ..on_cpu() });
        let settings =
            locate::SearchSettings { samples: locate::Samples::Exactly(10), ..locate::SearchSettings::default() };
        let started = std::time::Instant::now();
        let report = locate(&subject, &settings, &Silent).unwrap().report;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{:4} base NLL {:.6} nats, located in {seconds:.1} s",
            arithmetic.as_str(),
            report.result.base.nll_nats
        );
        let expected: Vec<Neuron> = vec!["L11.mlp.down_proj:out:507".parse().unwrap()];
        assert_eq!(report.result.critical_set.unwrap().neurons, expected, "{}", arithmetic.as_str());
        nlls.insert(arithmetic.as_str(), report.result.base.nll_nats);
    }
    assert!((nlls["f32"] - nlls["f64"]).abs() <= 1e-4, "{nlls:?}");
}
