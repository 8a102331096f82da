//! The values of floating-point tensors, in one pass: NaN, infinities, denormal numbers, zeros. Of packed weights, what
//! their codes stand for. Of other tensors, whether weights are nothing but zeros.
//!
//! All cores look at pieces of some MiB, as whole numbers: a float without its sign bit orders like one.

pub(super) mod bits;
mod norms;
mod unpacked;

use super::adapter::is_of_adapter;
use super::check::Check;
use super::header::FolderShard;
use super::observation::{Found, Location, More};
use super::weights::{Part, Weights};
use crate::architecture::place::Axis;
use crate::architecture::{self, names};
use crate::checkpoint::header::TensorEntry;
use crate::checkpoint::packing::NumberType;
use crate::error::Result;
use crate::progress::Progress;
use bits::{Format, ValueCounts};
use norms::Norm;
use safetensors::Dtype;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Bytes that are looked at in one go.
const PIECE: u64 = 2 << 20;
/// Tensors of about this many bytes are worked on together.
const BATCH: u64 = 256 << 20;
/// Longer rows are not told apart, nor are their columns.
const LONGEST_ROW: u64 = 1 << 20;
/// Rows or columns that evidence lists.
const LISTED: usize = 20;
/// Rows or columns that a place knows by their numbers, for waivers; if there are more, it is the tensor's.
const KEPT: usize = 4096;

/// Scans all floating-point tensors of all files, and all packed weights of the model; how many bytes that were.
/// `is_compared`: whether a tensor is one whose values were held against the config.
pub(super) fn scan(
    shards: &[FolderShard],
    weights: &Weights,
    is_compared: &dyn Fn(&str) -> bool,
    found: &mut Found,
    progress: &dyn Progress,
) -> Result<u64> {
    let of = |shard| own(shard).filter(|t| Format::of(t.dtype).is_some());
    let size = |t: &TensorEntry| t.bytes.end - t.bytes.start;
    let once = || shards.iter().filter(|shard| !shard.again);
    let packed = unpacked::all(weights);
    let total =
        once().flat_map(|shard| of(shard).map(size)).sum::<u64>() + packed.iter().map(|one| one.bytes()).sum::<u64>();
    progress.begin("values", total, "bytes");
    let mut norms = Vec::new();
    for shard in once() {
        let mut batch: Vec<Job> = Vec::new();
        let mut bytes = 0;
        for tensor in of(shard) {
            batch.extend(Job::new(shard, tensor));
            bytes += size(tensor);
            if bytes >= BATCH || batch.len() >= 4096 {
                run(&batch, weights, &mut norms, found, progress)?;
                batch.clear();
                bytes = 0;
            }
        }
        run(&batch, weights, &mut norms, found, progress)?;
    }
    unpacked::scan(&packed, found, progress)?;
    progress.end();
    norms::compare(&norms, is_compared, found);
    for (shard, tensor) in once().flat_map(|shard| own(shard).map(move |tensor| (shard, tensor))) {
        let Some(bytes) = shard.bytes(tensor) else { continue };
        let at = || shard.file.location().tensor(&tensor.name);
        let (shape, dtype) = (&tensor.shape, tensor.dtype);
        let is_beside = matches!(weights.part(&tensor.name), Part::Beside(_));
        let is_told = |found: &Found| found.has(Check::ZeroTensor, &at());
        if is_packed_weight(tensor) && bytes.iter().all(|b| *b == 0) {
            if is_told(found) {
                continue;
            }
            found.say(Check::ZeroTensor, at(), format!("all bytes of {shape:?} {dtype} are zero"));
        } else if !is_beside && is_constant(tensor, bytes) && !is_told(found) {
            found.say(Check::ConstantTensor, at(), format!("all elements of {shape:?} {dtype} are the same"));
        } else if !is_beside && dtype == Dtype::F8_E8M0 {
            let nan = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == u8::MAX).count();
            if let count @ 1.. = nan(bytes) {
                let message = format!("{count} of {} values are NaN", bytes.len());
                found.add(Check::Nan, at(), message, json!({"count": count, "elements": bytes.len()}));
            }
        }
    }
    Ok(total)
}

/// Whether a matrix of weights, or of their codes, is one value throughout that is a number and not zero.
fn is_constant(tensor: &TensorEntry, bytes: &[u8]) -> bool {
    /// A smaller one may be anything.
    const FEWEST: usize = 64;
    let size = (tensor.dtype.bitsize() / 8).max(1);
    let (first, others) = bytes.split_at(size.min(bytes.len()));
    let is_matrix = tensor.shape.iter().filter(|size| **size > 1).count() > 1;
    is_matrix
        && is_weight(&tensor.name)
        && bytes.len() >= FEWEST * size
        && NumberType::of(tensor.dtype).position(first, |value| value.is_finite() && value != 0.0).is_some()
        && others.chunks(size).all(|element| element == first)
}

/// The tensors whose bytes are in the file and are no earlier tensor's. So each byte is read once, whatever tensors
/// claim: a shared one is an error of its own.
fn own<'s>(shard: &'s FolderShard) -> impl Iterator<Item = &'s TensorEntry> {
    let mut end = 0;
    shard.tensors().iter().filter(move |t| {
        let owns = t.bytes.start >= end;
        end = end.max(t.bytes.end);
        owns && shard.bytes(t).is_some()
    })
}

/// Elements of a row. That of a convolution is all that makes one output: what is last in its shape is the kernel, and the
/// least number of channels that layers of many experts are stacked from is larger.
fn width(shape: &[usize]) -> u64 {
    const LARGEST_KERNEL: usize = 16;
    let of = match shape {
        [_, others @ ..] if others.len() > 2 || others.len() == 2 && others[1] <= LARGEST_KERNEL => others,
        [.., last] => std::slice::from_ref(last),
        [] => &[],
    };
    of.iter().fold(1, |product: u64, size| product.saturating_mul(*size as u64))
}

/// Whether a tensor holds a matrix's weights in a type that is no float's; zero points, scales and indices of packed
/// formats may well be zero.
fn is_packed_weight(tensor: &TensorEntry) -> bool {
    is_weight(&tensor.name)
        && Format::of(tensor.dtype).is_none()
        && tensor.shape.len() >= 2
        && tensor.bytes.end > tensor.bytes.start
}

/// Whether a tensor is a matrix's weights or their codes, by its name.
fn is_weight(name: &str) -> bool {
    let name = name.rsplit('.').next().unwrap_or_default();
    let is_one = ["weight", "qweight", "weight_packed", "weight_quantized"].contains(&name);
    is_one || name.ends_with("_proj") || name.ends_with("_blocks")
}

/// One tensor.
struct Job<'a> {
    shard: &'a FolderShard<'a>,
    tensor: &'a TensorEntry,
    bytes: &'a [u8],
    format: Format,
    /// Elements of a row; of a piece where rows are not told apart.
    row: u64,
    rows: u64,
    /// Rows of a matrix of a stack.
    height: u64,
    /// Whether rows and columns mean something.
    is_matrix: bool,
    seen: Mutex<ValueCounts>,
}

impl<'a> Job<'a> {
    fn new(shard: &'a FolderShard<'a>, tensor: &'a TensorEntry) -> Option<Job<'a>> {
        let format = Format::of(tensor.dtype)?;
        let bytes = shard.bytes(tensor)?;
        let elements = (bytes.len() / format.bytes) as u64;
        let width = width(&tensor.shape);
        let is_matrix = tensor.shape.len() >= 2 && width <= LONGEST_ROW && elements > width;
        let row = if is_matrix { width } else { elements.min(LONGEST_ROW) };
        if row == 0 {
            return None;
        }
        let matrices = if is_matrix { names::matrices(&tensor.name, &tensor.shape) } else { 0 };
        let columns = vec![false; matrices * width as usize];
        let seen = Mutex::new(ValueCounts { columns, ..ValueCounts::default() });
        let rows = elements.div_ceil(row);
        let height = rows / matrices.max(1) as u64;
        Some(Job { shard, tensor, bytes, format, row, rows, height, is_matrix, seen })
    }

    /// What was seen of it so far.
    fn seen(&self) -> MutexGuard<'_, ValueCounts> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Ranges of rows that are looked at in one go.
    fn pieces(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let rows = self.rows;
        let at_once = (PIECE / (self.row * self.format.bytes as u64)).max(1);
        (0..rows.div_ceil(at_once)).map(move |n| (n * at_once, rows.min((n + 1) * at_once)))
    }

    /// Scans rows; how many bytes that were.
    fn piece(&self, (from, to): (u64, u64)) -> u64 {
        let row_bytes = self.row as usize * self.format.bytes;
        let keep_columns = self.is_matrix && names::matrices(&self.tensor.name, &self.tensor.shape) > 0;
        let (mut at, mut done) = (from, 0);
        while at < to {
            // Those of one matrix.
            let (matrix, end) = (at / self.height, to.min((at / self.height + 1) * self.height));
            let bytes = &self.bytes[at as usize * row_bytes..self.bytes.len().min(end as usize * row_bytes)];
            let part = self.format.scan(bytes, self.row as usize, at, keep_columns);
            self.seen().add(part, (matrix * self.row) as usize);
            (at, done) = (end, done + bytes.len() as u64);
        }
        done
    }
}

fn run(
    batch: &[Job],
    weights: &Weights,
    norms: &mut Vec<Norm>,
    found: &mut Found,
    progress: &dyn Progress,
) -> Result<()> {
    let pieces: Vec<(&Job, (u64, u64))> = batch.iter().flat_map(|job| job.pieces().map(move |p| (job, p))).collect();
    let next = AtomicUsize::new(0);
    let results = rayon::broadcast(|_| {
        while let Some((job, piece)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = progress.advance(job.piece(*piece));
            if done.is_err() {
                next.store(pieces.len(), Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    });
    results.into_iter().collect::<Result<()>>()?;
    for job in batch {
        norms.extend(Norm::of(job));
        tell(job, matches!(weights.part(&job.tensor.name), Part::Beside(_)), found);
    }
    Ok(())
}

/// Tells of a tensor; `is_beside`: of a scale or the like, of whose zeros is told elsewhere.
fn tell(job: &Job, is_beside: bool, found: &mut Found) {
    let seen = job.seen();
    let tensor = job.tensor;
    let at = || job.shard.file.location().tensor(&tensor.name);
    let elements = (tensor.bytes.end - tensor.bytes.start) / job.format.bytes as u64;
    let element = |index: u64| {
        let byte = tensor.bytes.start + index * job.format.bytes as u64;
        match job.is_matrix {
            true => at().at(Axis::Row, index / job.row).byte(byte),
            false => at().at(Axis::Element, index).byte(byte),
        }
    };
    let position = |index: u64| match job.is_matrix {
        true => format!("row {}, column {}", index / job.row, index % job.row),
        false => format!("element {index}"),
    };
    for (check, what, count) in [(Check::Nan, "NaN", seen.nan), (Check::Infinite, "infinite", seen.infinite)] {
        if let Some(first) = count.first {
            let message = format!("{} of {elements} values are {what}, the first at {}", count.count, position(first));
            let evidence = json!({"count": count.count, "elements": elements, "first_element": first});
            found.add(check, element(first).and(More::InTensor(count.count - 1)), message, evidence);
        }
    }
    if let Some(first) = seen.denormal.first {
        let (count, share) = (seen.denormal.count, seen.denormal.count as f64 / elements as f64);
        if share > job.format.flood {
            let message = format!("{count} of {elements} values are denormal, the first at {}", position(first));
            found.add(
                Check::Denormal,
                element(first).and(More::InTensor(count - 1)),
                message,
                json!({"count": count, "elements": elements, "share": share}),
            );
        }
    }
    if job.is_matrix && !is_beside {
        zeros((&tensor.name, &tensor.shape), job.rows, &seen, at(), found);
    }
}

/// Tells of zeros in a matrix of so many rows.
pub(super) fn zeros((name, shape): (&str, &[usize]), rows: u64, seen: &ValueCounts, at: Location, found: &mut Found) {
    let is_embedding = names::has_a_row_a_token(name);
    if may_be_zero(name) {
        return;
    }
    if !seen.any {
        return found.say(Check::ZeroTensor, at, format!("all of {shape:?} is zero"));
    }
    let columns: Vec<u64> = (0..).zip(&seen.columns).filter(|(_, any)| !**any).map(|(column, _)| column).collect();
    let lines = [
        (Axis::Row, seen.zero_rows, seen.first_zero_rows.clone(), rows),
        (Axis::Column, columns.len() as u64, columns, seen.columns.len() as u64),
    ];
    for (axis, count, lines, of) in lines {
        let Some((first, after)) = lines.split_first() else { continue };
        let place = at.clone().at(axis, *first).and_lines(after.iter().take(KEPT).copied().collect(), count);
        let listed = &lines[..lines.len().min(LISTED)];
        let in_words = |index: u64| architecture::line(axis, index as usize, shape);
        let check = match axis {
            Axis::Row if is_embedding => Check::ZeroEmbedding,
            Axis::Row => Check::ZeroRow,
            _ => Check::ZeroColumn,
        };
        let name = axis.as_str();
        let more = if count > listed.len() as u64 { " and more" } else { "" };
        // Without the axis, which is said before.
        let number = |index: &u64| in_words(*index)[name.len() + 1..].to_owned();
        let list = listed.iter().map(number).collect::<Vec<_>>().join(", ");
        let message = match count {
            1 => format!("{} of {shape:?} is all zero", in_words(*first)),
            _ => format!("{count} of {of} {name}s of {shape:?} are all zero: {list}{more}"),
        };
        found.add(check, place, message, json!({"count": count, "of": of, "indices": listed}));
    }
}

/// Whether zeros are nothing unusual in a matrix of that name: the biases of all experts, a quantizer's zero points,
/// the embedding of RoBERTa's one kind of token, logarithms of Mamba's decay; what an adapter's mean is looked at there.
fn may_be_zero(name: &str) -> bool {
    const ENDS: &[&str] = &["bias", "zero_point", "zeros", "_zp", "token_type_embeddings.weight", "A_log"];
    ENDS.iter().any(|end| name.ends_with(end)) || is_of_adapter(name)
}
