//! What the rules may say of a model's perplexity and of its critical set.

use super::place;
use super::run::Located;
use crate::checkpoint::Checkpoint;
use crate::error::{Count, Figure};
use crate::finding::Seen;
use crate::rules::{Rules, rule};
use serde_json::json;

/// Why nothing is known of a model whose perplexity is not a number.
pub const NOT_FINITE: &str = "the model's own perplexity is not a number, so that no damage can be told";

pub fn observe(located: &Located, checkpoint: &Checkpoint, rules: &Rules) -> Vec<Seen> {
    let whole = place::whole(checkpoint);
    let (tokens, dtype) = (located.tokens, &located.dtype);
    let Some(report) = &located.report else {
        return vec![Seen {
            rule: rule!("base-perplexity-not-finite"),
            location: whole,
            message: format!("the model's own perplexity is not a number in {dtype}"),
            evidence: json!({"tokens": tokens, "dtype": dtype}),
        }];
    };
    let mut seen = Vec::new();
    let perplexity = report.base.perplexity;
    if rules.thresholds(rule!("base-perplexity-high")).perplexity.is_some_and(|limit| perplexity >= limit) {
        seen.push(Seen {
            rule: rule!("base-perplexity-high"),
            location: whole.clone(),
            message: format!("the model's own perplexity is {} over {tokens} tokens", Figure(perplexity, 1)),
            evidence: json!({"perplexity": perplexity, "nll_nats": report.base.nll_nats, "tokens": tokens}),
        });
    }
    let settings = &report.settings;
    let Some(set) = &report.critical_set else {
        let (n, epsilon) = (report.prefix.n, settings.epsilon);
        seen.push(Seen {
            rule: rule!("critical-set-absent"),
            location: whole,
            message: format!("masking up to {n} entries of the ranking never raised perplexity 10^{epsilon}-fold"),
            evidence: json!({"tried": n, "epsilon": epsilon}),
        });
        return seen;
    };
    let limits = rules.thresholds(rule!("critical-set-small"));
    let small = limits.neurons.is_some_and(|most| set.neurons.len() as f64 <= most);
    let damaging = limits.damage.is_some_and(|least| set.damage >= least);
    if small && damaging {
        let names: Vec<String> = set.neurons.iter().map(|n| n.short()).collect();
        let neurons = Count(names.len(), "neuron", "neurons");
        seen.push(Seen {
            rule: rule!("critical-set-small"),
            location: place::of_neurons(&set.neurons, checkpoint),
            message: format!("without {neurons} perplexity rises 10^{:.2}-fold: {}", set.damage, names.join(", ")),
            evidence: json!({"neurons": set.neurons, "damage": set.damage, "nll_nats": set.nll_nats,
                "epsilon": settings.epsilon}),
        });
    }
    seen
}
