//! Packs weights as quantizers do, for tests: each number is rounded to the nearest code.

use crate::checkpoint::packing::NumberType;
use safetensors::Dtype;
use serde_json::{Value, json};

/// A weight's stored tensors, by what follows its module's name, and what the config says of them.
pub(super) struct Packed {
    pub settings: Option<Value>,
    pub parts: Vec<(&'static str, Dtype, Vec<usize>, Vec<u8>)>,
}

/// Rows and columns of a block of FP8, columns of a group of four bits.
const BLOCK: usize = 32;

pub(super) fn encoded(dtype: Dtype, values: impl IntoIterator<Item = f64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    values.into_iter().for_each(|value| _ = NumberType::of(dtype).encode(value, &mut bytes));
    bytes
}

/// FP8 with a scale a block, as DeepSeek publishes it.
pub(super) fn fp8([rows, columns]: [usize; 2], values: &[f32]) -> Packed {
    let (high, wide) = (rows.div_ceil(BLOCK), columns.div_ceil(BLOCK));
    let block = |at: usize| at / columns / BLOCK * wide + at % columns / BLOCK;
    let mut scales = vec![1e-9f64; high * wide];
    for (at, value) in values.iter().enumerate() {
        scales[block(at)] = scales[block(at)].max(f64::from(value.abs()) / 448.0);
    }
    // Those of numbers from 0 to 448 are in order.
    let numbers: Vec<f64> = NumberType::F8E4M3.decode_all(&(0..=126).collect::<Vec<u8>>());
    let code = |(at, v): (usize, &f32)| {
        let number = f64::from(v.abs()) / scales[block(at)];
        let above = numbers.partition_point(|n| *n < number).min(126);
        let is_below = above > 0 && number - numbers[above - 1] < numbers[above] - number;
        (above - usize::from(is_below)) as u8 | if *v < 0.0 { 128 } else { 0 }
    };
    let codes = values.iter().enumerate().map(code).collect();
    let parts = vec![
        (".weight", Dtype::F8_E4M3, vec![rows, columns], codes),
        (".weight_scale_inv", Dtype::F32, vec![high, wide], encoded(Dtype::F32, scales)),
    ];
    Packed { settings: Some(json!({"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]})), parts }
}

/// A scale for each group of a row, of type `dtype`, and codes of four bits of which 8 is zero.
fn four_bits(values: &[f32], dtype: Dtype) -> (Vec<f64>, Vec<u32>) {
    let most = |group: &[f32]| f64::from(group.iter().fold(1e-9f32, |most, v| most.max(v.abs())));
    let scales = NumberType::of(dtype).decode_all(&encoded(dtype, values.chunks(BLOCK).map(|group| most(group) / 7.0)));
    let code = |(at, v): (usize, &f32)| {
        let steps = f64::from(*v) / f64::max(scales[at / BLOCK], 1e-9);
        (steps.round().clamp(-8.0, 7.0) as i32 + 8) as u32
    };
    let codes = values.iter().enumerate().map(code).collect();
    (scales, codes)
}

/// Eight codes a word, the first in the lowest bits.
fn words(codes: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let codes: Vec<u32> = codes.into_iter().collect();
    let words = codes.chunks(8).map(|word| word.iter().rev().fold(0u32, |all, code| all << 4 | code));
    words.flat_map(u32::to_le_bytes).collect()
}

/// Four bits with a scale a row and group, as llm-compressor writes them.
pub(super) fn w4a16([rows, columns]: [usize; 2], values: &[f32]) -> Packed {
    let (scales, codes) = four_bits(values, Dtype::BF16);
    let settings = json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0":
        {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": BLOCK, "strategy": "group"}}}});
    let parts = vec![
        (".weight_packed", Dtype::I32, vec![rows, columns / 8], words(codes)),
        (".weight_scale", Dtype::BF16, vec![rows, columns / BLOCK], encoded(Dtype::BF16, scales)),
        (".weight_shape", Dtype::I64, vec![2], [rows as u64, columns as u64].map(u64::to_le_bytes).concat()),
    ];
    Packed { settings: Some(settings), parts }
}

/// The same by GPTQ's form: a row of the weight is a column of the file.
pub(super) fn gptq([rows, columns]: [usize; 2], values: &[f32]) -> Packed {
    let (scales, codes) = four_bits(values, Dtype::F16);
    let groups = columns / BLOCK;
    let mut by_column = vec![0u32; columns / 8 * rows];
    for (at, code) in codes.iter().enumerate() {
        let (row, column) = (at / columns, at % columns);
        by_column[column / 8 * rows + row] |= code << (4 * (column % 8));
    }
    let of_group = |group: usize| (0..rows).map(move |row| row * groups + group);
    let scales: Vec<f64> = (0..groups).flat_map(of_group).map(|at| scales[at]).collect();
    let settings = json!({"quant_method": "gptq", "bits": 4, "group_size": BLOCK, "checkpoint_format": "gptq_v2"});
    let zeros = std::iter::repeat_n(8, groups * rows);
    let parts = vec![
        (".qweight", Dtype::I32, vec![columns / 8, rows], by_column.iter().flat_map(|w| w.to_le_bytes()).collect()),
        (".qzeros", Dtype::I32, vec![groups, rows / 8], words(zeros)),
        (".scales", Dtype::F16, vec![groups, rows], encoded(Dtype::F16, scales)),
    ];
    Packed { settings: Some(settings), parts }
}
