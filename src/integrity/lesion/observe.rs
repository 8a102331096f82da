//! Signs as observations of lint.

use super::{IndicatorKind, LesionReport, NotExamined, examine};
use crate::checkpoint::{Checkpoint, Opened};
use crate::error::{Count, Error, Figure, Result};
use crate::integrity::lint::{Check, Location, Observation};
use crate::progress::Progress;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// Up to this p-value an indicator is told as `lesion-sign`, above it as `lesion-hint`.
pub const INDICATOR_P_VALUE: f64 = 0.01;
/// Reasons for which something was not examined that are told.
const REASONS: usize = 3;
/// Of what was not examined so many are listed.
const LISTED: usize = 20;

/// Looks for indicators of a lesion in a model and says what it sees. Rows and columns of zeros are left to lint, which
/// looks for them everywhere.
///
/// # Errors
/// The user asked to stop. A checkpoint that cannot be examined is an observation.
pub fn observe(opened: &Arc<Opened>, progress: &dyn Progress) -> Result<Vec<Observation>> {
    let examined = Checkpoint::of(opened).and_then(|checkpoint| {
        checkpoint.tensors().refuse_holes()?;
        Ok((examine(&checkpoint, progress)?, checkpoint))
    });
    match examined {
        Ok((report, checkpoint)) => Ok(report.observations(&checkpoint)),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => Ok(vec![not_examined(error.to_string(), Value::Null)]),
    }
}

fn not_examined(message: String, evidence: Value) -> Observation {
    Observation { check: Check::LesionNotExamined, location: Location::default(), message, evidence }
}

impl LesionReport {
    fn observations(&self, checkpoint: &Checkpoint) -> Vec<Observation> {
        let tensors = checkpoint.tensors();
        let file = |tensor: &str| {
            let weight = tensors.weight(tensor).ok();
            let stored = weight.as_ref().and_then(|weight| tensors.get(weight.stored().first()?));
            let at = stored.and_then(|entry| entry.place.as_ref()).map(|(at, _)| *at);
            let path = at.and_then(|at| tensors.files().get(at)).and_then(|file| file.path().file_name());
            path.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let mut found = Vec::new();
        for indicator in self.indicators.iter().filter(|indicator| indicator.kind != IndicatorKind::Zero) {
            let place = &indicator.place;
            let location = Location::file(file(&place.tensor)).tensor(tensors.stored_name(&place.tensor));
            let what = match indicator.kind {
                IndicatorKind::Opposite => "points the other way than its neighbours".to_owned(),
                _ => format!(
                    "has the norm {:.3}, where its partners make expect {:.3}: about {:.2} times that",
                    Figure(indicator.statistic),
                    Figure(indicator.expected),
                    Figure(indicator.beta_estimate)
                ),
            };
            let or = indicator.or.as_ref().map(|n| format!(" (or {})", n.short())).unwrap_or_default();
            found.push(Observation {
                check: if indicator.p_value <= INDICATOR_P_VALUE { Check::LesionSign } else { Check::LesionHint },
                location: location.at(place.axis, place.index as u64),
                message: format!(
                    "{}{or} {what}; chance in a clean checkpoint of this size {:.1e}",
                    indicator.neuron.short(),
                    indicator.p_value
                ),
                evidence: json!(indicator),
            });
        }
        if !self.not_examined.is_empty() {
            let first = &self.not_examined[..self.not_examined.len().min(LISTED)];
            let evidence = json!({"count": self.not_examined.len(), "judged": self.examined_sides, "first": first});
            found.push(not_examined(self.why_not_examined(), evidence));
        }
        found
    }

    /// What was not judged and why, on one line: the reasons that hold for most first.
    fn why_not_examined(&self) -> String {
        let mut by_why: HashMap<&str, (usize, usize)> = HashMap::new();
        for (at, NotExamined { why, .. }) in self.not_examined.iter().enumerate() {
            by_why.entry(why).or_insert((at, 0)).1 += 1;
        }
        let mut reasons: Vec<(usize, usize)> = by_why.into_values().collect();
        reasons.sort_unstable_by_key(|(first, count)| (Reverse(*count), *first));
        let shown = reasons.iter().take(REASONS).map(|(first, count)| {
            let NotExamined { what, why } = &self.not_examined[*first];
            match count - 1 {
                0 => format!("{what}: {why}"),
                more => format!("{what} and {more} more: {why}"),
            }
        });
        let shown = shown.collect::<Vec<_>>().join("; ");
        let judged = Count(self.examined_sides, "side of a tensor was judged", "sides of tensors were judged");
        match reasons.iter().skip(REASONS).map(|(_, count)| count).sum::<usize>() {
            0 => format!("not judged by norm: {shown}; {judged}"),
            more => format!("not judged by norm: {shown}; {more} more for other reasons; {judged}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Recipe;
    use crate::progress::Silent;
    use std::path::Path;

    /// What the weights show does not depend on any other file than the config.
    #[test]
    fn a_broken_tokenizer_leaves_nothing_unexamined() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama");
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture.join(name), folder.path().join(name)).unwrap();
        }
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            std::fs::write(folder.path().join(name), "{").unwrap();
        }
        let found = |root: &Path| observe(&Arc::new(Opened::folder_at(root)), &Silent).unwrap();
        assert_eq!(found(folder.path()), found(&fixture));
    }

    #[test]
    fn a_sign_is_told_apart_from_a_hint_and_placed() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/llama");
        let checkpoint = Checkpoint::open(fixture, &Silent).unwrap();
        let recipe = Recipe::read(checkpoint.config()).unwrap();
        let neuron: crate::neuron::Neuron = "L1.mlp.down_proj:in:5".parse().unwrap();
        let indicator = |kind, p_value| super::super::Indicator {
            kind,
            neuron: neuron.clone(),
            or: None,
            place: recipe.place(&neuron, checkpoint.tensors()).unwrap(),
            statistic: 0.3,
            expected: 1.0,
            strength: None,
            beta_estimate: 0.3,
            p_value,
        };
        let indicators = vec![
            indicator(IndicatorKind::Scaled, 1e-3),
            indicator(IndicatorKind::Opposite, 0.2),
            indicator(IndicatorKind::Zero, 0.2),
        ];
        let found = LesionReport { indicators, ..LesionReport::default() }.observations(&checkpoint);
        let checks: Vec<Check> = found.iter().map(|o| o.check).collect();
        assert_eq!(checks, [Check::LesionSign, Check::LesionHint]);
        let place = "model.safetensors: model.layers.1.mlp.down_proj.weight column 5";
        assert_eq!(found[0].location.to_string(), place);
        let said =
            "L1.mlp.down_proj:in:5 has the norm 0.300, where its partners make expect 1.000: about 0.30 times that";
        assert!(found[0].message.starts_with(said), "{}", found[0].message);
        let not_examined =
            (0..2000).map(|at| NotExamined { what: format!("t{at}"), why: format!("reason {}", at % 5) });
        let found = LesionReport { examined_sides: 1, not_examined: not_examined.collect(), ..LesionReport::default() };
        let found = found.observations(&checkpoint);
        let said = "not judged by norm: t0 and 399 more: reason 0; t1 and 399 more: reason 1; t2 and 399 more: reason 2; \
                    800 more for other reasons; 1 side of a tensor was judged";
        assert_eq!((found[0].message.as_str(), found[0].evidence["first"].as_array().unwrap().len()), (said, 20));
        assert_eq!(found[0].evidence["count"], 2000);
        assert_eq!(
            observe(&Arc::new(Opened::folder_at("/nowhere/at/all".as_ref())), &Silent).unwrap()[0].check,
            Check::LesionNotExamined
        );
    }
}
