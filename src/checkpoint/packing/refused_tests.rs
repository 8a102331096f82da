//! What is refused, and what is nearly so.

use super::tests::{Form, MODULE, write};
use super::*;
use crate::checkpoint::Opened;
use safetensors::Dtype;
use serde_json::json;

/// Tensors without bytes may have any sizes: no product of these overflows, and no such weight is made.
#[test]
fn sizes_of_nothing_are_refused() {
    let huge = 1 << 62;
    let one = |end: &str| (format!("{MODULE}{end}"), Dtype::F32, vec![1], vec![0; 4]);
    let of = |end: &str, dtype, shape: &[usize]| {
        let bytes = shape.iter().product::<usize>() * 4;
        (format!("{MODULE}{end}"), dtype, shape.to_vec(), vec![0; bytes])
    };
    let fused = |end: &str, shape: &[usize]| (format!("experts{end}"), Dtype::U8, shape.to_vec(), Vec::new());
    let empty = |end: &str, dtype, shape: &[usize]| (format!("{MODULE}{end}"), dtype, shape.to_vec(), Vec::new());
    let scales = |end: &str| empty(end, Dtype::F8_E4M3, &[0, 1]);
    let gptq = || [of(".qzeros", Dtype::I32, &[1, 1]), of(".scales", Dtype::F32, &[1, 8])];
    let weight = format!("{MODULE}.weight");
    for (name, tensors) in [
        (
            &*weight,
            vec![
                empty(".weight_packed", Dtype::U8, &[0, huge * 2]),
                scales(".weight_scale"),
                one(".weight_global_scale"),
            ],
        ),
        (&*weight, vec![empty(".weight", Dtype::U8, &[0, huge * 2]), scales(".weight_scale"), one(".weight_scale_2")]),
        ("experts", vec![fused("_blocks", &[0, 1 << 40, 1 << 30]), fused("_scales", &[0, 1 << 40])]),
        (
            &*weight,
            [&gptq()[..], &[empty(".qweight", Dtype::I32, &[1 << 60, 0]), of(".g_idx", Dtype::I32, &[4])]].concat(),
        ),
        (&*weight, [&gptq()[..], &[empty(".qweight", Dtype::I32, &[0, 8])]].concat()),
        (
            &*weight,
            vec![empty(".weight", Dtype::F8_E4M3, &[0, huge]), empty(".weight_scale", Dtype::F32, &[0, huge, huge])],
        ),
        (&*weight, vec![empty(".weight_packed", Dtype::I32, &[0, huge]), of(".weight_shape", Dtype::I32, &[2])]),
        (&*weight, vec![empty(".weight", Dtype::I8, &[0, huge]), of(".SCB", Dtype::F32, &[1])]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for config in [
            json!({}),
            json!({"quant_method": "gptq", "bits": 8}),
            json!({"quant_method": "fp8", "weight_block_size": [1, 1]}),
        ] {
            let form =
                Form { name: "nothing", config, tensors: tensors.clone(), value: Box::new(|_, _| 0.0), scales: false };
            write(&form, folder.path());
            let tensors = Opened::folder_at(folder.path()).tensors().unwrap();
            assert!(tensors.weight(name).is_err(), "{:?}", form.tensors);
        }
    }
    for shape in [[0, huge], [huge, 0]] {
        for axis in [Axis::Row, Axis::Column, Axis::Element] {
            assert!(Span::of_dense(axis, huge - 1, &shape, Dtype::F32, 8).is_none(), "{shape:?} {axis:?}");
        }
    }
}

/// NVFP4 whose last group of a row is a part of one.
#[test]
fn the_last_group_may_be_a_part() {
    let part = |end: &str, dtype, shape: &[usize], bytes| (format!("{MODULE}{end}"), dtype, shape.to_vec(), bytes);
    let form = Form {
        name: "NVFP4",
        config: json!({"quant_method": "compressed-tensors"}),
        tensors: vec![
            part(".weight_packed", Dtype::U8, &[2, 19], vec![0x22; 38]),
            part(".weight_scale", Dtype::F8_E4M3, &[2, 3], vec![0x38, 0x40, 0x48, 0x50, 0x58, 0x60]),
            part(".weight_global_scale", Dtype::F32, &[1], 1f32.to_le_bytes().to_vec()),
        ],
        value: Box::new(|_, _| 0.0),
        scales: false,
    };
    let folder = tempfile::tempdir().unwrap();
    write(&form, folder.path());
    let (shape, values) = super::tests::decoded(folder.path());
    let scale = |at: usize| 2f32.powi((at / 38 * 3 + at % 38 / 16) as i32);
    assert!(shape == [2, 38] && (0..76).all(|at| values[at] == scale(at)), "{values:?}");
}

fn problem(form: &Form) -> String {
    let folder = tempfile::tempdir().unwrap();
    write(form, folder.path());
    let tensors = Opened::folder_at(folder.path()).tensors().unwrap();
    let found = tensors.weight(&format!("{MODULE}.weight"));
    found.map_or_else(|error| error.to_string(), |weight| format!("a weight in {}", weight.format()))
}

/// What a method that is not known, or a config that cannot be followed, says of codes: nothing.
#[test]
fn nothing_is_decoded_by_guess() {
    for form in super::tests::forms() {
        let sound = form.config.clone();
        for (config, expected) in [
            (json!({"quant_method": "auto-round", "bits": 4}), "quantized with auto-round, which is not supported"),
            (json!({"quant_method": "fp8", "weight_block_size": [0, 128]}), "weight_block_size: expected two positive"),
            (json!([]), "quantization_config: expected"),
        ] {
            let form = Form { config, ..super::tests::copy(&form) };
            let found = problem(&form);
            assert!(found.contains(expected), "{}: {found}", form.name);
        }
        if form.name.starts_with("GPTQ") {
            let found = problem(&Form { config: json!({}), ..super::tests::copy(&form) });
            assert!(found.contains("whether zero points are stored less one"), "{}: {found}", form.name);
            let mut config = sound;
            config["desc_act"] = true.into();
            let mut reordered = Form { config, ..super::tests::copy(&form) };
            reordered.tensors.retain(|(name, ..)| !name.ends_with("g_idx"));
            let found = problem(&reordered);
            assert!(found.contains("g_idx is missing, and the config says desc_act"), "{}: {found}", form.name);
        }
        if form.name == "bitsandbytes" {
            let mut stored = super::tests::copy(&form);
            let (_, dtype, shape, _) = &mut stored.tensors[0];
            (*dtype, shape[0]) = (Dtype::BF16, shape[0] / 2);
            assert!(problem(&stored).contains("bnb_4bit_quant_storage"), "{}", problem(&stored));
        }
    }
}
