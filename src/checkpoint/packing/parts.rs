//! The stored tensors that belong to one weight, found by their names.

use super::number::{NumberType, Real};
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::quantization::Scheme;
use crate::checkpoint::tensors::Tensors;
use rayon::prelude::*;
use safetensors::Dtype;
use std::ops::Range;

/// A stored tensor, its bytes and where they lie.
#[derive(Debug, Clone)]
pub(super) struct Part<'a> {
    /// Its name in [`Tensors`].
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
    pub file: &'a MappedFile,
    /// Which bytes of the file these are.
    pub place: Range<u64>,
}

impl Part<'_> {
    /// What its elements are.
    pub fn number(&self) -> NumberType {
        NumberType::of(self.dtype)
    }

    /// All elements.
    pub fn values<T: Real>(&self) -> Vec<T> {
        self.number().decode_all(self.bytes)
    }

    /// Word `at` of 32 bits; 0 beyond the end.
    pub fn word(&self, at: usize) -> u32 {
        self.bytes.as_chunks::<4>().0.get(at).map_or(0, |word| u32::from_le_bytes(*word))
    }

    /// What is wrong where it is not of this shape and one of these dtypes.
    pub fn expect(&self, dtypes: &[Dtype], shape: &[usize]) -> Result<(), String> {
        if !dtypes.contains(&self.dtype) {
            let expected: Vec<String> = dtypes.iter().map(ToString::to_string).collect();
            return Err(format!("{} has dtype {}, expected {}", self.name, self.dtype, expected.join(" or ")));
        }
        if self.shape != shape {
            return Err(format!("{} has shape {:?}, expected {shape:?}", self.name, self.shape));
        }
        Ok(())
    }
}

/// Where the stored tensors of a weight are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a, 'n> {
    pub tensors: &'a Tensors,
    /// The weight's name.
    pub weight: &'n str,
}

impl<'a, 'n> Parts<'a, 'n> {
    /// The module's name: the weight's without `.weight`. A fused stack of experts is named as a module is.
    pub fn module(&self) -> &'n str {
        self.weight.strip_suffix(".weight").unwrap_or(self.weight)
    }

    /// The tensor of the weight's own name.
    pub fn own(&self) -> Option<Part<'a>> {
        self.named(self.weight)
    }

    /// The tensor of the module's name with `end` after it: `.weight_scale`, or `_scales` beside fused experts.
    pub fn get(&self, end: &str) -> Option<Part<'a>> {
        self.named(&format!("{}{end}", self.module()))
    }

    /// The first of these that is there.
    pub fn first(&self, ends: &[&str]) -> Option<Part<'a>> {
        ends.iter().find_map(|end| self.get(end))
    }

    /// Those of these that are there.
    pub fn all(&self, ends: &[&str]) -> Vec<Part<'a>> {
        ends.iter().filter_map(|end| self.get(end)).collect()
    }

    /// The one that has to be there.
    pub fn needed(&self, end: &str) -> Result<Part<'a>, String> {
        self.get(end).ok_or_else(|| format!("its {}{end} is missing", self.module()))
    }

    /// What the config says of this module; nothing where it says nothing of quantization.
    ///
    /// # Errors
    /// What it says cannot be.
    pub fn scheme(&self) -> Result<Scheme, String> {
        self.tensors.scheme(self.module())
    }

    fn named(&self, name: &str) -> Option<Part<'a>> {
        let (name, entry) = self.tensors.entry(name)?;
        let (file, place) = entry.place.clone()?;
        Some(Part {
            name,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: self.tensors.bytes(name)?,
            file: self.tensors.files().get(file)?,
            place,
        })
    }
}

/// Some bits of words that follow each other, from bit `at` on, the lowest of the first word first.
pub(super) fn bits_at(word: impl Fn(usize) -> u32, at: usize, bits: usize) -> u32 {
    let low = u64::from(word(at / 32));
    let both = if at % 32 + bits > 32 { low | u64::from(word(at / 32 + 1)) << 32 } else { low };
    (both >> (at % 32)) as u32 & ((1 << bits) - 1)
}

/// Rows worked out on all cores: `fill` is given the first row of a few, and where they go.
pub(super) fn by_rows(rows: Range<usize>, columns: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    /// As many codes of neighbouring out channels share a cache line where these are columns of the file.
    const TOGETHER: usize = 16;
    let mut values = vec![0.0; rows.len() * columns];
    if columns > 0 {
        let chunks = values.par_chunks_mut(TOGETHER * columns).enumerate();
        chunks.for_each(|(at, to)| fill(rows.start + at * TOGETHER, to));
    }
    values
}
