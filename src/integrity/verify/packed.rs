//! Packed weights beside a fingerprint's: where decoded values changed the weight tells it, and not the codes and scales
//! that it is made of.

use super::place::{Marks, change};
use crate::integrity::decoded;
use crate::integrity::difference::{Difference, Norms, Packed};
use crate::integrity::fingerprint::{Fingerprint, WeightRecord};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Puts changed weights in the place of their changed stored tensors.
pub(super) fn tell(before: &Fingerprint, after: &Fingerprint, norms: &Norms, differences: &mut Vec<Difference>) {
    let now: HashMap<&str, &WeightRecord> = after.weights.iter().map(|w| (w.name.as_str(), w)).collect();
    let mut changed = BTreeMap::new();
    let mut replaced = BTreeSet::new();
    for (at, difference) in differences.iter().enumerate() {
        match difference {
            Difference::TensorChanged(change) => _ = changed.insert(change.name.clone(), at),
            Difference::TensorReplaced { name, .. } => _ = replaced.insert(name.clone()),
            _ => {}
        }
    }
    let (mut told, mut instead) = (Vec::new(), BTreeSet::new());
    for old in &before.weights {
        let Some(new) = now.get(old.name.as_str()).filter(|new| is_comparable(old, new)) else { continue };
        // Codes that another weight held say more than that all of them are others.
        let is_replaced = old.stored.first().is_some_and(|codes| replaced.contains(codes));
        if is_replaced || (&old.rows, &old.columns) == (&new.rows, &new.columns) {
            continue;
        }
        let of_values = old.stored.iter().filter(|name| !decoded::is_beside_values(name));
        let (stored, places): (Vec<_>, Vec<_>) =
            of_values.filter_map(|name| Some((name.clone(), *changed.get(name)?))).unzip();
        instead.extend(places);
        let rounding = rounding(before, old).max(rounding(after, new));
        let mut change = change(&Marks::of_weight(old, rounding), &Marks::of_weight(new, rounding), norms);
        change.packed = Some(Packed { format: new.format.clone(), stored });
        told.push(Difference::TensorChanged(change));
    }
    let mut at = 0..;
    differences.retain(|_| at.next().is_some_and(|at| !instead.contains(&at)));
    differences.extend(told);
}

/// Whether they are packed alike and can be compared line by line.
fn is_comparable(old: &WeightRecord, new: &WeightRecord) -> bool {
    old.format == new.format && old.shape == new.shape && !old.rows.is_empty()
}

/// The relative size of one rounding of a weight's values.
pub(super) fn rounding(of: &Fingerprint, weight: &WeightRecord) -> f64 {
    let parts = of.tensors.iter().filter(|tensor| weight.stored.contains(&tensor.name));
    decoded::rounding(parts.map(|tensor| (tensor.name.as_str(), tensor.dtype)))
}
