//! Bits that several rows and columns hold: these may cross, or have their codes in the same bytes.

use super::edit::file_name;
use crate::checkpoint::hex;
use crate::checkpoint::packing::{Span, StoredSpan, Weight};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bits of files and what they are or become, as far as rows and columns of one weight hold them.
#[derive(Debug, Default)]
pub(super) struct Bits(BTreeMap<String, Vec<Run>>);

/// What the bytes of some pieces that overlap hold.
#[derive(Debug)]
struct Run {
    start: u64,
    mask: Vec<u8>,
    bits: Vec<u8>,
}

/// What one row or column has of a file: which bits of which bytes, and what they are.
pub(super) struct Held<'a> {
    file: String,
    span: Span,
    mask: &'a [u8],
    bits: &'a [u8],
}

impl<'a> Held<'a> {
    pub fn of(place: &StoredSpan, mask: &'a [u8], bits: &'a [u8]) -> Held<'a> {
        Held { file: file_name(place.file.path()), span: place.span, mask, bits }
    }
}

impl Bits {
    /// Of some rows and columns; none where two of them say different things of one bit.
    pub fn of(all: &[Held]) -> Option<Bits> {
        /// Where it begins, its mask and its bits.
        type Piece<'a> = (u64, &'a [u8], &'a [u8]);
        let mut of_files: BTreeMap<String, Vec<Piece>> = BTreeMap::new();
        for held in all {
            let length = held.span.piece_bytes as usize;
            let pieces = held.mask.chunks_exact(length).zip(held.bits.chunks_exact(length));
            let placed = held.span.offsets().zip(pieces).map(|(at, (mask, bits))| (at, mask, bits));
            of_files.entry(held.file.clone()).or_default().extend(placed);
        }
        let runs = of_files.into_iter().map(|(file, mut pieces)| {
            pieces.sort_by_key(|(at, ..)| *at);
            let mut runs: Vec<Run> = Vec::new();
            for (at, mask, bits) in pieces {
                match runs.last_mut().filter(|run| at < run.end()) {
                    Some(run) => run.add((at - run.start) as usize, mask, bits)?,
                    None => {
                        let bits = bits.iter().zip(mask).map(|(bits, mask)| bits & mask).collect();
                        runs.push(Run { start: at, mask: mask.to_vec(), bits });
                    }
                }
            }
            Some((file, runs))
        });
        runs.collect::<Option<_>>().map(Bits)
    }

    /// Makes them what they are to be in the bytes of a span, which is one of a row or column that they are of.
    pub fn put(&self, file: &str, span: Span, bytes: &mut [u8]) {
        let runs = self.0.get(file).map_or(&[][..], Vec::as_slice);
        for (at, piece) in span.offsets().zip(bytes.chunks_exact_mut(span.piece_bytes as usize)) {
            let after = runs.partition_point(|run| run.start <= at);
            let Some(run) = after.checked_sub(1).and_then(|known| runs.get(known)) else { continue };
            let from = (at - run.start) as usize;
            let held = run.mask.iter().zip(&run.bits).skip(from);
            piece.iter_mut().zip(held).for_each(|(byte, (mask, bits))| *byte = *byte & !mask | bits);
        }
    }

    /// SHA-256 of all other bits of what a weight's values come from, in order: bytes of which no bit is left go unread.
    /// None where a file is shorter than its header says.
    pub fn rest_sha256(&self, weight: &Weight) -> Option<String> {
        let mut hasher = Sha256::new();
        for (file, place) in weight.places()? {
            let runs = self.0.get(&file_name(file.path())).map_or(&[][..], Vec::as_slice);
            let mut at = place.start;
            for run in runs.iter().filter(|run| place.contains(&run.start)) {
                hasher.update(slice(file.bytes(), &(at..run.start))?);
                let bytes = slice(file.bytes(), &(run.start..run.end()))?.iter().zip(&run.mask);
                let others = bytes.filter(|(_, mask)| **mask != u8::MAX).map(|(byte, mask)| byte & !mask);
                hasher.update(others.collect::<Vec<u8>>());
                at = run.end();
            }
            hasher.update(slice(file.bytes(), &(at..place.end))?);
        }
        Some(hex(&hasher.finalize()))
    }
}

impl Run {
    fn end(&self) -> u64 {
        self.start + self.mask.len() as u64
    }

    /// None where it is known otherwise.
    fn add(&mut self, from: usize, mask: &[u8], bits: &[u8]) -> Option<()> {
        let length = self.mask.len().max(from + mask.len());
        self.mask.resize(length, 0);
        self.bits.resize(length, 0);
        let known = self.mask[from..].iter_mut().zip(&mut self.bits[from..]);
        for ((known_mask, known), (mask, bits)) in known.zip(mask.iter().zip(bits)) {
            if (*known ^ bits) & *known_mask & mask != 0 {
                return None;
            }
            *known |= bits & mask;
            *known_mask |= mask;
        }
        Some(())
    }
}

fn slice<'a>(file: &'a [u8], range: &Range<u64>) -> Option<&'a [u8]> {
    file.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}
