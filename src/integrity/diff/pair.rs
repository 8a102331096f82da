//! A weight of both checkpoints, whatever either packs it as.

use super::change::{Changed, Values, compare};
use super::{gone_or_extra, repacked, reshaped};
use crate::checkpoint::Tensors;
use crate::checkpoint::packing::{Layout, Weight, dense};
use crate::error::Result;
use crate::integrity::decoded;
use crate::integrity::difference::{Difference, Norms, Packed, Pattern, Repacked, TensorChange};
use safetensors::Dtype;
use std::collections::BTreeSet;

/// One weight of both.
pub(super) struct Pair<'a> {
    name: &'a str,
    how: How<'a>,
    /// What it is stored as.
    pub before: Vec<Stored<'a>>,
    pub after: Vec<Stored<'a>>,
}

/// A stored tensor.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

/// How two forms of a weight are compared.
enum How<'a> {
    /// By the bytes of the one stored tensor that each is.
    Stored,
    /// By what they are decoded to, bit by bit: they are packed alike.
    Packed([&'a Weight<'a>; 2], &'a Tensors),
    /// By what they are decoded to, up to rounding.
    Rounded([&'a Weight<'a>; 2]),
}

/// What a comparison tells.
#[derive(Default)]
pub(super) struct Told {
    /// Values changed.
    pub change: Option<TensorChange>,
    /// It is stored in another form.
    pub repacked: Option<Repacked>,
    /// Of its stored tensors, where that does not show in its values.
    pub stored: Vec<Difference>,
}

impl Told {
    pub fn is_same(&self) -> bool {
        self.change.is_none() && self.repacked.is_none() && self.stored.is_empty()
    }
}

impl<'a> Stored<'a> {
    /// None where there is no such tensor, or it is not stored as it is read.
    pub fn of(tensors: &'a Tensors, name: &'a str) -> Option<Stored<'a>> {
        let (entry, bytes) = (tensors.get(name)?, tensors.bytes(name)?);
        Some(Stored { name, dtype: entry.dtype, shape: &entry.shape, bytes })
    }

    /// Those of a weight; none where one of them is not stored as it is read.
    fn all_of(tensors: &'a Tensors, weight: &'a Weight<'a>) -> Vec<Stored<'a>> {
        let stored = weight.stored().into_iter().map(|name| Stored::of(tensors, name));
        stored.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// Whether the same is stored, whatever its names.
    pub fn same(a: &[Stored], b: &[Stored]) -> bool {
        let alike = |a: &Stored, b: &Stored| (a.dtype, a.shape, a.bytes) == (b.dtype, b.shape, b.bytes);
        !a.is_empty() && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
    }

    /// Type and shape.
    pub fn form(&self) -> (Dtype, Vec<usize>) {
        (self.dtype, self.shape.to_vec())
    }
}

impl<'a> Pair<'a> {
    /// None where they cannot be compared: their shapes differ, or they are no numbers of one kind.
    pub fn of((old, was): (&'a Tensors, &'a Weight<'a>), (new, is): (&'a Tensors, &'a Weight<'a>)) -> Option<Pair<'a>> {
        let how = match (was.is_packed(), is.is_packed()) {
            _ if was.shape() != is.shape() => return None,
            (false, false) if was.format() == is.format() => How::Stored,
            (true, true) if was.format() == is.format() => How::Packed([was, is], new),
            _ if was.is_float() && is.is_float() => How::Rounded([was, is]),
            _ => return None,
        };
        let (before, after) = (Stored::all_of(old, was), Stored::all_of(new, is));
        Some(Pair { name: was.name(), how, before, after })
    }

    /// One of stored tensors; none where their types or shapes differ.
    pub fn of_stored(before: Stored<'a>, after: Stored<'a>) -> Option<Pair<'a>> {
        let pair = || Pair { name: before.name, how: How::Stored, before: vec![before], after: vec![after] };
        (before.form() == after.form()).then(pair)
    }

    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Bytes that are read of the first.
    pub fn bytes(&self) -> u64 {
        self.before.iter().map(|stored| stored.bytes.len() as u64).sum()
    }

    /// In what they differ. `same_settings`: both configs say the same of what codes mean.
    pub fn compare(&self, norms: &Norms, same_settings: bool) -> Result<Told> {
        let same = Stored::same(&self.before, &self.after);
        match self.how {
            How::Rounded(weights) => Ok(Told { repacked: Some(repacked::compare(weights)?), ..Told::default() }),
            How::Packed(weights, new) if !(same && same_settings) => self.compare_packed(weights, new, norms),
            How::Stored if !same => {
                let both = self.before.first().zip(self.after.first());
                let change = both.map(|(before, after)| of_stored(*before, *after, norms)).transpose()?;
                Ok(Told { change: change.flatten(), ..Told::default() })
            }
            _ => Ok(Told::default()),
        }
    }

    fn compare_packed(&self, [was, is]: [&Weight; 2], new: &Tensors, norms: &Norms) -> Result<Told> {
        let parts = self.before.iter().chain(&self.after).map(|stored| (stored.name, stored.dtype));
        let mut change = compare(
            &Changed {
                name: self.name(),
                shape: was.shape(),
                dtype: Dtype::F32,
                layout: was.layout(),
                rounding: decoded::rounding(parts),
                values: Values::Packed([was, is]),
            },
            norms,
        )?;
        let (mut told, mut of_values) = (Vec::new(), Vec::new());
        let names: BTreeSet<&str> = self.before.iter().chain(&self.after).map(|stored| stored.name).collect();
        for name in names {
            let named = |of: &[Stored<'a>]| of.iter().find(|stored| stored.name == name).copied();
            let (before, after) = (named(&self.before), named(&self.after));
            if before.zip(after).is_some_and(|(before, after)| Stored::same(&[before], &[after])) {
                continue;
            }
            // What changed of the values is told of the weight.
            if change.is_some() && !decoded::is_beside_values(name) {
                of_values.push(new.stored_name(name).to_owned());
                continue;
            }
            told.extend(match (before, after) {
                (Some(before), Some(after)) if before.form() == after.form() => {
                    of_stored(before, after, norms)?.map(Difference::TensorChanged)
                }
                (Some(before), Some(after)) => Some(reshaped(name, before.form(), after.form())),
                (was, _) => Some(gone_or_extra(was.is_some(), new, name, name)),
            });
        }
        if let Some(change) = &mut change {
            if change.pattern == Pattern::Dense {
                change.lines = repacked::compare([was, is])?.lines;
            }
            change.packed = Some(Packed { format: is.format(), stored: of_values });
        }
        Ok(Told { change, stored: told, repacked: None })
    }
}

/// How a stored tensor changed, by its bytes.
fn of_stored(before: Stored, after: Stored, norms: &Norms) -> Result<Option<TensorChange>> {
    let layout = Layout::of_bytes(before.dtype, before.shape, before.bytes.len());
    let rows = [before, after].map(|of| dense::rows(of.dtype, of.shape, of.bytes));
    let changed = Changed {
        name: before.name,
        shape: before.shape,
        dtype: before.dtype,
        layout,
        rounding: layout.number.rounding(),
        values: Values::Stored([before.bytes, after.bytes], rows),
    };
    compare(&changed, norms)
}
