//! Which bits of a stored weight are those of one row or column, and which of them have to change for it to become zero,
//! or a multiple of itself.

use super::layout::{Axis, Layout};
use super::number::NumberType;
use super::parts::Part;
use super::span::Span;
use super::{Outline, Weight};
use crate::checkpoint::map::MappedFile;
use crate::error::{Error, Result};
use safetensors::Dtype;

/// Bytes of a stored tensor that belong to one row or column of a weight.
#[derive(Debug, Clone)]
pub struct StoredSpan<'a> {
    /// The stored tensor, by its name in [`Tensors`](crate::checkpoint::Tensors); of a GGUF by that in the file.
    pub tensor: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'a [usize],
    /// The file that it lies in.
    pub file: &'a MappedFile,
    /// Which bytes of the file.
    pub span: Span,
    /// What these bytes are: elements, or scales between codes.
    pub number: NumberType,
}

impl<'a> StoredSpan<'a> {
    /// `pieces` pieces of `piece` bytes of a tensor, `stride` bytes apart, from its byte `from` on.
    pub(super) fn of(part: &Part<'a>, from: usize, piece: usize, stride: usize, pieces: usize) -> StoredSpan<'a> {
        let span = Span {
            offset: part.place.start + from as u64,
            piece_bytes: piece as u64,
            stride_bytes: stride as u64,
            pieces: pieces as u64,
        };
        StoredSpan {
            tensor: part.name,
            dtype: part.dtype,
            shape: part.shape,
            file: part.file,
            span,
            number: part.number(),
        }
    }

    /// All of its bits.
    fn whole(self) -> OwnBits<'a> {
        OwnBits { mask: vec![u8::MAX; self.span.bytes() as usize], place: self }
    }
}

/// Bits of a stored tensor that belong to one row or column of a weight and to no other.
#[derive(Debug, Clone)]
pub struct OwnBits<'a> {
    /// The bytes that they lie in.
    pub place: StoredSpan<'a>,
    /// Which bits of these bytes, of all pieces one after the other.
    pub mask: Vec<u8>,
}

/// The code of an element, or why it has none.
type Zero = std::result::Result<u32, String>;

/// Where the codes of a row or column lie, or what stands beside them in as few bits.
#[derive(Debug)]
pub struct Codes<'a> {
    place: StoredSpan<'a>,
    runs: Vec<Run>,
}

/// Bits that follow each other and belong to one code.
#[derive(Debug)]
struct Run {
    /// Which element of the row or column the code is of.
    element: usize,
    /// The first of these bits among those of all pieces, the lowest of the first byte first.
    at: usize,
    bits: usize,
    /// The lowest of the code's own bits that is here.
    from: usize,
}

impl<'a> Codes<'a> {
    pub(super) fn new(place: StoredSpan<'a>) -> Codes<'a> {
        Codes { place, runs: Vec::new() }
    }

    /// Whole bytes, each a code.
    pub(super) fn bytes(place: StoredSpan<'a>) -> Codes<'a> {
        let of = |element| Run { element, at: element * 8, bits: 8, from: 0 };
        Codes { runs: (0..place.span.bytes() as usize).map(of).collect(), place }
    }

    /// The code of an element has `bits` bits from bit `at` of all pieces on.
    pub(super) fn put(&mut self, element: usize, at: usize, bits: usize) {
        self.runs.push(Run { element, at, bits, from: 0 });
    }

    /// As [`Codes::put`], of the code's bits from bit `from` on.
    pub(super) fn put_part(&mut self, element: usize, at: usize, bits: usize, from: usize) {
        self.runs.push(Run { element, at, bits, from });
    }

    /// As [`Codes::put`], of a code in words that are `next` bits apart: what has no place in its own is in the next one.
    pub(super) fn put_in_words(&mut self, element: usize, at: usize, bits: usize, next: usize) {
        let here = bits.min(32 - at % 32);
        self.put(element, at, here);
        if here < bits {
            self.runs.push(Run { element, at: at / 32 * 32 + next, bits: bits - here, from: here });
        }
    }

    /// Their bits.
    fn own(self) -> OwnBits<'a> {
        let (mask, _) = self.with(|_| Ok(0)).unwrap_or_default();
        OwnBits { place: self.place, mask }
    }

    /// Which bits they are, and what these are where each element has the code that `code` gives it.
    fn with(&self, code: impl Fn(usize) -> Zero) -> std::result::Result<(Vec<u8>, Vec<u8>), String> {
        let bytes = self.place.span.bytes() as usize;
        let (mut mask, mut codes) = (vec![0; bytes], vec![0; bytes]);
        for Run { element, at, bits, from } in &self.runs {
            let code = code(*element)? >> from;
            for bit in 0..*bits {
                let (byte, place) = ((at + bit) / 8, (at + bit) % 8);
                mask[byte] |= 1 << place;
                codes[byte] |= ((code >> bit & 1) as u8) << place;
            }
        }
        Ok((mask, codes))
    }
}

/// Codes that make a row or a column of a weight exactly zero, whatever its scales.
#[derive(Debug, Clone)]
pub struct ZeroCodes<'a> {
    /// Where the codes lie.
    pub place: StoredSpan<'a>,
    /// The bits of these bytes that are codes of the row or column, of all pieces one after the other.
    pub mask: Vec<u8>,
    /// What these bits become.
    pub codes: Vec<u8>,
}

/// The scales that a row of a weight shares with no other.
#[derive(Debug, Clone)]
pub struct OwnScales<'a> {
    /// Where they lie.
    pub place: StoredSpan<'a>,
    /// Which of them each column has.
    pub of_column: Vec<usize>,
}

impl OwnScales<'_> {
    /// Whether a factor has to be exact in each of them: numbers of 8 bits without a sign, which lie between codes.
    pub fn are_coarse(&self) -> bool {
        let number = self.place.number;
        !number.holds_weights() && number != NumberType::of(self.place.dtype)
    }
}

/// Rows and columns are counted through all matrices of a stack.
impl Weight<'_> {
    /// The codes that make a row or column of a packed weight exactly zero.
    ///
    /// # Errors
    /// There are none: what it is packed in cannot hold that, and why.
    pub fn zero_codes(&self, axis: Axis, index: usize) -> Result<ZeroCodes<'_>> {
        self.has(axis, index)?;
        self.check_refusal(axis)?;
        if let (Axis::Row, Some(zero)) = (axis, self.packing.zero_row(index)) {
            return Ok(zero);
        }
        let codes = self.packing.codes(axis, index).map_err(|problem| self.cannot(&problem))?;
        let Layout { rows, columns, .. } = self.layout();
        let zero = |element: usize| {
            let (row, column) = match axis {
                Axis::Row => (index, element),
                _ => (index / columns * rows + element, index % columns),
            };
            // Zero times that would not be 0.
            match self.packing.scale(row, column).is_finite() {
                true => self.packing.zero_code(row, column),
                false => Err(format!("column {column} meets a scale that is infinite or not a number in row {row}")),
            }
        };
        let (mask, zeros) = codes.with(zero).map_err(|problem| self.cannot(&problem))?;
        Ok(ZeroCodes { place: codes.place, mask, codes: zeros })
    }

    /// The scales that a row of a packed weight shares with no other.
    ///
    /// # Errors
    /// It shares them, or they are too coarse to hold a factor.
    pub fn own_scales(&self, row: usize) -> Result<OwnScales<'_>> {
        self.has(Axis::Row, row)?;
        self.check_refusal(Axis::Row)?;
        let own = match self.packing.own_scales(row) {
            Ok(own) if own.place.number.holds_weights() || own.are_coarse() => return Ok(own),
            Ok(own) => format!("its scales are {}, too coarse to hold a factor", own.place.dtype),
            Err(problem) => problem,
        };
        Err(self.cannot(&format!("{own}; mask it instead (factor 0), or patch the original and quantize that")))
    }

    /// Every bit that is stored for a row, column or element and for no other of its kind: its numbers; or its codes, and
    /// the scales and zero points that a row has for itself.
    ///
    /// # Errors
    /// There is no such part, or its bits cannot be told from those of others.
    pub fn own_bits(&self, axis: Axis, index: usize) -> Result<Vec<OwnBits<'_>>> {
        self.check_refusal(axis)?;
        if let Some(dense) = self.packing.dense() {
            let place = dense.stored_span(axis, self.stored_index(axis, index));
            let none = || self.cannot(&format!("it has no {} {index} of numbers", axis.as_str()));
            return Ok(vec![place.ok_or_else(none)?.whole()]);
        }
        self.has(axis, index)?;
        if let (Axis::Row, Some(row)) = (axis, self.packing.own_row(index)) {
            return Ok(vec![row.whole()]);
        }
        let codes = self.packing.codes(axis, index).map_err(|problem| self.cannot(&problem))?;
        let mut own = vec![codes.own()];
        if let (Axis::Row, Ok(scales)) = (axis, self.packing.own_scales(index)) {
            own.push(scales.place.whole());
            own.extend(self.packing.own_zeros(index).map(Codes::own));
        }
        Ok(own)
    }

    fn has(&self, axis: Axis, index: usize) -> Result<()> {
        let layout = self.layout();
        match axis {
            Axis::Row if index < layout.all_rows() => Ok(()),
            Axis::Column if index < layout.all_columns() => Ok(()),
            _ => Err(self.cannot(&format!("it has no {} {index}", axis.as_str()))),
        }
    }

    /// Refuses rows or columns that cannot be told apart in what is stored.
    fn check_refusal(&self, axis: Axis) -> Result<()> {
        self.packing.refusal(axis).map_or(Ok(()), |why| Err(self.cannot(&why)))
    }

    fn cannot(&self, problem: &str) -> Error {
        let Outline { stored, .. } = self.packing.outline();
        let stored = stored.first().copied().unwrap_or(&self.name);
        Error::tensor(self.tensors.root(), self.tensors.stored_name(stored), problem)
    }
}
