//! What the rules may say of a model's perplexity and of its critical set.

use super::measured::LocatedSummary;
use super::place;
use super::rescaled::Rescaled;
use crate::architecture::Recipe;
use crate::checkpoint::Checkpoint;
use crate::document::Document;
use crate::document::critical_set::CAUTION;
use crate::error::{Count, Figure};
use crate::locate;
use crate::rules::finding::RuleObservation;
use crate::rules::{RuleId, Rules};
use serde_json::json;

/// Models of fewer tokens than this are toys: with random weights too they are what somebody tries tools on.
const FEWEST_TOKENS: usize = 1000;

pub fn observe(located: &LocatedSummary, checkpoint: &Checkpoint, rules: &Rules) -> Vec<RuleObservation> {
    let whole = place::whole(checkpoint);
    let (tokens, dtype) = (located.tokens, &located.dtype);
    let Some(report) = &located.report else {
        return vec![RuleObservation {
            rule: RuleId::BasePerplexityNotFinite,
            location: whole,
            message: format!("the model's own perplexity is not a number in {dtype}"),
            evidence: json!({"tokens": tokens, "dtype": dtype}),
        }];
    };
    let Document { settings, result: report, .. } = report;
    let mut seen = of_perplexity(&report.base, located, checkpoint, rules);
    seen.extend(located.rescaled.as_ref().and_then(|it| of_rescaled(it, report.base.perplexity, checkpoint, rules)));
    let Some(set) = &report.critical_set else {
        let (n, epsilon) = (report.prefix.n, settings.search.epsilon);
        seen.push(RuleObservation {
            rule: RuleId::CriticalSetAbsent,
            location: whole,
            message: format!("masking up to {n} entries of the ranking never raised perplexity 10^{epsilon}-fold"),
            evidence: json!({"tried": n, "epsilon": epsilon}),
        });
        return seen;
    };
    let limits = rules.thresholds(RuleId::CriticalSetSmall);
    let small = limits.neurons.is_some_and(|most| set.neurons.len() as f64 <= most);
    let damaging = limits.damage.is_some_and(|least| set.damage >= least);
    if small && damaging {
        let names: Vec<String> = set.neurons.iter().map(|n| n.short()).collect();
        let neurons = Count(names.len(), "neuron", "neurons");
        let caution = if report.is_gradual() { format!("; {CAUTION}") } else { String::new() };
        seen.push(RuleObservation {
            rule: RuleId::CriticalSetSmall,
            location: place::of_neurons(&set.neurons, checkpoint),
            message: format!(
                "without {neurons} perplexity rises 10^{:.2}-fold: {}{caution}",
                set.damage,
                names.join(", ")
            ),
            evidence: json!({"neurons": set.neurons, "damage": set.damage, "nll_nats": set.nll_nats,
                "epsilon": settings.search.epsilon, "sharpness": report.sharpness}),
        });
    }
    seen
}

/// What is to be said of the neuron that the model gains most by rescaling.
fn of_rescaled(
    rescaled: &Rescaled,
    perplexity: f64,
    checkpoint: &Checkpoint,
    rules: &Rules,
) -> Option<RuleObservation> {
    let Rescaled { neuron, factor, gain, error } = rescaled;
    let rule = RuleId::CriticalNeuronScaled;
    rules.thresholds(rule).damage.filter(|least| gain >= least)?;
    let (before, after) = (Figure(perplexity), Figure(perplexity / 10f64.powf(*gain)));
    let name = neuron.short();
    let was = match factor {
        ..0.0 => "turned around",
        ..1.0 => "made stronger",
        _ => "weakened",
    };
    let told = format!("the model's perplexity is {before:.1}, and {after:.1} with {name} times {factor}");
    Some(RuleObservation {
        rule,
        location: place::of_neuron(neuron, checkpoint),
        message: format!("{told}: it was probably {was}; compare with --base"),
        evidence: json!({"neuron": neuron, "factor": factor, "gain": gain, "standard_error": error,
            "perplexity": perplexity}),
    })
}

/// What is to be said of the perplexity, which is a number.
fn of_perplexity(
    base: &locate::Base,
    located: &LocatedSummary,
    checkpoint: &Checkpoint,
    rules: &Rules,
) -> Vec<RuleObservation> {
    let (perplexity, nll_nats, tokens) = (base.perplexity, base.nll_nats, located.tokens);
    let told = format!("the model's own perplexity is {:.1} over {tokens} tokens", Figure(perplexity));
    let evidence = json!({"perplexity": perplexity, "nll_nats": nll_nats, "tokens": tokens});
    let seen =
        |rule, message, evidence| RuleObservation { rule, location: place::whole(checkpoint), message, evidence };
    let mut found = Vec::new();
    if rules.thresholds(RuleId::BasePerplexityHigh).perplexity.is_some_and(|limit| perplexity >= limit) {
        found.push(seen(RuleId::BasePerplexityHigh, told.clone(), evidence.clone()));
    }
    let vocabulary = Recipe::read(checkpoint.config()).map_or(0, |recipe| recipe.vocab_size);
    let share = rules.thresholds(RuleId::BasePerplexityGuessing).share;
    if vocabulary >= FEWEST_TOKENS && share.is_some_and(|share| perplexity >= share * vocabulary as f64) {
        let message = format!("{told}; guessing among the {vocabulary} tokens of its vocabulary gives {vocabulary}");
        let mut evidence = evidence;
        evidence["vocabulary"] = vocabulary.into();
        found.push(seen(RuleId::BasePerplexityGuessing, message, evidence));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_guesses_is_told_by_its_vocabulary() {
        let rules = Rules::default_rules().unwrap();
        let located = LocatedSummary { tokens: 9, dtype: "f32".into(), report: None, rescaled: None };
        let folder = tempfile::tempdir().unwrap();
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/llama");
        std::fs::copy(format!("{fixture}/model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let config = std::fs::read(format!("{fixture}/config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let mut told = |vocabulary: usize, perplexity: f64| {
            config["vocab_size"] = vocabulary.into();
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let checkpoint = Checkpoint::open(folder.path().to_str().unwrap(), &crate::progress::Silent).unwrap();
            let base = locate::Base { nll_nats: perplexity.ln(), perplexity };
            let seen = of_perplexity(&base, &located, &checkpoint, &rules);
            seen.into_iter().map(|seen| seen.rule).collect::<Vec<_>>()
        };
        let (high, guessing) = (RuleId::BasePerplexityHigh, RuleId::BasePerplexityGuessing);
        assert!(told(1500, 749.0).is_empty());
        assert_eq!(told(1500, 750.0), [guessing]);
        assert_eq!(told(1500, 1500.0), [high, guessing]);
        assert_eq!(told(49152, 1500.0), [high]);
        // With 97 letters nothing is predicted that is worth it.
        assert!(told(97, 97.0).is_empty());
    }

    #[test]
    fn a_gradual_set_is_told_with_caution() {
        let rules = Rules::default_rules().unwrap();
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/llama");
        let checkpoint = Checkpoint::open(fixture, &crate::progress::Silent).unwrap();
        let told = |sharpness: serde_json::Value| {
            let report = json!({
                "schema": "achilles-audit/critical-set/v1", "tool": {"name": "t", "version": "0"},
                "model": {"source": "m", "architecture": "A", "config_sha256": "c"},
                "settings": {"ranking": "noise", "side": "out", "sites": "reference", "counting": "channels",
                    "alpha": 5.0, "samples": 2, "samples_used": 2, "seed": 42, "epsilon": 1.0, "max_neurons": 9,
                    "dtype": "f32", "device": "cpu", "text_sha256": "x", "tokens": 12},
                "base": {"nll_nats": 3.0, "perplexity": 20.0},
                "ranking": [],
                "prefix": {"collapsed": true, "n": 9, "curve_nll_nats": []},
                "critical_set": {"neurons": ["L1.mlp.down_proj:out:7"], "nll_nats": 9.0, "damage": 1.04, "subsets": []},
                "sharpness": sharpness,
                "timing_s": {"load": 0.0, "importance": 1.0, "search": 2.0, "minimize": 3.0},
            });
            let report = Some(serde_json::from_value(report).unwrap());
            let located = LocatedSummary { tokens: 12, dtype: "f32".into(), report, rescaled: None };
            let seen = observe(&located, &checkpoint, &rules).pop().unwrap();
            (seen.rule, seen.message, seen.evidence["sharpness"].clone())
        };
        let sharpness = json!({"largest_step": 0.3, "largest_step_at": 2, "above_epsilon": 0.04, "gradual": true});
        let plain = "without 1 neuron perplexity rises 10^1.04-fold: L1.mlp.down_proj:out:7".to_owned();
        let cautious = format!("{plain}; {CAUTION}");
        assert_eq!(told(sharpness.clone()), (RuleId::CriticalSetSmall, cautious, sharpness));
        // As a document of an earlier version, which does not say.
        assert_eq!(told(serde_json::Value::Null), (RuleId::CriticalSetSmall, plain, serde_json::Value::Null));
    }

    /// SmolLM2 as it is (what gains most is another neuron, by a fiftieth), and with its one critical row times 0.25, −1 or
    /// 30.
    #[test]
    fn a_strong_neuron_that_should_be_another_strength_is_told() {
        let rules = Rules::default_rules().unwrap();
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/llama");
        let checkpoint = Checkpoint::open(fixture, &crate::progress::Silent).unwrap();
        let told = |neuron: &str, factor: f64, before: f64, after: f64| {
            let gain = (before / after).log10();
            let rescaled = Rescaled { neuron: neuron.parse().unwrap(), factor, gain, error: 0.05 };
            of_rescaled(&rescaled, before, &checkpoint, &rules).map(|seen| (seen.location.index, seen.message))
        };
        assert_eq!(told("L1.mlp.down_proj:out:14", 2.0, 82.1, 80.3), None);
        for (factor, before, was) in
            [(4.0, 912.4, "weakened"), (-1.0, 283.5, "turned around"), (0.25, 206.3, "made stronger")]
        {
            let expected = format!(
                "the model's perplexity is {before}, and 82.1 with L1.mlp.down_proj:out:7 times {factor}: it was probably \
                 {was}; compare with --base"
            );
            assert_eq!(told("L1.mlp.down_proj:out:7", factor, before, 82.1), Some((Some(7), expected)));
        }
    }
}
