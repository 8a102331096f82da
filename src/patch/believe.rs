//! A receipt is believed as far as it can be worked out again, and no further: whoever can write to a folder can write
//! a receipt there, too.
//!
//! What cannot be worked out are the original bytes themselves, where a factor of 0 left nothing of them: that they are
//! those of some original, only the original can tell, or its fingerprint. So a journal that is found is followed only
//! where that was asked for, by `unpatch`; and values that are no numbers are not put in the place of numbers.

use super::changes::Changes;
use super::receipt::{Asked, Receipt, Record};
use super::shard::{OpenShards, bytes_now};
use super::{Kept, journal};
use crate::architecture::place::{Axis, NeuronPlace};
use crate::architecture::{Recipe, names};
use crate::checkpoint::Opened;
use crate::error::{Error, Result};
use crate::neuron;
use std::collections::BTreeMap;
use std::path::Path;

/// The bytes of each edit, in their order.
pub(super) type EditBytes = Vec<Vec<u8>>;

/// Checks that the receipt's edits are those that make what was asked for of `before`, the original bytes in the order
/// of its edits. Gives the bytes that each edit leaves.
///
/// # Errors
/// They are others, or config.json or the weights' headers cannot be read.
pub(super) fn check(receipt: &Receipt, root: &Path, before: &[u8]) -> Result<EditBytes> {
    let (opened, kept) = (Opened::at(root), Kept::of(root));
    let tensors = opened.named_tensors()?;
    let refused = |problem: String| {
        Error::file(kept.receipt_path(), format!("{problem}; such a receipt is not followed, nothing was changed"))
    };
    neuron::check_distinct(receipt.asked.iter().map(|asked| &asked.neuron))?;
    let mut one_plus = None;
    let mut changes = Changes::default();
    for asked in &receipt.asked {
        let action = asked.action();
        let action = action.ok_or_else(|| refused(format!("does not say what was asked for {}", asked.neuron)))?;
        let parts = names::parts(&asked.neuron, &tensors);
        if one_plus.is_none() && parts.iter().any(NeuronPlace::is_norm) {
            one_plus = Some(Recipe::read(opened.needed_config()?)?.norm.is_one_plus());
        }
        match action {
            Asked::Action(action) => changes.add(&asked.neuron, action, &parts, one_plus.unwrap_or_default()),
            Asked::Values(values) => changes.add_values(&asked.neuron, &values, &parts),
        }
    }
    let key = |tensor: &str, axis: Axis, index| (tensor.to_owned(), axis.as_str(), index);
    let mut original = BTreeMap::new();
    let pieces = journal::pieces(receipt, &kept, before)?;
    for (record, bytes) in receipt.edits.iter().zip(pieces) {
        original.insert(key(&record.tensor, record.axis, record.index), bytes.to_vec());
    }
    let others = || refused("names other edits than those that make what was asked for of the original".into());
    let of = |stored: &str, axis: Axis, index| original.get(&key(stored, axis, index)).cloned();
    let (edits, _) =
        changes.edits(&tensors, &|stored, axis, index, _, _| of(stored, axis, index)).map_err(|_| others())?;
    if !edits.iter().map(Record::of).eq(receipt.edits.iter().cloned()) {
        return Err(others());
    }
    match edits.iter().find(|edit| edit.removes_not_finite()) {
        Some(edit) => Err(refused(format!(
            "would put values that are infinite or not a number back into {}, in the place of numbers",
            edit.stored_as
        ))),
        None => Ok(edits.into_iter().map(|edit| edit.after).collect()),
    }
}

/// Checks that every byte of an unfinished run's edits is the old one or the new one.
pub(super) fn check_between(
    receipt: &Receipt,
    root: &Path,
    shards: &OpenShards,
    old: &[u8],
    new: &[Vec<u8>],
) -> Result<()> {
    let kept = Kept::of(root);
    for ((record, old), new) in receipt.edits.iter().zip(journal::pieces(receipt, &kept, old)?).zip(new) {
        let now = bytes_now(shards, &record.file, record.span).unwrap_or_default();
        let known = now.iter().zip(old).zip(new).all(|((now, old), new)| now == old || now == new);
        if !known || now.len() != new.len() {
            let problem = format!(
                "{} {} is neither as an unfinished run found it nor as it was to leave it: it was changed since, and \
                 nothing was changed now",
                record.axis.as_str(),
                record.index
            );
            return Err(Error::tensor(kept.folder.join(&record.file), &record.tensor, problem));
        }
    }
    Ok(())
}
