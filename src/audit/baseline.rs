//! What the rules may say of activations beside a baseline.

use super::place;
use crate::checkpoint::Checkpoint;
use crate::error::{Count, Figure};
use crate::monitor::{Checked, DEFAULT_FALSE_ALARM_RATE};
use crate::rules::finding::RuleObservation;
use crate::rules::{RuleId, Rules};
use serde_json::json;

/// Sites that the evidence lists, of those that are outside.
const LISTED: usize = 20;

/// The probability of a false alarm that the rules ask for.
pub fn alpha(rules: &Rules) -> f64 {
    rules.thresholds(RuleId::ActivationsOutside).alpha.unwrap_or(DEFAULT_FALSE_ALARM_RATE)
}

pub fn observe(checked: &Checked, checkpoint: &Checkpoint) -> Vec<RuleObservation> {
    let mut seen = Vec::new();
    if let Some(first) = checked.not_finite.first() {
        let sites = Count(checked.not_finite.len(), "site", "sites");
        seen.push(RuleObservation {
            rule: RuleId::ActivationsNotFinite,
            location: place::whole(checkpoint),
            message: format!("{sites} with NaN or infinities where the baseline has none, {} first", first.site),
            evidence: json!({"sites": &checked.not_finite[..checked.not_finite.len().min(LISTED)]}),
        });
    }
    if checked.p_value > checked.alpha {
        return seen;
    }
    let (outside, prompts) = (checked.prompts_outside, Count(checked.prompts, "prompt", "prompts"));
    let sites = Count(checked.outside.len(), "site", "sites");
    let first = checked.outside.first();
    let told = first.map_or(String::new(), |first| {
        let times = Figure(first.median / first.baseline_median);
        format!(", {} first: its {} is {times:.3} times the usual", first.site, first.statistic.as_str())
    });
    seen.push(RuleObservation {
        rule: RuleId::ActivationsOutside,
        // The cause is at the first site or anywhere before it.
        location: place::whole(checkpoint),
        message: format!(
            "{outside} of {prompts} outside the baseline (by chance {:.1e}) at {sites}{told}",
            checked.p_value
        ),
        evidence: json!({"p_value": checked.p_value, "alpha": checked.alpha, "prompts": checked.prompts,
            "prompts_outside": outside, "sites_outside": checked.outside.len(),
            "sites": &checked.outside[..checked.outside.len().min(LISTED)]}),
    });
    seen
}
