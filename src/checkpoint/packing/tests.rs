//! Every packed form, from random codes: what is decoded is what the form's definition says, element by element, and a
//! row or column becomes zero, or a multiple of itself, and nothing else changes.

use super::*;
use crate::checkpoint::Opened;
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::{Value, json};
use std::path::Path;

pub(crate) const MODULE: &str = "model.layers.0.mlp.down_proj";
const ROWS: usize = 24;
const COLUMNS: usize = 64;

/// Stored tensors of one weight, and what its elements are by definition.
pub(crate) struct Form {
    pub(crate) name: &'static str,
    pub(crate) config: Value,
    pub(crate) tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    pub(crate) value: Box<dyn Fn(usize, usize) -> f32>,
    /// Whether rows have scales of their own.
    pub(crate) scales: bool,
}

struct Maker(ChaCha8Rng);

impl Maker {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.0.random()).collect()
    }

    fn words(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.0.random()).collect()
    }

    /// Numbers that half precision holds.
    fn scales(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.random_range(1..200) as f32 / 1024.0).collect()
    }
}

fn of_words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn of_f32(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn of_f16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
}

fn of_bf16(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
}

/// E4M3 by its definition.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match exponent {
        0 => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if code < 128 { magnitude } else { -magnitude }
}

fn e2m1(code: u8) -> f32 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

pub(crate) fn forms() -> Vec<Form> {
    let mut m = Maker(ChaCha8Rng::seed_from_u64(7));
    let mut all = Vec::new();
    let part = |end: &str, dtype, shape: &[usize], bytes| (format!("{MODULE}{end}"), dtype, shape.to_vec(), bytes);
    let fp8 = |m: &mut Maker| {
        m.bytes(ROWS * COLUMNS).iter().map(|b| if b & 127 == 127 { 1 } else { *b }).collect::<Vec<u8>>()
    };

    let (codes, scales) = (fp8(&mut m), m.scales(3 * 4));
    all.push(Form {
        name: "FP8 in blocks that do not divide the matrix",
        config: json!({"quant_method": "fp8", "weight_block_size": [10, 20]}),
        tensors: vec![
            part(".weight", Dtype::F8_E4M3, &[ROWS, COLUMNS], codes.clone()),
            part(".weight_scale_inv", Dtype::F32, &[3, 4], of_f32(&scales)),
        ],
        value: Box::new(move |r, c| e4m3(codes[r * COLUMNS + c]) * scales[r / 10 * 4 + c / 20]),
        scales: false,
    });
    let codes = fp8(&mut m);
    let exponents: Vec<u8> = (0..6).map(|at| 120 + at).collect();
    let powers = exponents.clone();
    all.push(Form {
        name: "FP8 with power-of-two scales",
        config: json!({"quant_method": "fp8", "weight_block_size": [8, 32]}),
        tensors: vec![
            part(".weight", Dtype::F8_E4M3, &[ROWS, COLUMNS], codes.clone()),
            part(".weight_scale_inv", Dtype::F8_E8M0, &[3, 2], exponents),
        ],
        value: Box::new(move |r, c| {
            e4m3(codes[r * COLUMNS + c]) * 2f32.powi(i32::from(powers[r / 8 * 2 + c / 32]) - 127)
        }),
        scales: false,
    });
    let (codes, scales) = (fp8(&mut m), m.scales(ROWS));
    all.push(Form {
        name: "FP8 by channel",
        config: json!({"quant_method": "compressed-tensors", "format": "float-quantized"}),
        tensors: vec![
            part(".weight", Dtype::F8_E4M3, &[ROWS, COLUMNS], codes.clone()),
            part(".weight_scale", Dtype::BF16, &[ROWS, 1], of_bf16(&scales)),
        ],
        value: {
            let scales: Vec<f32> = scales.iter().map(|s| bf16::from_f32(*s).to_f32()).collect();
            Box::new(move |r, c| e4m3(codes[r * COLUMNS + c]) * scales[r])
        },
        scales: true,
    });
    let (codes, scales, zeros) = (m.bytes(ROWS * COLUMNS), m.scales(ROWS), m.bytes(ROWS));
    all.push(Form {
        name: "INT8 by channel with zero points",
        config: json!({"quant_method": "compressed-tensors", "format": "int-quantized"}),
        tensors: vec![
            part(".weight", Dtype::I8, &[ROWS, COLUMNS], codes.clone()),
            part(".weight_scale", Dtype::F32, &[ROWS, 1], of_f32(&scales)),
            part(".weight_zero_point", Dtype::I8, &[ROWS, 1], zeros.clone()),
        ],
        value: Box::new(move |r, c| {
            (i32::from(codes[r * COLUMNS + c] as i8) - i32::from(zeros[r] as i8)) as f32 * scales[r]
        }),
        scales: true,
    });
    for (bits, zero_points, dense) in
        [(4usize, false, false), (4, true, true), (8, true, true), (3, false, false), (3, true, true), (5, true, true)]
    {
        let (each, groups) = (32 / bits, 2);
        let words_of = move |count: usize| if dense { (count * bits).div_ceil(32) } else { count.div_ceil(each) };
        let bit = move |at: usize| if dense { at * bits } else { at / each * 32 + at % each * bits };
        let width = words_of(COLUMNS);
        let (words, scales) = (m.words(ROWS * width), m.scales(ROWS * groups));
        let zeros = m.words(words_of(ROWS) * groups);
        let order: Vec<u32> = (0..COLUMNS as u32).map(|at| at * 7 % 64 / 32).collect();
        let mut tensors = vec![
            part(".weight_packed", Dtype::I32, &[ROWS, width], of_words(&words)),
            part(".weight_scale", Dtype::F16, &[ROWS, groups], of_f16(&scales)),
            part(
                ".weight_shape",
                Dtype::I64,
                &[2],
                [ROWS as u64, COLUMNS as u64].iter().flat_map(|n| n.to_le_bytes()).collect(),
            ),
            part(".weight_g_idx", Dtype::I32, &[COLUMNS], of_words(&order)),
        ];
        if zero_points {
            tensors.push(part(".weight_zero_point", Dtype::I32, &[words_of(ROWS), groups], of_words(&zeros)));
        }
        let scales: Vec<f32> = scales.iter().map(|s| f16::from_f32(*s).to_f32()).collect();
        all.push(Form {
            name: "pack-quantized",
            config: json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"],
                "weights": {"num_bits": bits, "group_size": 32}}}}),
            tensors,
            value: Box::new(move |r, c| {
                let group = order[c] as usize;
                let of = |word: &dyn Fn(usize) -> u32, at: usize| -> u32 {
                    (0..bits).map(|n| (word((bit(at) + n) / 32) >> ((bit(at) + n) % 32) & 1) << n).sum()
                };
                let code = of(&|word| words[r * width + word], c);
                let zero = match zero_points {
                    true => of(&|word| zeros[word * groups + group], r),
                    false => 1 << (bits - 1),
                };
                (code as i32 - zero as i32) as f32 * scales[r * groups + group]
            }),
            scales: true,
        });
    }
    for divides in [true, false] {
        let (codes, scales) =
            (m.bytes(ROWS * COLUMNS / 2), m.bytes(ROWS * COLUMNS / 16).iter().map(|b| b % 120).collect::<Vec<u8>>());
        let (end, whole) =
            if divides { (".weight_packed", ".weight_global_scale") } else { (".weight", ".weight_scale_2") };
        all.push(Form {
            name: "NVFP4",
            config: json!({"quant_method": if divides { "compressed-tensors" } else { "modelopt" }}),
            tensors: vec![
                part(end, Dtype::U8, &[ROWS, COLUMNS / 2], codes.clone()),
                part(".weight_scale", Dtype::F8_E4M3, &[ROWS, COLUMNS / 16], scales.clone()),
                part(whole, Dtype::F32, &[1], of_f32(&[48.5])),
            ],
            value: Box::new(move |r, c| {
                let code = codes[(r * COLUMNS + c) / 2] >> (c % 2 * 4) & 15;
                let scale = e4m3(scales[(r * COLUMNS + c) / 16]);
                e2m1(code) * if divides { scale / 48.5 } else { scale * 48.5 }
            }),
            scales: false,
        });
    }
    for (bits, format) in [(4usize, "gptq"), (4, "gptq_v2"), (8, "gptq_v2"), (2, "gptq_v2"), (3, "gptq_v2")] {
        let (words, zeros) = (m.words(COLUMNS * bits / 32 * ROWS), m.words(2 * (32 * bits / 32)));
        let rows = 32;
        let words = if words.len() < COLUMNS * bits / 32 * rows { m.words(COLUMNS * bits / 32 * rows) } else { words };
        let scales = m.scales(2 * rows);
        let order: Vec<u32> = (0..COLUMNS as u32).map(|at| at * 5 % 64 / 32).collect();
        let stored: Vec<f32> = scales.iter().map(|s| f16::from_f32(*s).to_f32()).collect();
        // Bit by bit, as the form is a stream of bits down a column.
        let bit = |words: &[u32], at: usize| words[at / 32] >> (at % 32) & 1;
        let of_column: Vec<Vec<u32>> =
            (0..rows).map(|r| (0..COLUMNS * bits / 32).map(|word| words[word * rows + r]).collect()).collect();
        let per_group = rows * bits / 32;
        let tensors = vec![
            part(".qweight", Dtype::I32, &[COLUMNS * bits / 32, rows], of_words(&words)),
            part(".qzeros", Dtype::I32, &[2, per_group], of_words(&zeros)),
            part(".scales", Dtype::F16, &[2, rows], of_f16(&scales)),
            part(".g_idx", Dtype::I32, &[COLUMNS], of_words(&order)),
        ];
        all.push(Form {
            name: "GPTQ",
            config: json!({"quant_method": "gptq", "bits": bits, "group_size": 32, "checkpoint_format": format}),
            tensors,
            value: Box::new(move |r, c| {
                let group = order[c] as usize;
                let code: u32 = (0..bits).map(|n| bit(&of_column[r], c * bits + n) << n).sum();
                let of_group = &zeros[group * per_group..];
                let zero: u32 = (0..bits).map(|n| bit(of_group, r * bits + n) << n).sum();
                // One more within as many bits: AutoGPTQ's kernels mask after they add.
                let zero = (zero + u32::from(format == "gptq")) % (1 << bits);
                (code as i32 - zero as i32) as f32 * stored[group * rows + r]
            }),
            scales: true,
        });
    }
    let (words, zeros, scales) = (m.words(COLUMNS * ROWS / 8), m.words(2 * ROWS / 8), m.scales(2 * ROWS));
    let stored: Vec<f32> = scales.iter().map(|s| f16::from_f32(*s).to_f32()).collect();
    all.push(Form {
        name: "AWQ",
        config: json!({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true, "version": "gemm"}),
        tensors: vec![
            part(".qweight", Dtype::I32, &[COLUMNS, ROWS / 8], of_words(&words)),
            part(".qzeros", Dtype::I32, &[2, ROWS / 8], of_words(&zeros)),
            part(".scales", Dtype::F16, &[2, ROWS], of_f16(&scales)),
        ],
        value: Box::new(move |r, c| {
            // AutoAWQ packs output order[i] into the i-th four bits.
            let place = [0, 2, 4, 6, 1, 3, 5, 7].iter().position(|output| *output == r % 8).unwrap();
            let code = |words: &[u32], row: usize| words[row * (ROWS / 8) + r / 8] >> (4 * place) & 15;
            (code(&words, c) as i32 - code(&zeros, c / 32) as i32) as f32 * stored[c / 32 * ROWS + r]
        }),
        scales: true,
    });
    for nested in [false, true] {
        let (codes, blocks) = (m.bytes(ROWS * COLUMNS / 2), ROWS * COLUMNS / 64);
        let (table, absmax, packed) = (m.scales(16), m.scales(blocks), m.bytes(blocks));
        let table: Vec<f32> = table.iter().enumerate().map(|(at, v)| if at == 7 { 0.0 } else { v - 0.1 }).collect();
        let (of_blocks, values) = (m.scales(blocks.div_ceil(16)), m.scales(256));
        let mut state = json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [ROWS, COLUMNS]});
        let mut tensors = vec![
            part(".weight", Dtype::U8, &[ROWS * COLUMNS / 2, 1], codes.clone()),
            part(".weight.quant_map", Dtype::F32, &[16], of_f32(&table)),
        ];
        if nested {
            state["nested_blocksize"] = 16.into();
            state["nested_offset"] = 0.25.into();
            tensors.push(part(".weight.absmax", Dtype::U8, &[blocks], packed.clone()));
            tensors.push(part(".weight.nested_absmax", Dtype::F32, &[of_blocks.len()], of_f32(&of_blocks)));
            tensors.push(part(".weight.nested_quant_map", Dtype::F32, &[256], of_f32(&values)));
        } else {
            tensors.push(part(".weight.absmax", Dtype::F32, &[blocks], of_f32(&absmax)));
        }
        let state = state.to_string().into_bytes();
        tensors.push(part(".weight.quant_state.bitsandbytes__nf4", Dtype::U8, &[state.len()], state));
        all.push(Form {
            name: "bitsandbytes",
            config: json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            tensors,
            value: Box::new(move |r, c| {
                let at = r * COLUMNS + c;
                let code = if at.is_multiple_of(2) { codes[at / 2] >> 4 } else { codes[at / 2] & 15 };
                let scale = match nested {
                    true => values[usize::from(packed[at / 64])] * of_blocks[at / 64 / 16] + 0.25,
                    false => absmax[at / 64],
                };
                table[usize::from(code)] * scale
            }),
            scales: !nested,
        });
    }
    let (codes, scales) = (m.bytes(ROWS * COLUMNS), m.scales(ROWS));
    all.push(Form {
        name: "bitsandbytes INT8",
        config: json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
        tensors: vec![
            part(".weight", Dtype::I8, &[ROWS, COLUMNS], codes.clone()),
            part(".SCB", Dtype::F32, &[ROWS], of_f32(&scales)),
        ],
        value: Box::new(move |r, c| f32::from(codes[r * COLUMNS + c] as i8) * scales[r] * (1.0 / 127.0)),
        scales: true,
    });
    all
}

/// Of the same tensors; without what they stand for.
pub(crate) fn copy(form: &Form) -> Form {
    Form { tensors: form.tensors.clone(), value: Box::new(|_, _| 0.0), config: form.config.clone(), ..*form }
}

pub(crate) fn write(form: &Form, folder: &Path) {
    let config = json!({"quantization_config": form.config});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let views = form
        .tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

pub(crate) fn decoded(folder: &Path) -> (Vec<usize>, Vec<f32>) {
    let tensors = Opened::folder_at(folder).tensors().unwrap();
    let weight = tensors.weight(&format!("{MODULE}.weight")).unwrap();
    assert!(weight.is_packed() && weight.is_float());
    (weight.shape().to_vec(), weight.all().unwrap().into_values())
}

#[test]
fn every_form_is_decoded_as_it_is_defined() {
    for form in forms() {
        let folder = tempfile::tempdir().unwrap();
        write(&form, folder.path());
        let (shape, values) = decoded(folder.path());
        let columns = shape[1];
        for (at, value) in values.iter().enumerate() {
            let expected = (form.value)(at / columns, at % columns);
            assert_eq!(value.to_bits(), expected.to_bits(), "{} {}, {}", form.name, at / columns, at % columns);
        }
        let tensors = Opened::folder_at(folder.path()).tensors().unwrap();
        let all = tensors.weights();
        assert_eq!((all.len(), all[0].stored().len()), (1, form.tensors.len()), "{}", form.name);
        let some: Vec<f32> = all[0].rows(17..20).unwrap().into_values();
        assert!(some.iter().zip(&values[17 * columns..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", form.name);
    }
}

#[test]
fn a_row_or_column_becomes_zero_and_nothing_else_changes() {
    for form in forms() {
        let folder = tempfile::tempdir().unwrap();
        write(&form, folder.path());
        let path = folder.path().join("model.safetensors");
        let (original, (shape, before)) = (std::fs::read(&path).unwrap(), decoded(folder.path()));
        let columns = shape[1];
        for (axis, index) in [
            (Axis::Row, 0),
            (Axis::Row, 9),
            (Axis::Row, shape[0] - 1),
            (Axis::Column, 0),
            (Axis::Column, 37),
            (Axis::Column, 63),
        ] {
            let tensors = Opened::folder_at(folder.path()).tensors().unwrap();
            let weight = tensors.weight(&format!("{MODULE}.weight")).unwrap();
            let zero = weight.zero_codes(axis, index).unwrap();
            let mut bytes = original.clone();
            let places = zero.place.span.offsets().flat_map(|at| at..at + zero.place.span.piece_bytes);
            for ((at, mask), code) in places.zip(&zero.mask).zip(&zero.codes) {
                bytes[at as usize] = bytes[at as usize] & !mask | code;
            }
            std::fs::write(&path, &bytes).unwrap();
            for (at, (was, is)) in before.iter().zip(decoded(folder.path()).1).enumerate() {
                let hit = match axis {
                    Axis::Row => at / columns == index,
                    _ => at % columns == index,
                };
                let expected = if hit { 0.0 } else { *was };
                assert_eq!(is, expected, "{} {axis:?} {index}: {}, {}", form.name, at / columns, at % columns);
            }
            std::fs::write(&path, &original).unwrap();
        }
    }
}

/// Whatever becomes of the bits that a row or column has for itself, no value of another does.
#[test]
fn own_bits_bear_on_the_row_or_column_alone() {
    let mut parts = 0;
    for form in forms() {
        let folder = tempfile::tempdir().unwrap();
        write(&form, folder.path());
        let path = folder.path().join("model.safetensors");
        let (original, (shape, before)) = (std::fs::read(&path).unwrap(), decoded(folder.path()));
        let columns = shape[1];
        for (axis, index) in
            [Axis::Row, Axis::Column].into_iter().flat_map(|axis| [0, 9, 23].map(|index| (axis, index)))
        {
            let tensors = Opened::folder_at(folder.path()).tensors().unwrap();
            let weight = tensors.weight(&format!("{MODULE}.weight")).unwrap();
            let own = weight.own_bits(axis, index).unwrap();
            let has_zeros = form.tensors.iter().any(|(name, ..)| name.contains("zero"));
            let expected = if axis == Axis::Row && form.scales { 2 + usize::from(has_zeros) } else { 1 };
            // Small scales are kept, too.
            assert!(own.len() == expected || (axis == Axis::Row && !form.scales && own.len() == 2), "{}", form.name);
            for part in own {
                let mut bytes = original.clone();
                let places = part.place.span.offsets().flat_map(|at| at..at + part.place.span.piece_bytes);
                // Of a float scale not all bits, which would make it NaN or tiny.
                let is_float = NumberType::of(part.place.dtype).holds_weights();
                places
                    .zip(&part.mask)
                    .for_each(|(at, mask)| bytes[at as usize] ^= mask & if is_float { 0x15 } else { 0x6d });
                std::fs::write(&path, &bytes).unwrap();
                let mut hit = 0;
                for (at, (was, is)) in before.iter().zip(decoded(folder.path()).1).enumerate() {
                    let own = if axis == Axis::Row { at / columns } else { at % columns } == index;
                    let what = || format!("{} {axis:?} {index}, {}: {at}", form.name, part.place.tensor);
                    assert!(own || was.to_bits() == is.to_bits(), "{}", what());
                    hit += usize::from(was.to_bits() != is.to_bits());
                }
                let length = if axis == Axis::Row { columns } else { shape[0] };
                assert!(hit * 2 > length, "{} {axis:?} {index}, {}: {hit}", form.name, part.place.tensor);
                std::fs::write(&path, &original).unwrap();
                parts += 1;
            }
        }
    }
    assert!(parts > 150, "{parts}");
}

#[test]
fn a_row_with_scales_of_its_own_becomes_a_multiple() {
    for form in forms() {
        let folder = tempfile::tempdir().unwrap();
        write(&form, folder.path());
        let path = folder.path().join("model.safetensors");
        let (mut bytes, (shape, before)) = (std::fs::read(&path).unwrap(), decoded(folder.path()));
        let tensors = Opened::folder_at(folder.path()).tensors().unwrap();
        let weight = tensors.weight(&format!("{MODULE}.weight")).unwrap();
        let own = weight.own_scales(11);
        assert_eq!(own.is_ok(), form.scales, "{}: {own:?}", form.name);
        let Ok(own) = own else { continue };
        let number = NumberType::of(own.place.dtype);
        let scales: Vec<f64> = number.decode_all(&own.place.span.read(&bytes).unwrap());
        let mut doubled = Vec::new();
        scales.iter().for_each(|scale| _ = number.encode(scale * 2.0, &mut doubled));
        let places = own.place.span.offsets().flat_map(|at| at..at + own.place.span.piece_bytes);
        places.zip(doubled).for_each(|(at, byte)| bytes[at as usize] = byte);
        assert!(own.of_column.len() == shape[1] && own.of_column.iter().all(|of| *of < scales.len()));
        std::fs::write(&path, &bytes).unwrap();
        for (at, (was, is)) in before.iter().zip(decoded(folder.path()).1).enumerate() {
            let factor = if at / shape[1] == 11 { 2.0 } else { 1.0 };
            assert_eq!(is, was * factor, "{}: {}, {}", form.name, at / shape[1], at % shape[1]);
        }
    }
}

/// A part that is missing, of another shape, or out of range is named; none makes a decoder read beyond its bytes.
#[test]
fn what_does_not_fit_is_named() {
    for form in forms() {
        for at in 0..form.tensors.len() {
            let folder = tempfile::tempdir().unwrap();
            let mut broken = copy(&form);
            let (name, dtype, shape, bytes) = &mut broken.tensors[at];
            // One row less.
            let row = bytes.len() / shape[0].max(1);
            if shape[0] < 2 || name.ends_with("weight_shape") {
                continue;
            }
            shape[0] -= 1;
            bytes.truncate(row * shape[0]);
            let what = format!("{} without a row of {name} {dtype}", form.name);
            write(&broken, folder.path());
            let tensors = Opened::folder_at(folder.path()).tensors().unwrap();
            let weight = tensors.weight(&format!("{MODULE}.weight"));
            let values = weight.map(|weight| weight.all().map(|rows| rows.into_values::<f32>().len()));
            // Blocks may end within a matrix of a row less.
            assert!(
                values.is_err() || (at == 0 && ["FP8", "AWQ"].iter().any(|name| form.name.starts_with(name))),
                "{what}: {values:?}"
            );
        }
    }
}
