//! What the rules may say of a model beside its base.

use super::place;
use crate::checkpoint::Checkpoint;
use crate::compare::{Compared, Limits, SetVerdict};
use crate::document::critical_set::CAUTION;
use crate::error::{Count, Figure};
use crate::rules::finding::RuleObservation;
use crate::rules::{RuleId, Rules};
use serde_json::json;

/// The thresholds of the rules on bases.
pub fn limits(rules: &Rules) -> Limits {
    // A threshold that is not set is never reached.
    let never = |threshold: Option<f64>| threshold.unwrap_or(f64::INFINITY);
    Limits {
        damage: never(rules.thresholds(RuleId::BaseSetShared).damage),
        rank: rules.thresholds(RuleId::BaseSetLocationOnly).rank.unwrap_or(0.0),
        set_share: never(rules.thresholds(RuleId::BaseSetLocationOnly).share),
        ranking_share: never(rules.thresholds(RuleId::BaseSetMoved).share),
    }
}

pub fn observe(compared: &Compared, checkpoint: &Checkpoint, rules: &Rules) -> Vec<RuleObservation> {
    let base = &compared.base.source;
    let masked = &compared.transfer.base_on_variant;
    let neurons = Count(masked.neurons.len(), "critical neuron", "critical neurons");
    let overlap = compared.location.overlap.last();
    let overlap = overlap.map_or(String::new(), |o| format!("{} of its first {}", o.shared, o.k));
    let without = format!("without the base's {neurons} perplexity rises 10^{:.2}-fold", masked.damage);
    let (rule, message) = match compared.verdict {
        SetVerdict::Shared => {
            (RuleId::BaseSetShared, format!("{without}, as in {base}: what cripples that cripples this"))
        }
        SetVerdict::SharedLocationOnly => {
            (RuleId::BaseSetLocationOnly, format!("the base's {neurons} rank high as in {base}, but {without} only"))
        }
        SetVerdict::Moved => (
            RuleId::BaseSetMoved,
            format!("the base's {neurons} matter no more as in {base}: {without}; the rankings share {overlap}"),
        ),
        SetVerdict::Unrelated => (
            RuleId::BaseSetUnrelated,
            format!("the ranking has nothing to do with that of {base}, it shares {overlap}; {without}"),
        ),
    };
    let message = match &compared.base.partial {
        Some(partial) => format!("{message} ({partial})"),
        None => message,
    };
    let message = match compared.base.is_gradual() {
        true => format!("{message}; of the base, {CAUTION}"),
        false => message,
    };
    let location = place::of_neurons(&masked.neurons, checkpoint);
    let evidence = json!({"base": compared.base, "verdict": compared.verdict, "damage": masked.damage,
        "controls": masked.controls, "neurons": compared.location.neurons, "overlap": compared.location.overlap,
        "spearman": compared.location.spearman});
    let mut seen = vec![RuleObservation { rule, location, message, evidence }];

    let least =
        rules.thresholds(RuleId::BaseNeuronChanged).ratio.filter(|_| compared.importance_not_compared.is_none());
    if let Some(least) = least {
        for placed in &compared.location.neurons {
            let moves = match placed.importance_ratio {
                Some(ratio) if ratio >= least && ratio <= 1.0 / least => continue,
                Some(ratio) => format!("{:.3} times as much as in {base}", Figure(ratio)),
                None => format!("beyond all numbers, which it does not in {base}"),
            };
            seen.push(RuleObservation {
                rule: RuleId::BaseNeuronChanged,
                location: place::of_neuron(&placed.neuron, checkpoint),
                message: format!("{} moves {moves}", placed.neuron.short()),
                evidence: json!({"neuron": placed.neuron, "importance_ratio": placed.importance_ratio,
                    "base_rank": placed.base_rank, "rank": placed.rank}),
            });
        }
    }
    let limit = rules.thresholds(RuleId::WorseThanBase).damage;
    if let Some(damage) = compared.damage.filter(|damage| limit.is_some_and(|limit| *damage >= limit)) {
        seen.push(RuleObservation {
            rule: RuleId::WorseThanBase,
            location: place::whole(checkpoint),
            message: format!("the model's perplexity is 10^{damage:.2} times that of {base} on the same text"),
            evidence: json!({"damage": damage}),
        });
    }
    seen
}
