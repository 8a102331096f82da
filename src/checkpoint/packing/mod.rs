//! How weights are packed in stored tensors.
//!
//! A weight is what a module computes with, `W [out, in]` or `[channels]`. A packing is a form in which checkpoints store
//! weights: a file here. It says which stored tensors a weight is made of, what its rows hold, and where in a file they
//! lie. A new one is a file with a type that implements [`Packing`], and a function in `PACKINGS` that finds weights in its
//! form. Nothing else decodes the weights of a checkpoint; each number type has its one decoder and encoder in [`number`].

mod bitsandbytes;
mod change;
pub mod dense;
mod fp4;
mod gguf;
mod gptq_awq;
mod layout;
mod pack_quantized;
mod parts;
mod rows;
mod scaled;
mod span;

use super::map::MappedFile;
use super::quantization::is_of_activations;
use super::{Tensors, number};
use crate::error::{Error, Result};
pub use change::{Codes, OwnBits, OwnScales, StoredSpan, ZeroCodes};
pub use dense::Dense;
pub use layout::{Axis, Layout};
use number::Real;
pub use number::{NumberType, Pattern, WithElements};
use parts::{Part, Parts};
pub use rows::Rows;
pub use span::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::Range;

/// A weight in a packing's form; none where it is not there in that form. The error is what is wrong with it, without
/// its name.
type Found<'a> = Option<std::result::Result<Box<dyn Packing + 'a>, String>>;

/// Finds a weight in a packing's form.
type Find = for<'a> fn(&Parts<'a, '_>) -> Found<'a>;

/// The packings. The first that finds a weight is the one that it has.
const PACKINGS: &[Find] =
    &[gguf::of, bitsandbytes::of, pack_quantized::of, fp4::of, gptq_awq::of, scaled::of, dense::of];

/// What packed codes are called where the weight has no stored tensor of its own name: what stands for `.weight`.
const CODES: [(&str, &str); 3] = [(".weight_packed", ".weight"), (".qweight", ".weight"), ("_blocks", "")];

/// What stands beside codes of one format or the other, and nowhere else: it follows the module's name.
pub const COMPANIONS: [&str; 22] = [
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_scale_2",
    ".weight_global_scale",
    ".weight_zero_point",
    ".weight_shape",
    ".weight_g_idx",
    ".qzeros",
    ".scales",
    ".g_idx",
    ".SCB",
    ".weight_format",
    ".weight.absmax",
    ".weight.quant_map",
    ".weight.nested_absmax",
    ".weight.nested_quant_map",
    ".weight.quant_state.bitsandbytes__nf4",
    ".weight.quant_state.bitsandbytes__fp4",
    "_scales",
    "_scale_inv",
    "_scale",
    "_blocks",
];

/// The name of the weight that a stored tensor would be the codes of, or is.
pub fn name_of(stored: &str) -> String {
    let named = CODES.iter().find_map(|(end, instead)| Some(format!("{}{instead}", stored.strip_suffix(end)?)));
    named.unwrap_or_else(|| stored.to_owned())
}

/// What a weight's codes may be called, or the weight itself where it is not packed.
pub fn codes_of(weight: &str) -> impl Iterator<Item = String> {
    let own = std::iter::once(weight.to_owned());
    own.chain(CODES.iter().filter_map(move |(end, instead)| Some(format!("{}{end}", weight.strip_suffix(instead)?))))
}

/// Columns of a packed weight at most: one row is decoded at a time, and takes more memory than in the file. Models have
/// some hundred thousand.
const MOST_COLUMNS: usize = 1 << 24;

/// Refuses rows that are too long.
fn check_columns(columns: usize) -> std::result::Result<(), String> {
    match columns <= MOST_COLUMNS {
        true => Ok(()),
        false => Err(format!("has rows of {columns} columns, more than the {MOST_COLUMNS} that any weight has")),
    }
}

/// What a weight is made of, and its form.
#[derive(Debug, Clone)]
pub struct Outline<'a> {
    /// The stored tensors, by their names in [`Tensors`]; where it is packed, its codes first.
    stored: Vec<&'a str>,
    /// Outermost dimension first.
    shape: Vec<usize>,
    /// Its rows and columns, and the number type that holds its elements without rounding.
    layout: Layout,
    /// What the codes are, for messages: `FP8`, `Q4_K`; the dtype where it is dense.
    format: String,
    usual: Usual,
}

/// What is nothing unusual beside the codes of a form, for who judges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usual {
    /// Scales below 0: the sign may be theirs.
    pub negative_scales: bool,
    /// Scales of 0, of a block of zeros.
    pub zero_scales: bool,
    /// Scales that are bytes are exponents of two (E8M0).
    pub exponents: bool,
    /// A bias of zeros, where the module has none.
    pub bias_of_nothing: bool,
}

impl<'a> Outline<'a> {
    /// Of a weight that is decoded to single precision.
    fn of<'p>(
        stored: impl Iterator<Item = &'p Part<'a>>,
        shape: Vec<usize>,
        layout: Layout,
        format: &str,
    ) -> Outline<'a>
    where
        'a: 'p,
    {
        let layout = Layout { number: NumberType::F32, ..layout };
        let stored = stored.map(|part| part.name).collect();
        Outline { stored, shape, layout, format: format.to_owned(), usual: Usual::default() }
    }
}

/// One weight in the form in which a checkpoint stores it.
pub trait Packing: Debug + Send + Sync {
    /// What it is made of, and its form.
    fn outline(&self) -> &Outline<'_>;

    /// Rows `rows`, all of which there are by its layout; none where the file ends before them.
    ///
    /// # Errors
    /// They cannot be decoded.
    fn decode(&self, rows: Range<usize>) -> Result<Option<Rows<'_>>>;

    /// Why no line along an axis can be changed by itself, whatever it is stored as.
    fn refusal(&self, _axis: Axis) -> Option<String> {
        None
    }

    /// Where the codes of a row or column lie, counted through all matrices of a stack.
    ///
    /// # Errors
    /// They cannot be told from those of others; the message says why, without the weight's name.
    fn codes(&self, axis: Axis, index: usize) -> std::result::Result<Codes<'_>, String> {
        Err(format!("{} {index} of {} cannot be changed by itself", axis.as_str(), self.outline().format))
    }

    /// What a code in a row of the stack and a column of its matrix is multiplied by, all scales in one; a number and
    /// finite where it is never anything else.
    fn scale(&self, _row: usize, _column: usize) -> f32 {
        1.0
    }

    /// The code that stands for zero in a row of the stack and a column of its matrix.
    ///
    /// # Errors
    /// There is none; the message says why, without the weight's name.
    fn zero_code(&self, _row: usize, _column: usize) -> std::result::Result<u32, String> {
        Ok(0)
    }

    /// The scales that a row of the stack shares with no other.
    ///
    /// # Errors
    /// It has none; the message says why, without the weight's name.
    fn own_scales(&self, row: usize) -> std::result::Result<OwnScales<'_>, String> {
        Err(format!("row {row} of {} has no scale of its own", self.outline().format))
    }

    /// The zero points of a row that has scales of its own; none where there are none.
    fn own_zeros(&self, _row: usize) -> Option<Codes<'_>> {
        None
    }

    /// The file that it is a part of and where it lies there, where that is not told by the names of stored tensors.
    fn own_place(&self) -> Option<(&MappedFile, Range<u64>)> {
        None
    }

    /// All that is stored of a row, where it is stored by itself.
    fn own_row(&self, _row: usize) -> Option<StoredSpan<'_>> {
        None
    }

    /// What makes a row zero, where that is not its codes.
    fn zero_row(&self, _row: usize) -> Option<ZeroCodes<'_>> {
        None
    }

    /// A row as it is decoded once the bytes of a span of its file are these; none where its own scales tell that.
    fn row_with(&self, _row: usize, _span: Span, _bytes: &[u8]) -> Option<Vec<f64>> {
        None
    }

    /// Which row of what is stored a row is: another where a converter changed their order.
    fn stored_row(&self, row: usize) -> usize {
        row
    }

    /// Likewise of columns, counted through all matrices of what is stored.
    fn stored_column(&self, column: usize) -> usize {
        column
    }

    /// Whether its numbers have to be worked out from what is stored.
    fn is_packed(&self) -> bool {
        self.dense().is_none()
    }

    /// What is stored, where every element lies in the file as a number of its own, so that one can be changed and no
    /// other.
    fn dense(&self) -> Option<&Dense<'_>> {
        None
    }
}

impl Tensors {
    /// The weight of this name, however it is packed; of a norm or a bias too.
    ///
    /// # Errors
    /// There is no such weight, or what it is packed in is broken.
    pub fn weight(&self, name: &str) -> Result<Weight<'_>> {
        let missing = || Error::tensor(self.root(), name, "is missing from the checkpoint");
        Weight::of(self, name).unwrap_or_else(|| Err(missing()))
    }

    /// The shape of a weight; none where there is none, or it is broken.
    pub(crate) fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        self.weight(name).ok().map(|weight| weight.shape().to_vec())
    }

    /// Whether something is stored for a weight, be it broken.
    pub fn holds(&self, name: &str) -> bool {
        Weight::of(self, name).is_some()
    }

    /// All weights in order of name, and the stored tensors that are part of none, or of one that is broken.
    pub fn weights(&self) -> Vec<Weight<'_>> {
        Weight::all_of(self)
    }

    /// The packed weights, by their names, and what is wrong with those that cannot be unpacked; each is made when it is
    /// asked for.
    pub fn packed(&self) -> impl Iterator<Item = (String, Result<Weight<'_>>)> {
        Weight::packed_of(self)
    }

    /// Takes the weight of module `from` for that of `to` where only the former is there: two names of one weight.
    pub(crate) fn stand_for(&mut self, from: &str, to: &str) {
        let weight = |module: &str| format!("{module}.weight");
        if !self.holds(&weight(to)) && self.holds(&weight(from)) && self.gguf().is_none() {
            self.rename(from, to);
        }
    }

    /// Whether two weights are stored in the same types, shapes and bytes; none where one is not there or not stored as
    /// it is read.
    pub(crate) fn same(&self, a: &str, b: &str) -> Option<bool> {
        let (a, b) = (self.weight(a).ok()?, self.weight(b).ok()?);
        let part = |name: &str| Some((self.get(name)?.dtype, self.get(name)?.shape.as_slice(), self.bytes(name)?));
        let parts = |weight: &Weight<'_>| weight.stored().into_iter().map(part).collect::<Option<Vec<_>>>();
        Some(parts(&a)? == parts(&b)?)
    }
}

/// What a module computes with, whatever it is stored as.
#[derive(Debug)]
pub struct Weight<'a> {
    tensors: &'a Tensors,
    name: String,
    packing: Box<dyn Packing + 'a>,
}

impl<'a> Weight<'a> {
    /// The weight of a name, such as `model.layers.0.mlp.down_proj.weight`; none where nothing is stored for it.
    fn of(tensors: &'a Tensors, name: &str) -> Option<Result<Weight<'a>>> {
        let parts = Parts { tensors, weight: name };
        let made = |packing| Weight { tensors, name: name.to_owned(), packing };
        let bad = |problem: String| Error::tensor(tensors.root(), tensors.stored_name(name), problem);
        // What names mean to quantizers means nothing in a GGUF.
        let packings = if tensors.gguf_file().is_some() { &PACKINGS[..1] } else { PACKINGS };
        let fits = |packing: Box<dyn Packing + 'a>| {
            if packing.is_packed() {
                check_columns(packing.outline().layout.columns)?;
            }
            Ok(packing)
        };
        let found = packings.iter().find_map(|of| of(&parts))?;
        let is_dense = found.as_ref().is_ok_and(|packing| packing.dense().is_some());
        let refusal = tensors.refusal().filter(|_| !is_dense);
        Some(refusal.map_or(found, Err).and_then(fits).map(made).map_err(bad))
    }

    /// Those of a checkpoint that are packed in order of their codes, and what is wrong with those that cannot be unpacked.
    /// Each is made when it is asked for.
    fn packed_of(tensors: &'a Tensors) -> impl Iterator<Item = (String, Result<Weight<'a>>)> + 'a {
        tensors.iter().filter_map(move |(stored, _)| {
            let name = name_of(stored);
            let weight = Weight::of(tensors, &name)?;
            weight.as_ref().map_or(true, Weight::is_packed).then_some((name, weight))
        })
    }

    /// All weights of a checkpoint in order of name, whatever they are packed as; and the stored tensors that are part
    /// of none, or of one that is broken, as they are.
    fn all_of(tensors: &'a Tensors) -> Vec<Weight<'a>> {
        let mut used = BTreeSet::new();
        let mut weights = BTreeMap::new();
        for (name, weight) in Weight::packed_of(tensors).filter_map(|(name, weight)| Some((name, weight.ok()?))) {
            used.extend(weight.stored().iter().map(ToString::to_string));
            weights.insert(name, weight);
        }
        for (stored, _) in tensors.iter().filter(|(stored, _)| !used.contains(*stored)) {
            if let Some(Ok(packing)) = dense::of(&Parts { tensors, weight: stored }) {
                weights.insert(stored.to_owned(), Weight { tensors, name: stored.to_owned(), packing });
            }
        }
        weights.into_values().collect()
    }

    /// The stored tensors that it is made of, by their names in [`Tensors`].
    pub fn stored(&self) -> Vec<&str> {
        self.packing.outline().stored.clone()
    }

    /// What its codes are, for messages: `FP8`, `Q4_K`; the dtype where it is dense.
    pub fn format(&self) -> String {
        self.packing.outline().format.clone()
    }

    /// What is nothing unusual beside its codes.
    pub fn usual(&self) -> Usual {
        self.packing.outline().usual
    }

    /// Whether its numbers have to be worked out from what is stored: not those of a safetensors file that is dense.
    pub fn is_packed(&self) -> bool {
        self.packing.is_packed()
    }

    /// The dtypes of these, for messages.
    pub fn dtypes(&self) -> String {
        let mut dtypes: Vec<String> =
            self.stored().iter().filter_map(|name| Some(self.tensors.get(name)?.dtype.to_string())).collect();
        dtypes.dedup();
        dtypes.join(", ")
    }

    /// What it was asked for as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape, outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.packing.outline().shape
    }

    /// Its rows and columns.
    pub fn layout(&self) -> Layout {
        self.packing.outline().layout
    }

    /// Whether its elements are floats that a model can compute with: not where only a quantizer's settings, which are
    /// not known, would tell what they stand for.
    pub fn is_float(&self) -> bool {
        self.layout().number.holds_weights()
    }

    /// Some rows of the whole stack; elements where it is a vector.
    ///
    /// # Errors
    /// There are no such rows, or they cannot be decoded.
    pub fn rows(&self, rows: Range<usize>) -> Result<Rows<'_>> {
        let bad = |problem: String| Error::tensor(self.tensors.root(), &self.name, problem);
        let count = self.layout().all_rows();
        if rows.start > rows.end || rows.end > count {
            return Err(bad(format!("has {count} rows, asked for {} to {}", rows.start, rows.end)));
        }
        self.packing.decode(rows)?.ok_or_else(|| bad("is missing from the checkpoint".into()))
    }

    /// All rows.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub fn all(&self) -> Result<Rows<'_>> {
        self.rows(0..self.layout().all_rows())
    }

    /// Some columns of the stack, in one pass over its rows.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub fn columns<T: Real>(&self, columns: &[usize]) -> Result<Vec<Vec<T>>> {
        let layout = self.layout();
        let mut found = vec![Vec::with_capacity(layout.rows); columns.len()];
        for range in layout.row_chunks() {
            let rows = self.rows(range.clone())?;
            for row in range.clone() {
                let of_matrix = row / layout.rows * layout.columns..(row / layout.rows + 1) * layout.columns;
                for (column, values) in columns.iter().zip(&mut found).filter(|(column, _)| of_matrix.contains(column))
                {
                    let mut value = [T::default()];
                    if rows.read(row - range.start, column - of_matrix.start, &mut value) {
                        values.push(value[0]);
                    }
                }
            }
        }
        Ok(found)
    }

    /// A row as it is decoded once the bytes of a span of its file are these; none where its own scales tell that.
    pub fn row_with(&self, row: usize, span: Span, bytes: &[u8]) -> Option<Vec<f64>> {
        self.packing.row_with(row, span, bytes)
    }

    /// Where row, column or element `index` is in what is stored: a converter may have changed the order of
    /// rows, or put several tensors into one.
    pub fn stored_index(&self, axis: Axis, index: usize) -> usize {
        match axis {
            Axis::Row | Axis::Element => self.packing.stored_row(index),
            Axis::Column => self.packing.stored_column(index),
        }
    }

    /// Why no line along an axis can be changed by itself, if none can.
    pub fn refusal(&self, axis: Axis) -> Option<String> {
        self.packing.refusal(axis)
    }

    /// The files that its values come from and where they lie there, in order, without what concerns activations alone;
    /// none where a header lies.
    pub fn places(&self) -> Option<Vec<(&MappedFile, Range<u64>)>> {
        if let Some(place) = self.packing.own_place() {
            return Some(vec![place]);
        }
        let of_values = self.stored().into_iter().filter(|stored| !is_of_activations(stored));
        let place = |stored| {
            let (file, place) = self.tensors.get(stored)?.place.clone()?;
            Some((self.tensors.files().get(file)?, place))
        };
        of_values.map(place).collect()
    }

    /// Where it can be changed element by element, if it can.
    pub fn dense(&self) -> Option<&Dense<'_>> {
        self.packing.dense()
    }
}

#[cfg(test)]
mod dense_tests;
#[cfg(test)]
mod gguf_tests;
#[cfg(test)]
mod refused_tests;
#[cfg(test)]
pub(crate) mod tests;
