//! The values that blocks stand for: NaN and infinities, as scales that are none leave them, and zeros.

use super::tensor;
use crate::architecture::place::Axis;
use crate::checkpoint::gguf::GgufFile;
use crate::checkpoint::gguf::header::TensorInfo;
use crate::error::{Count, Result};
use crate::integrity::lint::check::Check;
use crate::integrity::lint::observation::{Found, More};
use crate::integrity::lint::values::bits::{Format, ValueCounts};
use crate::integrity::lint::values::zeros;
use crate::progress::Progress;
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::json;
use std::collections::BTreeMap;

/// Elements that are decoded together.
const PIECE: usize = 1 << 20;
/// Tensors whose columns are kept at once.
const TOGETHER: usize = 256;

/// Decodes all tensors and tells of what is in them; how many bytes they take.
pub fn scan(file: &GgufFile, found: &mut Found, progress: &dyn Progress) -> Result<u64> {
    let readable: Vec<_> = own(file).filter(|(_, info)| info.ty.is_supported()).collect();
    let total = readable.iter().map(|(_, info)| info.bytes.len() as u64).sum();
    progress.begin("values", total, "bytes");
    for some in readable.chunks(TOGETHER) {
        let seen = some.par_iter().map(|(name, info)| seen(file, name, info, progress)).collect::<Result<Vec<_>>>()?;
        some.iter().zip(seen).for_each(|((name, info), seen)| tell(file, name, info, &seen, found));
    }
    progress.end();
    let mut unread: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, info) in file.tensors().filter(|(_, info)| !info.ty.is_supported() && info.ty.dtype().is_none()) {
        unread.entry(info.ty.name).or_default().push(name);
    }
    for (ty, names) in unread {
        let Some(first) = names.first() else { continue };
        let message = format!(
            "has type {ty}, which is not read here: the values of {} are not known",
            Count(names.len(), "tensor", "tensors")
        );
        let place = tensor(file, first).and(More::InFile(names.len() as u64 - 1));
        found.add(Check::GgufNotExamined, place, message, json!({"type": ty, "tensors": names.len()}));
    }
    Ok(total)
}

/// The tensors whose bytes are no earlier tensor's, so that each byte is read once, whatever tensors claim.
fn own(file: &GgufFile) -> impl Iterator<Item = (&str, &TensorInfo)> {
    let mut all: Vec<_> = file.tensors().collect();
    all.sort_by_key(|(_, info)| (info.part, info.bytes.start, info.bytes.end));
    let mut end = (0, 0);
    all.into_iter().filter(move |(_, info)| {
        let owns = (info.part, info.bytes.start) >= end;
        end = end.max((info.part, info.bytes.end));
        owns
    })
}

/// How a tensor is cut: the elements of a row, and whether rows mean something.
fn rows(info: &TensorInfo) -> (usize, bool) {
    let elements: usize = info.shape.iter().product();
    let width = info.shape.last().copied().unwrap_or(1);
    let is_matrix = info.shape.len() >= 2 && width <= PIECE && elements > width;
    (if is_matrix { width } else { elements.min(PIECE) }, is_matrix)
}

fn seen(file: &GgufFile, name: &str, info: &TensorInfo, progress: &dyn Progress) -> Result<ValueCounts> {
    let elements: usize = info.shape.iter().product();
    let (row, is_matrix) = rows(info);
    let keep_columns = is_matrix && info.shape.len() == 2;
    let columns = if keep_columns { vec![false; row] } else { Vec::new() };
    let mut seen = ValueCounts { columns, ..ValueCounts::default() };
    let Some(format) = Format::of(Dtype::F32) else { return Ok(seen) };
    let together = (PIECE / row.max(1)).max(1) * row;
    let (mut values, mut bytes, mut advanced) = (Vec::new(), Vec::new(), 0);
    for from in (0..elements).step_by(together.max(1)) {
        let to = elements.min(from + together);
        values.resize(to - from, 0.0);
        file.values(name, from, &mut values)?;
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value: &f32| value.to_le_bytes()));
        seen.add(format.scan(&bytes, row, (from / row) as u64, keep_columns), 0);
        let done = (info.bytes.len() as u128 * to as u128 / elements as u128) as u64;
        progress.advance(done - advanced)?;
        advanced = done;
    }
    Ok(seen)
}

fn tell(file: &GgufFile, name: &str, info: &TensorInfo, seen: &ValueCounts, found: &mut Found) {
    let (row, is_matrix) = rows(info);
    let elements: usize = info.shape.iter().product();
    let width = row.max(1) as u64;
    for (check, what, count) in [(Check::Nan, "NaN", seen.nan), (Check::Infinite, "infinite", seen.infinite)] {
        let Some(first) = count.first else { continue };
        let (axis, index, position) = match is_matrix {
            true => (Axis::Row, first / width, format!("row {}, column {}", first / width, first % width)),
            false => (Axis::Element, first, format!("element {first}")),
        };
        let of =
            if info.ty.block_elements > 1 { format!(" once decoded from {}", info.ty.name) } else { String::new() };
        let message = format!("{} of {elements} values are {what}{of}, the first at {position}", count.count);
        let place = tensor(file, name).at(axis, index).and(More::InTensor(count.count - 1));
        found.add(check, place, message, json!({"count": count.count, "elements": elements, "first_element": first}));
    }
    if is_matrix {
        zeros((name, &info.shape), (elements / row.max(1)) as u64, seen, tensor(file, name), found);
    } else if !seen.any && elements > 1 && name.ends_with("norm.weight") {
        found.say(Check::ZeroTensor, tensor(file, name), format!("all of {:?} is zero", info.shape));
    }
}
