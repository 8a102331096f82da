//! Masks and factors of rows and columns in blocks of every type.

use super::{Axis, NumberType, OwnScales, Span, Weight, ZeroCodes};
use crate::checkpoint::Tensors;
use crate::checkpoint::gguf::writer::{Writer, fixture};
use crate::checkpoint::gguf::{GgufCheckpoint, GgufFile, types::GgmlType};
use std::path::Path;
use std::sync::Arc;

const NAME: &str = "model.layers.0.mlp.down_proj.weight";
const COLUMNS: usize = 512;

/// Every type that has blocks, with rows of these as fixtures/gguf/make.py makes them.
fn types() -> Vec<(GgmlType, Vec<u8>)> {
    let file = GgufFile::open(&fixture("types.gguf")).unwrap();
    let blocks = file.tensors().filter(|(_, info)| info.ty.dtype().is_none());
    blocks.map(|(_, info)| (info.ty, file.stored(info).to_vec())).collect()
}

/// A llama whose down projection has these blocks, in four rows.
fn model(ty: GgmlType, blocks: &[u8]) -> tempfile::NamedTempFile {
    let mut w = Writer::llama();
    w.u32("llama.embedding_length", 4).u32("llama.feed_forward_length", COLUMNS as u32);
    for (name, shape) in [("token_embd", &[5, 4][..]), ("output_norm", &[4])] {
        w.ramp(&format!("{name}.weight"), shape);
    }
    for (name, shape) in [
        ("attn_norm", &[4][..]),
        ("attn_q", &[4, 4]),
        ("attn_k", &[2, 4]),
        ("attn_v", &[2, 4]),
        ("attn_output", &[4, 4]),
        ("ffn_norm", &[4]),
        ("ffn_gate", &[COLUMNS, 4]),
        ("ffn_up", &[COLUMNS, 4]),
    ] {
        w.ramp(&format!("blk.0.{name}.weight"), shape);
    }
    let row = ty.bytes_of(COLUMNS).unwrap();
    w.tensor("blk.0.ffn_down.weight", &[4, COLUMNS], ty.id, &[&blocks[..3 * row], &blocks[..row]].concat()).file()
}

fn tensors(path: &Path) -> Tensors {
    Tensors::from_gguf(Arc::new(GgufCheckpoint::open(path).unwrap()))
}

fn values(path: &Path) -> Vec<f32> {
    tensors(path).weight(NAME).unwrap().all().unwrap().into_values()
}

/// Writes bits of a span: those of the mask.
fn write(path: &Path, span: Span, mask: &[u8], bytes: &[u8]) {
    let mut file = std::fs::read(path).unwrap();
    let places = span.offsets().flat_map(|at| at..at + span.piece_bytes);
    for (at, (mask, byte)) in places.zip(mask.iter().zip(bytes)) {
        file[at as usize] = file[at as usize] & !mask | byte & mask;
    }
    std::fs::write(path, file).unwrap();
}

/// Where values differ by their bits.
fn differ(before: &[f32], after: &[f32]) -> Vec<usize> {
    (0..before.len()).filter(|at| before[*at].to_bits() != after[*at].to_bits()).collect()
}

#[test]
fn a_row_of_every_type_becomes_zero_and_no_other() {
    let types = types();
    assert_eq!(types.len(), 23);
    for (ty, blocks) in types {
        let file = model(ty, &blocks);
        let before = values(file.path());
        for row in [1, 3] {
            let opened = tensors(file.path());
            let weight = opened.weight(NAME).unwrap();
            let ZeroCodes { place, mask, codes } = weight.zero_codes(Axis::Row, row).unwrap();
            write(file.path(), place.span, &mask, &codes);
        }
        let after = values(file.path());
        let zero = |row: usize| after[row * COLUMNS..(row + 1) * COLUMNS].iter().all(|value| *value == 0.0);
        assert!(zero(1) && zero(3), "{}", ty.name);
        let rows = differ(&before, &after).into_iter().map(|at| at / COLUMNS);
        assert!(rows.clone().all(|row| row % 2 == 1) && rows.count() > COLUMNS / 2, "{}", ty.name);
    }
}

#[test]
fn a_column_becomes_zero_where_its_type_has_a_code_for_that() {
    let columns = [0, 15, 16, 31, 37, 130, 255, 256, 300, 511];
    let mut masked = Vec::new();
    for (ty, blocks) in types() {
        let file = model(ty, &blocks);
        let before = values(file.path());
        for column in columns {
            let opened = tensors(file.path());
            let weight = opened.weight(NAME).unwrap();
            match weight.zero_codes(Axis::Column, column) {
                Ok(ZeroCodes { place, mask, codes }) => write(file.path(), place.span, &mask, &codes),
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains(&format!("column {column} of {}", ty.name)), "{error}");
                    assert!(error.contains("patch the original and quantize that"), "{error}");
                }
            }
        }
        let after = values(file.path());
        let is_zero = |column: &usize| (0..4).all(|row| after[row * COLUMNS + column] == 0.0);
        if columns.iter().all(is_zero) {
            masked.push(ty.name);
            let changed = differ(&before, &after);
            assert!(changed.iter().all(|at| columns.contains(&(at % COLUMNS))), "{}", ty.name);
        } else {
            assert!(differ(&before, &after).is_empty(), "{}", ty.name);
        }
    }
    masked.sort_unstable();
    assert_eq!(masked, ["MXFP4", "NVFP4", "Q3_K", "Q4_0", "Q5_0", "Q6_K", "Q8_0", "TQ2_0"]);
}

#[test]
fn a_column_that_meets_a_scale_that_is_no_number_is_refused() {
    let (ty, mut blocks) = types().into_iter().find(|(ty, _)| ty.name == "Q8_0").unwrap();
    let second = ty.bytes_of(COLUMNS).unwrap() + ty.block_bytes;
    blocks[second..second + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    let file = model(ty, &blocks);
    let opened = tensors(file.path());
    let weight = opened.weight(NAME).unwrap();
    assert!(weight.zero_codes(Axis::Column, 31).is_ok() && weight.zero_codes(Axis::Row, 1).is_ok());
    let error = weight.zero_codes(Axis::Column, 32).unwrap_err().to_string();
    assert!(error.contains("not a number in row 1"), "{error}");
}

/// The blocks with scales of an ordinary size, so that half of each is exact.
fn ordinary(ty: GgmlType, blocks: &[u8]) -> Vec<u8> {
    use crate::checkpoint::gguf::codes::Scales;
    let mut blocks = blocks.to_vec();
    for block in blocks.chunks_mut(ty.block_bytes) {
        match ty.scales {
            Scales::Half { at, count } => {
                for at in (at..at + 2 * count).step_by(2) {
                    block[at..at + 2].copy_from_slice(&half::f16::from_f32(0.0371 + at as f32).to_le_bytes());
                }
            }
            Scales::Exponent { at } => block[at] = 120,
            Scales::Small { at, count } => block[at..at + count].copy_from_slice(&[0x31, 0x3c, 0x45, 0x52][..count]),
            Scales::Scattered { .. } | Scales::None => {}
        }
    }
    blocks
}

fn scaled(weight: &Weight, row: usize, factor: f64) -> Option<(Span, Vec<u8>)> {
    let OwnScales { place, of_column } = weight.own_scales(row).ok()?;
    let stored = place.span.read(place.file.bytes()).unwrap();
    let scales: Vec<f64> = place.number.decode_all(&stored);
    assert!(of_column.len() == COLUMNS && of_column.iter().all(|of| *of < scales.len()));
    let mut bytes = Vec::new();
    for scale in scales {
        let exact = place.number.encode(scale * factor, &mut bytes);
        assert_eq!(exact, scale * factor);
    }
    Some((place.span, bytes))
}

#[test]
fn a_factor_on_a_blocks_scales_is_one_on_its_row() {
    let mut refused = Vec::new();
    for (ty, blocks) in types() {
        let file = model(ty, &ordinary(ty, &blocks));
        let before = values(file.path());
        let opened = tensors(file.path());
        let weight = opened.weight(NAME).unwrap();
        let Some((span, bytes)) = scaled(&weight, 2, 0.5) else {
            refused.push(ty.name);
            continue;
        };
        let coarse = ["MXFP4", "NVFP4"].contains(&ty.name);
        assert_eq!(weight.own_scales(2).unwrap().are_coarse(), coarse, "{}", ty.name);
        let told = weight.row_with(2, span, &bytes).unwrap();
        write(file.path(), span, &vec![u8::MAX; bytes.len()], &bytes);
        let after = values(file.path());
        for (at, (was, is)) in before.iter().zip(&after).enumerate() {
            let factor = if at / COLUMNS == 2 { 0.5 } else { 1.0 };
            assert_eq!(was * factor, *is, "{}: element {at}", ty.name);
        }
        assert!(told.iter().zip(&after[2 * COLUMNS..]).all(|(told, is)| *told as f32 == *is), "{}", ty.name);
    }
    assert_eq!(refused, ["IQ1_M"]);
}

#[test]
fn elements_of_floats_lie_where_their_rows_do() {
    let file = Writer::llama().file();
    let opened = tensors(file.path());
    let query = opened.weight("model.layers.0.self_attn.q_proj.weight").unwrap();
    // Heads of four rows are interleaved.
    let rows: Vec<usize> = (0..8).map(|row| query.stored_index(Axis::Row, row)).collect();
    assert_eq!((rows, query.stored_index(Axis::Column, 1)), (vec![0, 2, 1, 3, 4, 6, 5, 7], 1));
    let dense = query.dense().unwrap();
    assert_eq!((dense.stored(), dense.is_one_more(), query.is_packed()), ("blk.0.attn_q.weight", false, true));
    let span = dense.span(Axis::Row, query.stored_index(Axis::Row, 1)).unwrap();
    let stored: Vec<f32> = NumberType::F32.decode_all(&span.read(dense.file().bytes()).unwrap());
    assert_eq!(stored, query.rows(1..2).unwrap().row::<f32>(0));
}

/// One row is decoded at a time: what it takes is bounded, however few bits its codes have.
#[test]
fn a_row_that_is_too_long_is_refused() {
    let mut w = Writer::llama();
    let (columns, ty) = (1 << 25, 19);
    let bytes = vec![0; columns / 256 * 50];
    let file = w.tensor("blk.9.long.weight", &[1, columns], ty, &bytes).file();
    let tensors = crate::checkpoint::Opened::at(file.path()).tensors().unwrap();
    let error = tensors.weight("blk.9.long.weight").unwrap_err().to_string();
    assert!(error.contains("has rows of 33554432 columns, more than the 16777216"), "{error}");
}
