//! What channels are ranked by, of every family: against what its authors' code computes, and against norms and keys by
//! other means (fixtures/rankings.py).

use super::families::{Reference, fixture, fixtures, model, open};
use super::gradients::{Activations, Effects};
use super::packed::{packed, recipe};
use achilles_audit::checkpoint::Tensors;
use achilles_audit::compute::{Arithmetic, Model, Residency, Row};
use achilles_audit::evaluate::text::Encoded;
use achilles_audit::locate::{Located, Ranking, SearchSettings, SiteSelection, Subject, locate};
use achilles_audit::neuron::{Neuron, Side};
use achilles_audit::progress::Silent;
use candle_core::{DType, Device, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// What each channel of some sites is to be ranked by.
type Expected = BTreeMap<String, Vec<f64>>;

fn subject(model: Model, tokens: &Arc<[u32]>) -> Subject {
    Subject { model, text: Encoded { ids: tokens.clone(), sha256: String::new() }, load_s: 0.0 }
}

/// Ranks all sites of a side, and masks the first entry.
fn located(subject: &Subject, ranking: Ranking, side: Side) -> Located {
    let sites = SiteSelection::Glob("*".into());
    let settings = SearchSettings { ranking, side, sites, max_neurons: 1, ..SearchSettings::default() };
    locate(subject, &settings, &Silent).unwrap()
}

/// Holds the first entries, and all ranks, against what is expected of the sites.
fn hold(located: &Located, expected: &Expected, what: &str) {
    let mut sorted: Vec<f64> = expected.values().flatten().copied().collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let largest = sorted.iter().fold(0f64, |largest, value| largest.max(value.abs()));
    let is_near = |ours: f64, theirs: f64| (ours - theirs).abs() <= 1e-6 * theirs.abs() + 1e-10 * largest;
    let ranking = &located.report.result.ranking;
    assert_eq!(ranking.len(), sorted.len().min(100), "{what}");
    for (ours, theirs) in ranking.iter().zip(&sorted) {
        assert!(is_near(ours.importance, *theirs), "{what} {}: {} and {theirs}", ours.neuron, ours.importance);
    }
    // A rank takes a look at every channel.
    for (site, values) in expected.iter().step_by(1 + expected.len() / 20) {
        for (channel, theirs) in values.iter().enumerate().step_by(5) {
            let neuron: Neuron = format!("{site}:{channel}").parse().unwrap();
            let (rank, ours) = located.rank(&neuron).unwrap_or_else(|| panic!("{what}: {neuron} is not ranked"));
            assert!(is_near(ours, *theirs), "{what} {neuron}: {ours} and {theirs}");
            assert!(is_near(ours, sorted[rank - 1]), "{what} {neuron}: rank {rank}");
        }
    }
}

/// The largest over positions of what `of` makes of values at some sites, (positions, channels).
fn largest<'a>(values: impl Iterator<Item = (&'a String, &'a Tensor)>, of: fn(&Tensor) -> Tensor) -> Expected {
    let largest = |values: &Tensor| of(values).to_dtype(DType::F64).unwrap().max(0).unwrap().to_vec1().unwrap();
    values.map(|(site, values)| (site.clone(), largest(values))).collect()
}

/// The rankings by gradient and by super weights are of what the hooks saw.
#[test]
fn rankings_are_by_the_largest_over_positions() {
    let folder = fixture("mixtral");
    let tokens = Reference::read(&folder).tokens;
    let model = model(&folder, "config.json", Arithmetic::F64, Residency::Resident);
    let (row, mut effects, mut activations) = (Row::clean(tokens.clone()), Effects::default(), Effects::default());
    model.gradients(&row, &mut effects, &Silent).unwrap();
    model.trace(&[row], &mut Activations(&mut activations), &Silent).unwrap();
    let subject = subject(model, &tokens);
    for (ranking, values, end) in [(Ranking::Gradient, effects, ":out"), (Ranking::SuperWeight, activations, ".w2:out")]
    {
        let sites = values.0.iter().filter(|(site, _)| site.ends_with(end));
        let expected = largest(sites, |values| values.abs().unwrap());
        let located = located(&subject, ranking, Side::Out);
        hold(&located, &expected, ranking.as_str());
        let first = &located.report.result.ranking[0];
        assert!(first.position.is_some(), "{first:?}");
    }
}

#[test]
fn signed_magnitude_is_the_largest_activation_of_the_authors_code() {
    for folder in fixtures() {
        let reference = Reference::read(&folder);
        let model = model(&folder, "config.json", Arithmetic::F64, Residency::Resident);
        let sites: Vec<_> = model.sites().iter().map(|info| info.site.clone()).collect();
        let subject = subject(model, &reference.tokens);
        for side in [Side::Out, Side::In] {
            let of_side = sites.iter().filter(|site| site.side == side).map(ToString::to_string);
            let theirs: Vec<_> = of_side.map(|site| (site.clone(), reference.clean(&site).unwrap())).collect();
            let expected = largest(theirs.iter().map(|(site, values)| (site, *values)), Tensor::clone);
            let located = located(&subject, Ranking::MagnitudeSigned, side);
            hold(&located, &expected, &format!("{} {side}", folder.display()));
            let first = &located.report.result.ranking[0];
            let at_it = reference.clean(&first.neuron.site.to_string()).unwrap().get(first.position.unwrap()).unwrap();
            let theirs: Vec<f64> = at_it.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            let theirs = theirs[first.neuron.channel];
            assert!((first.importance - theirs).abs() <= 1e-6 * theirs, "{folder:?} {first:?}: {theirs}");
        }
    }
}

#[test]
fn norms_of_weights_are_those_of_the_modules_that_transformers_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rankings.safetensors");
    let all = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for folder in fixtures() {
        let family = folder.file_name().unwrap().to_str().unwrap();
        let tokens = Reference::read(&folder).tokens;
        let subject = subject(model(&folder, "config.json", Arithmetic::F32, Residency::Streamed), &tokens);
        for side in [Side::Out, Side::In] {
            let own = |key: &str| Some(key.strip_prefix(&format!("weights/{family}/"))?.to_owned());
            let of_side = |key: &str| own(key).filter(|site| site.ends_with(&format!(":{side}")));
            let expected: Expected = all
                .iter()
                .filter_map(|(key, values)| Some((of_side(key)?, values.to_vec1::<f64>().unwrap())))
                .collect();
            assert!(!expected.is_empty(), "{family}");
            let located = located(&subject, Ranking::Weights, side);
            hold(&located, &expected, &format!("{family} {side}"));
            assert!(located.report.result.ranking.iter().all(|ranked| ranked.position.is_none()));
        }
    }
}

/// By a loop over what is decoded, which is held bit for bit against the formats' own code elsewhere, and by names; of
/// packed checkpoints and of GGUFs.
#[test]
fn norms_of_packed_weights_are_those_of_what_they_decode_to() {
    let gguf = |name: &str| fixture("gguf/converted").join(format!("{name}.gguf"));
    let ggufs = ["cohere2", "deepseek_v3", "gemma4_moe", "gpt_oss", "lfm2", "mixtral", "qwen3_5_moe"].map(gguf);
    let folders: Vec<_> = packed().into_iter().filter(|folder| recipe(folder).is_some()).collect();
    assert!(folders.len() >= 30, "fixtures are missing");
    let tokens: Arc<[u32]> = (0..12).map(|at| at * 7 % 90).collect();
    for path in folders.iter().chain(&ggufs) {
        let subject = subject(open(path, Arithmetic::F32, Residency::Resident), &tokens);
        for side in [Side::Out, Side::In] {
            let mut expected = Expected::new();
            for info in subject.model.sites().iter().filter(|info| info.site.side == side) {
                let path = info.site.module.as_str();
                let (mlp, name) = path.rsplit_once('.').unwrap();
                let names = match name {
                    "down_proj" => ["gate_proj", "up_proj", name],
                    "w2" => ["w1", "w3", name],
                    _ => continue,
                };
                let [out, into] = by_a_loop(subject.model.checkpoint().tensors(), mlp, names);
                expected.insert(info.site.to_string(), if side == Side::Out { out } else { into });
            }
            let located = located(&subject, Ranking::Weights, side);
            hold(&located, &expected, &format!("{} {side}", path.display()));
        }
    }
}

/// What the outputs and the inputs of the last projection of an MLP are ranked by.
fn by_a_loop(tensors: &Tensors, mlp: &str, names: [&str; 3]) -> [Vec<f64>; 2] {
    let matrix = |weight: &str| {
        let weight = tensors.weight(weight).unwrap();
        let columns = *weight.shape().last().unwrap();
        let values = weight.all().unwrap().into_values::<f64>();
        values.chunks(columns).map(<[f64]>::to_vec).collect::<Vec<_>>()
    };
    let [gate, up, down] = match mlp.split_once(".experts.") {
        // gpt-oss packed: stacks, [experts, out, in], in which gate and up take turns.
        Some((holder, expert)) if tensors.holds(&format!("{holder}.experts.down_proj")) => {
            let stack = |name: &str| {
                let name = format!("{holder}.experts.{name}");
                let rows = tensors.weight(&name).unwrap().shape()[1];
                matrix(&name)[expert.parse::<usize>().unwrap() * rows..][..rows].to_vec()
            };
            let both = stack("gate_up_proj");
            let every_other = |first| both.iter().skip(first).step_by(2).cloned().collect();
            [every_other(0), every_other(1), stack("down_proj")]
        }
        _ => names.map(|name| matrix(&format!("{mlp}.{name}.weight"))),
    };
    let norm = |row: &[f64]| row.iter().map(|value| value * value).sum::<f64>().sqrt();
    let fed: Vec<f64> = gate.iter().zip(&up).map(|(gate, up)| norm(gate) * norm(up)).collect();
    let weighed: Vec<Vec<f64>> =
        down.iter().map(|row| row.iter().zip(&fed).map(|(value, fed)| value * fed).collect()).collect();
    let column = |at: usize| weighed.iter().map(|row| row[at]).collect::<Vec<_>>();
    [weighed.iter().map(|row| norm(row)).collect(), (0..fed.len()).map(|at| norm(&column(at))).collect()]
}

#[test]
fn a_random_order_is_that_of_chacha20s_numbers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rankings.safetensors");
    let all: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let drawn: Vec<f64> = all["random/42"].to_vec1().unwrap();
    let folder = fixture("llama");
    let tokens = Reference::read(&folder).tokens;
    let subject = subject(model(&folder, "config.json", Arithmetic::F64, Residency::Resident), &tokens);
    let order = |seed| {
        let settings = SearchSettings { ranking: Ranking::Random, seed, max_neurons: 1, ..SearchSettings::default() };
        let located = locate(&subject, &settings, &Silent).unwrap();
        let settings = &located.report.settings;
        assert_eq!((settings.samples_used, located.report.result.ranking[0].position), (0, None));
        located
    };
    // In the order of sites and channels.
    let sites = SiteSelection::Reference.select(&subject.model, Side::Out).unwrap();
    let neurons =
        sites.iter().flat_map(|info| (0..info.channels).map(|channel| Neuron { site: info.site.clone(), channel }));
    let of_42 = order(42);
    for (neuron, key) in neurons.zip(&drawn) {
        let (_, ours) = of_42.rank(&neuron).unwrap();
        assert!((ours - key).abs() < 1e-12, "{neuron}: {ours} and {key}");
    }
    for (at, ranked) in of_42.report.result.ranking.iter().enumerate() {
        assert_eq!(of_42.rank(&ranked.neuron), Some((at + 1, ranked.importance)));
    }
    let neurons = |located: &Located| {
        located.report.result.ranking.iter().map(|ranked| ranked.neuron.clone()).collect::<Vec<_>>()
    };
    assert_eq!(neurons(&order(42)), neurons(&of_42));
    assert_ne!(neurons(&order(43)), neurons(&of_42));
}
