//! In what two checkpoints differ, both at hand.

use super::difference::{Difference, LISTED, LineChange, Norms, Pattern, TensorChange, replaced_by};
use super::fingerprint::read_link;
use crate::architecture::names;
use crate::checkpoint::Opened;
use crate::checkpoint::index::{INDEX, SINGLE};
use crate::checkpoint::packing::{Axis, Layout, Rows, Weight};
use crate::checkpoint::snapshot::Snapshot;
use crate::checkpoint::stand_in::StandIn;
use crate::checkpoint::tensors::{Entry, Tensors};
use crate::checkpoint::walk::{self, Kind};
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use nalgebra::DMatrix;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::path::Path;

/// How two checkpoints differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// Tensors that both have.
    pub tensors: usize,
    /// Of those, how many are bit for bit the same.
    pub same_tensors: usize,
    /// Files first, then tensors.
    pub differences: Vec<Difference>,
}

/// Compares two model folders: their tensors, wherever they lie, and their other files byte by byte.
///
/// # Errors
/// A folder is no checkpoint, or a file cannot be read or is mostly holes.
pub fn diff(a: &Opened, b: &Opened, progress: &dyn Progress) -> Result<Diff> {
    let (old, new) = (a.tensors()?, b.tensors()?);
    old.refuse_holes()?;
    new.refuse_holes()?;
    let mut differences = compare_files((a, &old), (b, &new))?;
    let mut shared = Vec::new();
    let names: BTreeSet<&str> = old.iter().chain(new.iter()).map(|(name, _)| name).collect();
    for name in names {
        match (old.get(name), new.get(name)) {
            (Some(was), Some(is)) if was.dtype == is.dtype && was.shape == is.shape => shared.push((name, was)),
            (Some(was), Some(is)) => differences.push(Difference::TensorReshaped {
                name: name.into(),
                before: (was.dtype, was.shape.clone()),
                after: (is.dtype, is.shape.clone()),
            }),
            (Some(_), None) => differences.push(Difference::TensorMissing { name: name.into() }),
            (_, is) => {
                let file = is.and_then(|e| e.place.as_ref()).map(|(at, _)| new.files()[*at].path());
                let file = file.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
                differences.push(Difference::TensorExtra { name: name.into(), file: file.unwrap_or_default() });
            }
        }
    }
    let norms = Norms::of(b);
    let bytes = |e: &Entry| e.place.as_ref().map_or(0, |(_, range)| range.end - range.start);
    progress.begin("comparing", shared.iter().map(|(_, e)| bytes(e)).sum(), "bytes");
    let pairs =
        shared.iter().map(|(name, entry)| Pair::of(&old, &new, name, entry)).collect::<Result<Vec<Pair<'_>>>>()?;
    let changes = pairs
        .par_iter()
        .with_max_len(1)
        .map(|pair| {
            let change = compare(pair, &norms)?;
            progress.advance(bytes(pair.entry))?;
            Ok(change.map(|change| (pair, change)))
        })
        .collect::<Result<Vec<_>>>()?;
    progress.end();
    let changes: Vec<(&Pair<'_>, TensorChange)> = changes.into_iter().flatten().collect();
    let changed = changes.len();
    differences.extend(replaced(changes));
    Ok(Diff { tensors: shared.len(), same_tensors: shared.len() - changed, differences })
}

/// Files other than the weights that were read and their index, which the tensors stand for. Weights that other loaders
/// may read instead are files.
fn compare_files((a, a_tensors): (&Opened, &Tensors), (b, b_tensors): (&Opened, &Tensors)) -> Result<Vec<Difference>> {
    let unlisted = [unlisted(a, a_tensors)?, unlisted(b, b_tensors)?];
    let (a, b) = (a.root(), b.root());
    let all = |root: &Path| walk::walk(root, &|path| walk::is_left_out(root, path));
    let (all_a, all_b) = (all(a)?, all(b)?);
    let of = |root: &Path, tensors: &Tensors, entries: &[walk::Entry]| -> BTreeMap<String, Kind> {
        let read: Vec<&Path> = tensors.files().iter().map(|file| file.path()).collect();
        let by_index = !read.contains(&root.join(SINGLE).as_path());
        let stood_for = |path: &str| read.contains(&root.join(path).as_path()) || by_index && path == INDEX;
        entries.iter().filter(|e| !stood_for(&e.path)).map(|e| (e.path.clone(), e.kind)).collect()
    };
    let (old, new) = (of(a, a_tensors, &all_a), of(b, b_tensors, &all_b));
    let mut found = linked((a, &all_a), (b, &all_b))?;
    found.extend(unlisted.into_iter().flatten());
    for path in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let readable = |kind: Option<&Kind>| matches!(kind, Some(Kind::File | Kind::Link));
        match (old.get(path), new.get(path)) {
            (Some(_), None) => found.push(Difference::FileMissing { path: path.clone() }),
            (None, Some(_)) => found.push(Difference::FileExtra { path: path.clone() }),
            (was, is) if readable(was) && readable(is) => {
                let (was, is) = (a.join(path), b.join(path));
                let length = |path: &Path| -> Result<u64> {
                    Ok(files::open_regular(path)?.metadata().map_err(Error::io(path))?.len())
                };
                let (bytes_before, bytes_after) = (length(&was)?, length(&is)?);
                if bytes_before != bytes_after || !same(&was, &is)? {
                    let path = path.clone();
                    found.push(Difference::FileChanged { path, bytes_before, bytes_after, same_tensors: false });
                }
            }
            _ => found.push(Difference::NotExamined {
                path: path.clone(),
                problem: "is a pipe, a device or has a name that is not UTF-8".into(),
            }),
        }
    }
    Ok(found)
}

/// Links of `b`, weights among them, where `a` has no such link: a file, another link, or nothing.
fn linked((a, all_a): (&Path, &[walk::Entry]), (b, all_b): (&Path, &[walk::Entry])) -> Result<Vec<Difference>> {
    let of = |root: &Path, entries: &[walk::Entry]| -> Result<BTreeMap<String, String>> {
        let snapshot = Snapshot::of(root);
        let is_file = |path: &str| snapshot.as_ref().is_some_and(|s| s.blob(&root.join(path)).is_some());
        let links = entries.iter().filter(|e| e.kind == Kind::Link && !is_file(&e.path));
        links.map(|e| Ok((e.path.clone(), read_link(&root.join(&e.path))?))).collect()
    };
    let (mut old, new) = (of(a, all_a)?, of(b, all_b)?);
    let told = |(path, after): (String, String)| {
        let before = old.remove(&path);
        (before.as_ref() != Some(&after)).then_some(Difference::FileLinked { path, before, after })
    };
    Ok(new.into_iter().filter_map(told).collect())
}

/// Tensors that lie in a shard and that the index does not list: loaders differ in whether they read them.
fn unlisted(opened: &Opened, tensors: &Tensors) -> Result<Option<Difference>> {
    let Some(index) = opened.index()?.filter(|_| !opened.root().join(SINGLE).exists()) else { return Ok(None) };
    let listed = index.weight_map()?;
    let missing: Vec<&str> = tensors.iter().map(|(name, _)| name).filter(|name| !listed.contains_key(name)).collect();
    let problem = |first: &&str| format!("does not list {} tensors that its shards hold, {first} first", missing.len());
    Ok(missing.first().map(|first| Difference::NotExamined { path: INDEX.into(), problem: problem(first) }))
}

/// Whether two files of one length have the same content.
fn same(a: &Path, b: &Path) -> Result<bool> {
    let (mut left, mut right) = (files::open_regular(a)?, files::open_regular(b)?);
    for (file, path) in [(&left, a), (&right, b)] {
        StandIn::refuse_holes(file, path)?;
    }
    let (mut one, mut other) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let read = left.read(&mut one).map_err(Error::io(a))?;
        if read == 0 {
            return Ok(true);
        }
        right.read_exact(&mut other[..read]).map_err(Error::io(b))?;
        if one[..read] != other[..read] {
            return Ok(false);
        }
    }
}

/// What became of changed tensors: some may hold what others of them held.
fn replaced(changes: Vec<(&Pair<'_>, TensorChange)>) -> Vec<Difference> {
    // Tensors that begin alike, so that few are compared whole.
    fn start<'a>(entry: &Entry, bytes: &'a [u8]) -> (String, Vec<usize>, &'a [u8]) {
        (entry.dtype.to_string(), entry.shape.clone(), &bytes[..bytes.len().min(4096)])
    }
    let mut held: HashMap<_, Vec<&Pair<'_>>> = HashMap::new();
    for (pair, _) in &changes {
        held.entry(start(pair.entry, pair.before)).or_default().push(pair);
    }
    let holder = |pair: &Pair<'_>| -> Option<&str> {
        let alike = held.get(&start(pair.entry, pair.after))?;
        alike.iter().find(|other| other.before == pair.after).map(|other| other.name)
    };
    let by: BTreeMap<&str, &str> = changes.iter().filter_map(|(pair, _)| Some((pair.name, holder(pair)?))).collect();
    let tell = |(pair, change): (&Pair<'_>, TensorChange)| match by.get(pair.name) {
        None => Some(Difference::TensorChanged(change)),
        Some(other) => replaced_by(pair.name, other, by.get(other) == Some(&pair.name)),
    };
    changes.into_iter().filter_map(tell).collect()
}

/// One tensor of both checkpoints.
struct Pair<'a> {
    name: &'a str,
    entry: &'a Entry,
    /// Its bytes as stored.
    before: &'a [u8],
    after: &'a [u8],
    weights: [Weight<'a>; 2],
}

impl<'a> Pair<'a> {
    fn of(old: &'a Tensors, new: &'a Tensors, name: &'a str, entry: &'a Entry) -> Result<Pair<'a>> {
        let bytes = |tensors: &'a Tensors| {
            let problem = "is quantized, expected a safetensors tensor";
            tensors.bytes(name).ok_or_else(|| Error::tensor(tensors.root(), name, problem))
        };
        let weights = [old.weight(name)?, new.weight(name)?];
        Ok(Pair { name, entry, before: bytes(old)?, after: bytes(new)?, weights })
    }
}

/// A tensor that changed.
struct Changed<'a> {
    pair: &'a Pair<'a>,
    /// Of what is stored.
    layout: Layout,
    /// Before and after.
    values: [Rows<'a>; 2],
}

impl Changed<'_> {
    /// The values of a row, before and after.
    fn row(&self, row: usize) -> [Vec<f32>; 2] {
        [self.values[0].row(row), self.values[1].row(row)]
    }

    /// The values of a column, before and after.
    fn column(&self, column: usize) -> [Vec<f32>; 2] {
        [self.values[0].column(column), self.values[1].column(column)]
    }
}

/// How the tensor changed; none where it did not.
fn compare(pair: &Pair<'_>, norms: &Norms) -> Result<Option<TensorChange>> {
    if pair.before == pair.after {
        return Ok(None);
    }
    let entry = pair.entry;
    let [before, after] = &pair.weights;
    let layout = Layout::of_bytes(entry.dtype, &entry.shape, pair.before.len());
    let changed = Changed { pair, layout, values: [before.all()?, after.all()?] };
    let counts = Counts::of(&changed);
    let vector = layout.columns == 1;
    let row_axis = if vector { Axis::Element } else { Axis::Row };
    let line = |axis: Axis, index: usize, scaled: bool| {
        let values = if axis == Axis::Column { changed.column(index) } else { changed.row(index) };
        line_change(&changed, (axis, index), &values, scaled, norms)
    };
    let at = |counts: &[u32], more_than: usize| -> Vec<usize> {
        counts.iter().enumerate().filter(|(_, n)| **n as usize > more_than).map(|(at, _)| at).collect()
    };
    let (rows, columns) = (at(&counts.rows, 0), at(&counts.columns, 0));
    let whole_rows = at(&counts.rows, layout.columns / 2);
    let whole_columns = if vector { Vec::new() } else { at(&counts.columns, layout.rows / 2) };
    // A change of every row is also one of every column: whichever are fewer tell it.
    let told =
        |whole: Vec<usize>, of: usize| if whole.len() <= LISTED && whole.len() * 2 <= of { whole } else { Vec::new() };
    let (told_rows, told_columns) = match vector {
        true => (told(rows.clone(), layout.all_rows()), Vec::new()),
        false => (told(whole_rows, layout.all_rows()), told(whole_columns, layout.all_columns())),
    };
    let covered = counts.covered(&changed, &told_rows, &told_columns);
    let few = |lines: &[usize], of: usize| lines.len() <= LISTED && lines.len() * 2 <= of;
    let mut lines = Vec::new();
    let pattern = if covered == counts.elements {
        lines.extend(told_rows.iter().map(|at| line(row_axis, *at, true)));
        lines.extend(told_columns.iter().map(|at| line(Axis::Column, *at, true)));
        Pattern::Lines
    } else if !vector && few(&rows, layout.all_rows()) && few(&columns, layout.all_columns()) {
        lines.extend(rows.iter().map(|at| line(Axis::Row, *at, false)));
        lines.extend(columns.iter().map(|at| line(Axis::Column, *at, false)));
        Pattern::Elements
    } else {
        low_rank(&changed).map_or(Pattern::Dense, |rank| Pattern::LowRank { rank })
    };
    Ok(Some(TensorChange {
        name: pair.name.to_owned(),
        shape: entry.shape.clone(),
        dtype: entry.dtype,
        rows_changed: rows.len(),
        rows: layout.all_rows(),
        columns_changed: if vector { 0 } else { columns.len() },
        columns: if vector { 0 } else { layout.all_columns() },
        relative_norm: Some((counts.change / counts.norm).sqrt()).filter(|n| n.is_finite()),
        elements_changed: Some(counts.elements),
        became_nan: counts.nan.1.saturating_sub(counts.nan.0),
        pattern,
        lines,
    }))
}

/// Changed elements.
struct Counts {
    rows: Vec<u32>,
    columns: Vec<u32>,
    elements: u64,
    /// ‖after − before‖².
    change: f64,
    /// ‖before‖².
    norm: f64,
    /// Values that are not a number, before and after.
    nan: (u64, u64),
}

impl Counts {
    fn of(changed: &Changed) -> Counts {
        let Changed { pair, layout, .. } = changed;
        let (row_bytes, element) = (layout.row_bytes(), layout.element_bytes());
        let (rows, columns) = (layout.all_rows(), layout.all_columns());
        let mut found =
            Counts { rows: vec![0; rows], columns: vec![0; columns], elements: 0, change: 0.0, norm: 0.0, nan: (0, 0) };
        for row in 0..rows {
            let [a, b] = changed.row(row);
            found.norm += a.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
            let here = row * row_bytes..(row + 1) * row_bytes;
            let (before, after) = (&pair.before[here.clone()], &pair.after[here]);
            if before == after {
                continue;
            }
            found.change += a.iter().zip(&b).map(|(a, b)| (f64::from(*b) - f64::from(*a)).powi(2)).sum::<f64>();
            let nan = |values: &[f32]| values.iter().filter(|v| v.is_nan()).count() as u64;
            found.nan = (found.nan.0 + nan(&a), found.nan.1 + nan(&b));
            let first = row / layout.rows * layout.columns;
            let elements = before.chunks_exact(element).zip(after.chunks_exact(element));
            for (column, (a, b)) in elements.enumerate() {
                let changed = u32::from(a != b);
                found.rows[row] += changed;
                found.columns[first + column] += changed;
            }
            found.elements += u64::from(found.rows[row]);
        }
        found
    }

    /// Changed elements that lie in these rows and columns.
    fn covered(&self, changed: &Changed, rows: &[usize], columns: &[usize]) -> u64 {
        let Changed { pair, layout, .. } = changed;
        let sum = |counts: &[u32], of: &[usize]| of.iter().map(|at| u64::from(counts[*at])).sum::<u64>();
        let mut twice = 0;
        for row in rows {
            for column in columns.iter().filter(|c| *c / layout.columns == row / layout.rows) {
                let from = row * layout.row_bytes() + column % layout.columns * layout.element_bytes();
                let here = from..from + layout.element_bytes();
                twice += u64::from(pair.before[here.clone()] != pair.after[here]);
            }
        }
        sum(&self.rows, rows) + sum(&self.columns, columns) - twice
    }
}

fn line_change(
    changed: &Changed,
    (axis, index): (Axis, usize),
    [a, b]: &[Vec<f32>; 2],
    scaled: bool,
    norms: &Norms,
) -> LineChange {
    let (pair, rounding) = (changed.pair, changed.layout.number.rounding());
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let (aa, ab, bb) = (dot(a, a), dot(a, b), dot(b, b));
    // Least squares; what is left has to be rounding: at most one a element.
    let factor = ab / aa;
    let left = a.iter().zip(b).map(|(a, b)| (f64::from(*b) - factor * f64::from(*a)).powi(2)).sum::<f64>();
    let fits = aa > 0.0 && left.sqrt() <= (rounding + 1e-7) * bb.sqrt();
    let beta = match (axis, a.as_slice(), b.as_slice()) {
        _ if !scaled => None,
        (Axis::Element, [a], [b]) => norms.beta(pair.name, (*a).into(), (*b).into()),
        _ => (fits && (factor - 1.0).abs() > 3.0 * rounding + 1e-6).then_some(factor),
    };
    LineChange {
        axis,
        index,
        neuron: names::neuron(pair.name, pair.entry.shape.len(), axis, index),
        norm_before: aa.sqrt(),
        norm_after: bb.sqrt(),
        beta,
    }
}

/// Rows and columns of the sample that a rank is told from.
const SAMPLE: usize = 160;

/// The rank of the change where it is low: singular values of a sample of its rows and columns that stand above what
/// rounding to the element type gives, if what is left of the change is no more than rounding.
fn low_rank(changed: &Changed) -> Option<usize> {
    let layout = changed.layout;
    let rounding = layout.number.rounding();
    let (rows, columns) = (layout.rows.min(SAMPLE), layout.columns.min(SAMPLE));
    if rows < 8 || columns < 8 || layout.matrices > 1 || rounding == 0.0 {
        return None;
    }
    let spread = |at: usize, of: usize, from: usize| at * from / of;
    let (mut noise, mut delta) = (0.0, DMatrix::<f64>::zeros(rows, columns));
    for i in 0..rows {
        let [a, b] = changed.row(spread(i, rows, layout.rows));
        for j in 0..columns {
            let at = spread(j, columns, layout.columns);
            let (a, b) = (f64::from(a[at]), f64::from(b[at]));
            delta[(i, j)] = b - a;
            // A rounding is uniform over the gap between neighbouring numbers: twice `rounding` of the power of two
            // below.
            let gap = if b == 0.0 { 0.0 } else { 2.0 * rounding * b.abs().log2().floor().exp2() };
            noise += gap * gap / 12.0;
        }
    }
    if delta.iter().any(|d| !d.is_finite()) {
        return None;
    }
    let deviation = (noise / (rows * columns) as f64).sqrt();
    let values = delta.singular_values();
    let largest = values.iter().copied().fold(0.0, f64::max);
    // The largest singular value of noise (Marchenko and Pastur 1967), and that of arithmetic in f32.
    let floor = (1.2 * deviation * ((rows as f64).sqrt() + (columns as f64).sqrt())).max(1e-6 * largest);
    let rank = values.iter().filter(|v| **v > floor).count();
    let left: f64 = values.iter().filter(|v| **v <= floor).map(|v| v * v).sum();
    let is_rounding = left <= 2.0 * noise + 1e-9 * largest * largest;
    (rank > 0 && rank * 3 <= rows.min(columns) && is_rounding).then_some(rank)
}
