//! The values of floating-point tensors, in one pass: NaN, infinities, denormal numbers, zeros.
//!
//! Pieces of some MiB are read into buffers by all cores, so that memory stays small whatever the checkpoint's size,
//! and looked at as whole numbers: a float without its sign bit orders like one.

use super::check::Check;
use super::header::Shard;
use super::observation::{Found, Location};
use crate::checkpoint::header::TensorEntry;
use crate::checkpoint::place::Axis;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use safetensors::Dtype;
use serde_json::json;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are read at once.
const PIECE: u64 = 2 << 20;
/// Tensors of about this many bytes are worked on together.
const BATCH: u64 = 256 << 20;
/// Longer rows are not told apart, nor are their columns.
const LONGEST_ROW: u64 = 1 << 20;
/// Rows or columns that evidence lists.
const LISTED: usize = 20;

/// Scans all floating-point tensors of all files; how many bytes that were.
pub(super) fn scan(shards: &[Shard], found: &mut Found, progress: &dyn Progress) -> Result<u64> {
    let of = |shard: &'_ Shard<'_>| -> Vec<usize> {
        let readable = |t: &TensorEntry| Format::of(t.dtype).is_some() && t.bytes.end <= shard.file.bytes;
        (0..shard.header.tensors.len()).filter(|at| readable(&shard.header.tensors[*at])).collect()
    };
    let size = |t: &TensorEntry| t.bytes.end - t.bytes.start;
    let total = shards.iter().flat_map(|s| of(s).into_iter().map(|at| size(&s.header.tensors[at]))).sum();
    progress.begin("values", total, "bytes");
    for shard in shards {
        let mut batch: Vec<Job> = Vec::new();
        let mut bytes = 0;
        for at in of(shard) {
            let tensor = &shard.header.tensors[at];
            batch.extend(Job::new(shard, tensor));
            bytes += size(tensor);
            if bytes >= BATCH || batch.len() >= 4096 {
                run(&batch, found, progress)?;
                batch.clear();
                bytes = 0;
            }
        }
        run(&batch, found, progress)?;
    }
    progress.end();
    Ok(total)
}

/// How a float's bits are to be read, without its sign.
#[derive(Debug, Clone, Copy)]
struct Format {
    bytes: usize,
    /// All but the sign.
    mask: u64,
    /// From here on bits are infinity (exactly this) or NaN.
    special: u64,
    /// Whether `special` itself is infinity.
    has_infinity: bool,
    /// Up to here, zero apart, bits are denormal numbers; 0 where these are nothing unusual.
    denormal: u64,
    /// Above this share of denormal numbers they are a flood: f16's range makes some of them usual.
    flood: f64,
}

impl Format {
    fn of(dtype: Dtype) -> Option<Format> {
        let ieee = |bytes: usize, mantissa: u32, flood| {
            let mask = u64::MAX >> (65 - 8 * bytes);
            let denormal = (1u64 << mantissa) - 1;
            Format { bytes, mask, special: mask & !denormal, has_infinity: true, denormal, flood }
        };
        match dtype {
            Dtype::F64 => Some(ieee(8, 52, 0.01)),
            Dtype::F32 => Some(ieee(4, 23, 0.01)),
            Dtype::BF16 => Some(ieee(2, 7, 0.01)),
            Dtype::F16 => Some(ieee(2, 10, 0.5)),
            // With scales beside them, their denormal numbers are as good as others.
            Dtype::F8_E5M2 => Some(Format { denormal: 0, ..ieee(1, 2, 1.0) }),
            Dtype::F8_E4M3 => Some(Format { special: 0x7f, has_infinity: false, denormal: 0, ..ieee(1, 3, 1.0) }),
            _ => None,
        }
    }
}

/// One tensor.
struct Job<'a> {
    shard: &'a Shard<'a>,
    tensor: &'a TensorEntry,
    format: Format,
    /// Elements of a row; of a piece where rows are not told apart.
    row: u64,
    rows: u64,
    /// Whether rows and columns mean something.
    is_matrix: bool,
    seen: Mutex<Seen>,
}

/// What was seen of a tensor.
#[derive(Default)]
struct Seen {
    nan: Count,
    infinite: Count,
    denormal: Count,
    zero_rows: u64,
    first_zero_rows: Vec<u64>,
    /// For each column whether anything but zero was in it.
    columns: Vec<bool>,
    /// Anything but zero.
    any: bool,
}

/// How many, and the first element, counted from the tensor's beginning.
#[derive(Default, Clone, Copy)]
struct Count {
    count: u64,
    first: Option<u64>,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.count += other.count;
        self.first = [self.first, other.first].into_iter().flatten().min();
    }
}

impl<'a> Job<'a> {
    fn new(shard: &'a Shard<'a>, tensor: &'a TensorEntry) -> Option<Job<'a>> {
        let format = Format::of(tensor.dtype)?;
        let elements = (tensor.bytes.end - tensor.bytes.start) / format.bytes as u64;
        let width = tensor.shape.last().map_or(1, |d| *d as u64);
        let is_matrix = tensor.shape.len() >= 2 && width <= LONGEST_ROW && elements > width;
        let row = if is_matrix { width } else { elements.min(LONGEST_ROW) };
        if row == 0 {
            return None;
        }
        let columns = if is_matrix && tensor.shape.len() == 2 { vec![false; width as usize] } else { Vec::new() };
        let seen = Mutex::new(Seen { columns, ..Seen::default() });
        Some(Job { shard, tensor, format, row, rows: elements.div_ceil(row), is_matrix, seen })
    }

    /// Ranges of rows that are read at once.
    fn pieces(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let rows = self.rows;
        let at_once = (PIECE / (self.row * self.format.bytes as u64)).max(1);
        (0..rows.div_ceil(at_once)).map(move |n| (n * at_once, rows.min((n + 1) * at_once)))
    }

    /// Reads and scans rows; how many bytes that were.
    fn piece(&self, (from, to): (u64, u64), buffer: &mut Vec<u8>) -> Result<u64> {
        let row_bytes = self.row * self.format.bytes as u64;
        let begin = self.tensor.bytes.start + from * row_bytes;
        let end = self.tensor.bytes.end.min(self.tensor.bytes.start + to * row_bytes);
        let path = &self.shard.file.path;
        let mut file = files::open_regular(path)?;
        file.seek(SeekFrom::Start(begin)).map_err(Error::io(path))?;
        buffer.resize((end - begin) as usize, 0);
        file.read_exact(buffer).map_err(Error::io(path))?;
        let keep_columns = self.is_matrix && self.tensor.shape.len() == 2;
        let part = match self.format.bytes {
            1 => part::<u8, 1>(buffer, self.row as usize, from, self.format, keep_columns),
            2 => part::<u16, 2>(buffer, self.row as usize, from, self.format, keep_columns),
            4 => part::<u32, 4>(buffer, self.row as usize, from, self.format, keep_columns),
            _ => part::<u64, 8>(buffer, self.row as usize, from, self.format, keep_columns),
        };
        let mut seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        seen.add(part);
        Ok(end - begin)
    }
}

impl Seen {
    fn add(&mut self, part: Seen) {
        self.nan.add(part.nan);
        self.infinite.add(part.infinite);
        self.denormal.add(part.denormal);
        self.any |= part.any;
        self.zero_rows += part.zero_rows;
        // The first of all, in whatever order pieces come.
        self.first_zero_rows.extend(part.first_zero_rows);
        self.first_zero_rows.sort_unstable();
        self.first_zero_rows.truncate(LISTED);
        self.columns.iter_mut().zip(part.columns).for_each(|(ours, theirs)| *ours |= theirs);
    }
}

/// A float's bits.
trait Bits<const N: usize>: Copy + Default + Eq + Ord + std::ops::BitAnd<Output = Self> + std::ops::BitOrAssign {
    /// Elements that can be counted in this type without overflow.
    const BLOCK: usize;
    fn read(bytes: [u8; N]) -> Self;
    fn from_u64(value: u64) -> Self;
    fn one_if(condition: bool) -> Self;
    fn to_u64(self) -> u64;
    fn plus(self, other: Self) -> Self;
    fn minus_one(self) -> Self;
}

macro_rules! bits {
    ($($t:ident $n:literal $block:literal)*) => {
        $(impl Bits<$n> for $t {
            const BLOCK: usize = $block;
            fn read(bytes: [u8; $n]) -> $t { $t::from_le_bytes(bytes) }
            fn from_u64(value: u64) -> $t { value as $t }
            fn one_if(condition: bool) -> $t { condition as $t }
            fn to_u64(self) -> u64 { self as u64 }
            fn plus(self, other: $t) -> $t { self.wrapping_add(other) }
            fn minus_one(self) -> $t { self.wrapping_sub(1) }
        })*
    };
}

bits! { u8 1 128 u16 2 4096 u32 4 4096 u64 8 4096 }

/// Scans rows of `row` elements, the first of which is row `from` of the tensor.
fn part<T: Bits<N>, const N: usize>(bytes: &[u8], row: usize, from: u64, format: Format, keep_columns: bool) -> Seen {
    let mut seen = Seen::default();
    let mut columns = vec![T::default(); if keep_columns { row } else { 0 }];
    let (elements, _) = bytes.as_chunks::<N>();
    for (at, values) in elements.chunks(row).enumerate() {
        let first = (from + at as u64) * row as u64;
        let mut any = T::default();
        for (block, start) in values.chunks(T::BLOCK).zip((0..).step_by(T::BLOCK)) {
            let sums = match keep_columns {
                true => sums_and_columns(block, format, &mut columns[start..]),
                false => sums(block, format),
            };
            any |= sums.any;
            // Rare: only then is it worth to look where.
            if sums.special != T::default() || sums.denormal != T::default() {
                places::<T, N>(block, first + start as u64, format, &mut seen);
            }
        }
        if any == T::default() {
            seen.zero_rows += 1;
            if seen.first_zero_rows.len() < LISTED {
                seen.first_zero_rows.push(from + at as u64);
            }
        } else {
            seen.any = true;
        }
    }
    seen.columns = columns.iter().map(|c| *c != T::default()).collect();
    seen
}

struct Sums<T> {
    any: T,
    special: T,
    denormal: T,
}

impl<T: Default> Sums<T> {
    fn none() -> Sums<T> {
        Sums { any: T::default(), special: T::default(), denormal: T::default() }
    }
}

impl<T> Sums<T> {
    #[inline(always)]
    fn add<const N: usize>(&mut self, bits: T, special: T, denormal: T)
    where
        T: Bits<N>,
    {
        self.any |= bits;
        self.special = self.special.plus(T::one_if(bits >= special));
        self.denormal = self.denormal.plus(T::one_if(bits.minus_one() < denormal));
    }
}

fn sums<T: Bits<N>, const N: usize>(block: &[[u8; N]], format: Format) -> Sums<T> {
    let [mask, special, denormal] = [format.mask, format.special, format.denormal].map(T::from_u64);
    let mut sums = Sums::none();
    for bytes in block {
        sums.add(T::read(*bytes) & mask, special, denormal);
    }
    sums
}

fn sums_and_columns<T: Bits<N>, const N: usize>(block: &[[u8; N]], format: Format, columns: &mut [T]) -> Sums<T> {
    let [mask, special, denormal] = [format.mask, format.special, format.denormal].map(T::from_u64);
    let mut sums = Sums::none();
    for (bytes, column) in block.iter().zip(columns) {
        let bits = T::read(*bytes) & mask;
        *column |= bits;
        sums.add(bits, special, denormal);
    }
    sums
}

/// Counts what is unusual in a block whose first element is element `first` of the tensor.
fn places<T: Bits<N>, const N: usize>(block: &[[u8; N]], first: u64, format: Format, seen: &mut Seen) {
    for (bytes, at) in block.iter().zip(first..) {
        let bits = (T::read(*bytes) & T::from_u64(format.mask)).to_u64();
        let count = if bits >= format.special {
            if format.has_infinity && bits == format.special { &mut seen.infinite } else { &mut seen.nan }
        } else if bits != 0 && bits <= format.denormal {
            &mut seen.denormal
        } else {
            continue;
        };
        count.add(Count { count: 1, first: Some(at) });
    }
}

fn run(batch: &[Job], found: &mut Found, progress: &dyn Progress) -> Result<()> {
    let pieces: Vec<(&Job, (u64, u64))> = batch.iter().flat_map(|job| job.pieces().map(move |p| (job, p))).collect();
    let next = AtomicUsize::new(0);
    // Each thread keeps its buffer from piece to piece.
    let results = rayon::broadcast(|_| {
        let mut buffer = Vec::new();
        while let Some((job, piece)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = job.piece(*piece, &mut buffer).and_then(|bytes| progress.advance(bytes));
            if done.is_err() {
                next.store(pieces.len(), Ordering::Relaxed);
                return done;
            }
        }
        Ok(())
    });
    results.into_iter().collect::<Result<()>>()?;
    batch.iter().for_each(|job| tell(job, found));
    Ok(())
}

fn tell(job: &Job, found: &mut Found) {
    let seen = job.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
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
            found.add(check, element(first), message, evidence);
        }
    }
    if let Some(first) = seen.denormal.first {
        let (count, share) = (seen.denormal.count, seen.denormal.count as f64 / elements as f64);
        if share > job.format.flood {
            let message = format!("{count} of {elements} values are denormal, the first at {}", position(first));
            found.add(
                Check::Denormal,
                element(first),
                message,
                json!({"count": count, "elements": elements, "share": share}),
            );
        }
    }
    zeros(job, &seen, at(), found);
}

fn zeros(job: &Job, seen: &Seen, at: Location, found: &mut Found) {
    let shape = &job.tensor.shape;
    if !job.is_matrix || shape.len() < 2 {
        return;
    }
    let rows = job.rows;
    let is_embedding = EMBEDDINGS.iter().any(|end| job.tensor.name.ends_with(end));
    if !seen.any {
        return found.say(Check::ZeroTensor, at, format!("all of {shape:?} is zero"));
    }
    let columns: Vec<u64> = (0..).zip(&seen.columns).filter(|(_, any)| !**any).map(|(column, _)| column).collect();
    let lines = [
        (Axis::Row, seen.zero_rows, seen.first_zero_rows.clone(), rows),
        (Axis::Column, columns.len() as u64, columns, seen.columns.len() as u64),
    ];
    for (axis, count, mut listed, of) in lines {
        let Some(first) = listed.first().copied() else { continue };
        listed.truncate(LISTED);
        let check = match axis {
            Axis::Row if is_embedding => Check::ZeroEmbedding,
            Axis::Row => Check::ZeroRow,
            _ => Check::ZeroColumn,
        };
        let name = axis.as_str();
        let more = if count > listed.len() as u64 { " and more" } else { "" };
        let list = listed.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let message = match count {
            1 => format!("{name} {first} of {shape:?} is all zero"),
            _ => format!("{count} of {of} {name}s of {shape:?} are all zero: {list}{more}"),
        };
        found.add(check, at.clone().at(axis, first), message, json!({"count": count, "of": of, "indices": listed}));
    }
}

/// Tensors whose rows belong to tokens.
const EMBEDDINGS: &[&str] = &["embed_tokens.weight", "lm_head.weight", "wte.weight", "wpe.weight"];
