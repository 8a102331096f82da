//! What the rules may say of a model's perplexity and of its critical set.

use super::place;
use super::run::Located;
use crate::checkpoint::Checkpoint;
use crate::error::Count;
use crate::finding::Seen;
use crate::locate;
use crate::model::Recipe;
use crate::rules::Rules;
use serde_json::json;

/// Models of fewer tokens than this are toys: with random weights too they are what somebody tries tools on.
const FEWEST_TOKENS: usize = 1000;

pub fn observe(located: &Located, checkpoint: &Checkpoint, rules: &Rules) -> Vec<Seen> {
    let whole = place::whole(checkpoint);
    let (tokens, dtype) = (located.tokens, &located.dtype);
    let Some(report) = &located.report else {
        return vec![Seen {
            rule: "base-perplexity-not-finite",
            location: whole,
            message: format!("the model's own perplexity is not a number in {dtype}"),
            evidence: json!({"tokens": tokens, "dtype": dtype}),
        }];
    };
    let mut seen = of_perplexity(&report.base, located, checkpoint, rules);
    let settings = &report.settings;
    let Some(set) = &report.critical_set else {
        let (n, epsilon) = (report.prefix.n, settings.epsilon);
        seen.push(Seen {
            rule: "critical-set-absent",
            location: whole,
            message: format!("masking up to {n} entries of the ranking never raised perplexity 10^{epsilon}-fold"),
            evidence: json!({"tried": n, "epsilon": epsilon}),
        });
        return seen;
    };
    let limits = rules.thresholds("critical-set-small");
    let small = limits.neurons.is_some_and(|most| set.neurons.len() as f64 <= most);
    let damaging = limits.damage.is_some_and(|least| set.damage >= least);
    if small && damaging {
        let names: Vec<String> = set.neurons.iter().map(|n| n.short()).collect();
        let neurons = Count(names.len(), "neuron", "neurons");
        seen.push(Seen {
            rule: "critical-set-small",
            location: set.neurons.first().map_or(whole, |first| place::of_neuron(first, checkpoint)),
            message: format!("without {neurons} perplexity rises 10^{:.2}-fold: {}", set.damage, names.join(", ")),
            evidence: json!({"neurons": set.neurons, "damage": set.damage, "nll_nats": set.nll_nats,
                "epsilon": settings.epsilon}),
        });
    }
    seen
}

/// What is to be said of the perplexity, which is a number.
fn of_perplexity(base: &locate::Base, located: &Located, checkpoint: &Checkpoint, rules: &Rules) -> Vec<Seen> {
    let (perplexity, nll_nats, tokens) = (base.perplexity, base.nll_nats, located.tokens);
    let told = format!("the model's own perplexity is {perplexity:.1} over {tokens} tokens");
    let evidence = json!({"perplexity": perplexity, "nll_nats": nll_nats, "tokens": tokens});
    let seen = |rule, message, evidence| Seen { rule, location: place::whole(checkpoint), message, evidence };
    let mut found = Vec::new();
    if rules.thresholds("base-perplexity-high").perplexity.is_some_and(|limit| perplexity >= limit) {
        found.push(seen("base-perplexity-high", told.clone(), evidence.clone()));
    }
    let vocabulary = Recipe::read(checkpoint.config()).map_or(0, |recipe| recipe.vocab_size);
    let share = rules.thresholds("base-perplexity-guessing").share;
    if vocabulary >= FEWEST_TOKENS && share.is_some_and(|share| perplexity >= share * vocabulary as f64) {
        let message = format!("{told}; guessing among the {vocabulary} tokens of its vocabulary gives {vocabulary}");
        let mut evidence = evidence;
        evidence["vocabulary"] = vocabulary.into();
        found.push(seen("base-perplexity-guessing", message, evidence));
    }
    found
}
