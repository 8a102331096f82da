//! The way of a text through the model as it is, which its rows under interventions share up to the first of them.

use super::batch::{Carried, Group, Place, Row};
use crate::error::Result;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The residual stream of a text, nothing being done to it, before each layer and after the last. The first pass that
/// has this row keeps it, where it takes little of the memory that is left; later ones begin each row under
/// interventions at the layer of the first of them. It is of one model.
#[derive(Debug)]
pub struct Trunk {
    tokens: Arc<[u32]>,
    before: Vec<Group>,
}

impl Trunk {
    /// Of a text that has not passed yet.
    pub fn of(tokens: Arc<[u32]>) -> Trunk {
        Trunk { tokens, before: Vec::new() }
    }

    /// Whether the text has passed all of so many layers.
    fn is_complete(&self, layers: usize) -> bool {
        self.before.len() == layers + 1
    }

    /// Forgets what it keeps.
    pub(super) fn clear(&mut self) {
        self.before.clear();
    }

    /// Keeps the stream before the next layer, if it is among these groups.
    fn keep(&mut self, groups: &[Group], rows: &[Row]) -> Result<()> {
        let is_own = |row: &Row| row.noise.is_none() && row.interventions.is_empty() && row.tokens == self.tokens;
        if let Some(group) = groups.iter().find(|group| group.rows.iter().any(|row| is_own(&rows[*row]))) {
            // Of its chunk the group alone.
            let lent =
                group.carried.lent.iter().map(|(layer, (keys, values))| {
                    Ok((*layer, (keys.force_contiguous()?, values.force_contiguous()?)))
                });
            let carried = Carried { inputs: group.carried.inputs.clone(), lent: lent.collect::<Result<_>>()? };
            self.before.push(Group { rows: Vec::new(), x: group.x.force_contiguous()?, carried });
        }
        Ok(())
    }

    /// The layer that a row can begin with, of so many; none where it differs before the first.
    fn branch(&self, row: &Row, layers: usize) -> Option<usize> {
        if row.noise.is_some() || row.tokens != self.tokens {
            return None;
        }
        let mut first = layers;
        for intervention in &row.interventions {
            match Place::of(&intervention.neuron.site.module) {
                Place::Embedding => return None,
                Place::Layer(layer) => first = first.min(layer),
                Place::Final => {}
            }
        }
        Some(first)
    }
}

/// Where the rows of one pass begin.
pub(super) struct Branches<'a> {
    rows: &'a [Row],
    /// Which rows begin with the embedding.
    pub whole: Vec<usize>,
    /// Which begin later, by the layer.
    later: BTreeMap<usize, Vec<usize>>,
    /// What those branch off.
    trunk: Option<&'a Trunk>,
    /// What is kept in this pass.
    kept: Option<&'a mut Trunk>,
}

impl<'a> Branches<'a> {
    /// Of `rows` through so many layers, along a trunk if there is one; `has_room`: whether it may be kept.
    pub fn of(rows: &'a [Row], trunk: Option<&'a mut Trunk>, layers: usize, has_room: bool) -> Branches<'a> {
        let mut branches = Branches { rows, whole: Vec::new(), later: BTreeMap::new(), trunk: None, kept: None };
        match trunk {
            Some(trunk) if trunk.is_complete(layers) => branches.trunk = Some(trunk),
            Some(trunk) if has_room => {
                trunk.clear();
                branches.kept = Some(trunk);
            }
            _ => {}
        }
        for (at, row) in rows.iter().enumerate() {
            match branches.trunk.and_then(|trunk| trunk.branch(row, layers)) {
                Some(layer) => branches.later.entry(layer).or_default().push(at),
                None => branches.whole.push(at),
            }
        }
        branches
    }

    /// Rows × layers that are not computed.
    pub fn skipped(&self) -> u64 {
        self.later.iter().map(|(layer, rows)| (layer * rows.len()) as u64).sum()
    }

    /// The first layer that a row passes.
    pub fn first(&self) -> usize {
        let later = self.later.keys().next().copied().unwrap_or(0);
        if self.whole.is_empty() { later } else { 0 }
    }

    /// Adds the rows that begin with a layer to the groups that have come to it.
    pub fn at(&mut self, layer: usize, groups: &mut Vec<Group>) -> Result<()> {
        if let (Some(trunk), Some(rows)) = (self.trunk, self.later.remove(&layer)) {
            groups.push(Group { rows, ..trunk.before[layer].clone() });
        }
        match &mut self.kept {
            Some(kept) => kept.keep(groups, self.rows),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::fixture::model;
    use crate::compute::{Arithmetic, NoHook, Residency};
    use crate::neuron::Intervention;
    use crate::progress::{Progress, Silent};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Rows as they are computed from the embedding on: also where layers lend keys and values, or have inputs.
    #[test]
    fn rows_that_begin_later_compute_the_same() {
        for family in ["llama", "gemma2", "gemma4", "lfm2", "qwen3_5", "deepseek_v3", "gpt_oss"] {
            for residency in [Residency::Resident, Residency::Streamed] {
                let model = model(family, Arithmetic::F64, Some(residency));
                let layers = model.recipe().layers.len();
                let tokens: Arc<[u32]> = (0..12).map(|at| at * 7 % 90).collect();
                let norm = |layer: usize| model.recipe().layer_modules(layer)[0].path.clone();
                let masked = |path: &str, channel| Intervention::zero(format!("{path}:out:{channel}").parse().unwrap());
                let mut rows = vec![Row::clean(tokens.clone())];
                for layer in [0, 1, layers - 1] {
                    rows.push(Row::with(tokens.clone(), vec![masked(&norm(layer), 3), masked(&norm(layers - 1), 5)]));
                }
                rows.push(Row::with(tokens.clone(), vec![masked(model.recipe().final_norm, 2)]));
                rows.push(Row::with(tokens.clone(), vec![masked(crate::architecture::recipe::EMBEDDING, 2)]));
                let expected = model.target_log_probs(&rows, &mut NoHook, &Silent).unwrap();
                let mut trunk = Trunk::of(tokens.clone());
                for pass in ["kept", "begun"] {
                    let found = model.target_log_probs_along(&mut trunk, &rows, &Silent).unwrap();
                    assert!(trunk.is_complete(layers), "{family}");
                    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                        assert!((found - expected).abs() < 1e-12, "{family} {pass}: {found}, expected {expected}");
                    }
                }
            }
        }
    }

    /// Counts what is advanced beyond the rows that begin later.
    struct Counted(AtomicU64);

    impl Progress for Counted {
        fn advance(&self, by: u64) -> Result<()> {
            self.0.fetch_add(by, Ordering::Relaxed);
            Ok(())
        }
    }

    /// Progress is that of whole rows; what was streamed is not.
    #[test]
    fn layers_before_the_first_intervention_are_not_read_again() {
        let model = model("llama", Arithmetic::F64, Some(Residency::Streamed));
        let tokens: Arc<[u32]> = (0..12).collect();
        let mut trunk = Trunk::of(tokens.clone());
        model.target_log_probs_along(&mut trunk, &[Row::clean(tokens.clone())], &Silent).unwrap();
        let before = model.pace.layers_read();
        let last = Intervention::zero("L2.mlp.down_proj:out:1".parse().unwrap());
        let counted = Counted(AtomicU64::new(0));
        let rows = [Row::with(tokens.clone(), vec![last]), Row::clean(tokens)];
        model.target_log_probs_along(&mut trunk, &rows, &counted).unwrap();
        assert_eq!(model.pace.layers_read() - before, 1);
        assert_eq!(counted.0.into_inner(), 2 * (3 + 1));
    }
}
