use super::*;
use crate::architecture::place::Axis;
use crate::integrity::pack;
use crate::progress::Silent;
use half::bf16;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use std::collections::HashMap;
use std::path::Path;

const LAYERS: usize = 8;
const HIDDEN: usize = 160;
const INNER: usize = 192;
const CHANNELS: usize = 16;

/// A model whose channels keep their strength from layer to layer, as those of real ones do.
struct Synthetic(HashMap<String, (Vec<usize>, Vec<f32>)>);

impl Synthetic {
    fn new() -> Synthetic {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut normal = || -> f64 { StandardNormal.sample(&mut random) };
        let strengths: Vec<f64> = (0..HIDDEN).map(|_| (0.3 * normal()).exp()).collect();
        let mut tensors = HashMap::new();
        for layer in 0..LAYERS {
            let mut up = Vec::new();
            for (module, rows, columns) in [
                ("self_attn.q_proj", HIDDEN, HIDDEN),
                ("self_attn.k_proj", HIDDEN, HIDDEN),
                ("self_attn.v_proj", HIDDEN, HIDDEN),
                ("self_attn.o_proj", HIDDEN, HIDDEN),
                ("mlp.gate_proj", INNER, HIDDEN),
                ("mlp.up_proj", INNER, HIDDEN),
                ("mlp.down_proj", HIDDEN, INNER),
            ] {
                let writes = matches!(module, "self_attn.o_proj" | "mlp.down_proj");
                let mut values = Vec::with_capacity(rows * columns);
                for row in 0..rows {
                    for column in 0..columns {
                        let strength = strengths[if writes { row } else { column }];
                        // Rows of down_proj point along the columns of up_proj.
                        let along = if module == "mlp.down_proj" { up[column * HIDDEN + row] } else { 0.0 };
                        values.push((strength * 0.02 * normal() + f64::from(along)) as f32);
                    }
                }
                if module == "mlp.up_proj" {
                    up.clone_from(&values);
                }
                tensors.insert(format!("model.layers.{layer}.{module}.weight"), (vec![rows, columns], values));
            }
        }
        Synthetic(tensors)
    }

    fn scale(&mut self, module: &str, side: Side, channel: usize, beta: f32) {
        let (shape, values) = self.0.get_mut(&format!("model.layers.{module}.weight")).unwrap();
        let columns = shape[1];
        for (at, value) in values.iter_mut().enumerate() {
            let own = if side == Side::Out { at / columns } else { at % columns };
            if own == channel {
                *value *= beta;
            }
        }
    }

    fn write(&self, folder: &Path) -> Checkpoint {
        let bytes: HashMap<&String, (&Vec<usize>, Vec<u8>)> = self
            .0
            .iter()
            .map(|(name, (shape, values))| (name, (shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())))
            .collect();
        let views = bytes
            .iter()
            .map(|(name, (shape, bytes))| (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
        serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
        let config = serde_json::json!({"num_attention_heads": HIDDEN / CHANNELS, "hidden_size": HIDDEN});
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap()
    }

    /// Packs all of it.
    fn write_packed(&self, folder: &Path, pack: Pack) -> Checkpoint {
        let (mut parts, mut settings) = (Vec::new(), None);
        for (name, (shape, values)) in &self.0 {
            let packed = pack([shape[0], shape[1]], values);
            settings = packed.settings;
            let module = name.strip_suffix(".weight").unwrap();
            parts.extend(
                packed
                    .parts
                    .into_iter()
                    .map(|(end, dtype, shape, bytes)| (format!("{module}{end}"), dtype, shape, bytes)),
            );
        }
        let views = parts
            .iter()
            .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
        let config = serde_json::json!({
            "num_attention_heads": HIDDEN / CHANNELS, "hidden_size": HIDDEN, "quantization_config": settings
        });
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap()
    }

    fn examine(&self) -> LesionReport {
        let folder = tempfile::tempdir().unwrap();
        examine(&self.write(folder.path()), &Silent).unwrap()
    }
}

/// Writes a model, one neuron of which was scaled.
pub(crate) fn scaled(folder: &Path, beta: f32) {
    let mut model = Synthetic::new();
    model.scale("3.mlp.down_proj", Side::Out, 40, beta);
    model.write(folder);
}

fn named(report: &LesionReport) -> Vec<(IndicatorKind, String)> {
    report.indicators.iter().map(|indicator| (indicator.kind, indicator.neuron.short())).collect()
}

#[test]
fn a_clean_model_has_no_sign_and_all_of_it_is_examined() {
    let report = Synthetic::new().examine();
    assert_eq!(named(&report), []);
    assert_eq!((report.examined_sides, report.not_examined, report.more_zeros), (14 * LAYERS, vec![], vec![]));
}

#[test]
fn rows_and_columns_of_zeros_and_factors_are_placed_to_the_neuron() {
    let mut model = Synthetic::new();
    model.scale("1.mlp.down_proj", Side::Out, 5, 0.0);
    model.scale("2.mlp.down_proj", Side::In, 90, 0.0);
    model.scale("4.mlp.down_proj", Side::Out, 77, 0.1);
    model.scale("6.mlp.down_proj", Side::In, 11, 20.0);
    model.scale("3.self_attn.q_proj", Side::In, 40, 20.0);
    model.scale("5.mlp.down_proj", Side::Out, 120, -1.0);
    let report = model.examine();
    let mut found = named(&report);
    found.sort_by(|a, b| a.1.cmp(&b.1));
    let expected = [
        (IndicatorKind::Zero, "L1.mlp.down_proj:out:5"),
        (IndicatorKind::Zero, "L2.mlp.down_proj:in:90"),
        (IndicatorKind::Scaled, "L3.self_attn.q_proj:in:40"),
        (IndicatorKind::Scaled, "L4.mlp.down_proj:out:77"),
        (IndicatorKind::Opposite, "L5.mlp.down_proj:out:120"),
        (IndicatorKind::Scaled, "L6.mlp.down_proj:in:11"),
    ];
    assert_eq!(found, expected.map(|(kind, name)| (kind, name.to_owned())), "{:#?}", report.indicators);
    let of = |name: &str| report.indicators.iter().find(|indicator| indicator.neuron.short() == name).unwrap();
    for (name, beta) in [("L4.mlp.down_proj:out:77", 0.1), ("L6.mlp.down_proj:in:11", 20.0)] {
        let indicator = of(name);
        assert!((indicator.beta_estimate / beta).ln().abs() < 0.3, "{indicator:?}");
        assert!(
            (indicator.statistic / indicator.expected - indicator.beta_estimate).abs() < 1e-9
                && indicator.p_value <= REPORTED_P_VALUE
        );
    }
    let flipped = of("L5.mlp.down_proj:out:120");
    assert!(flipped.statistic < -0.5 && flipped.expected > 0.5, "{flipped:?}");
    assert_eq!(flipped.or.as_ref().unwrap().short(), "L5.mlp.up_proj:in:120");
    assert_eq!(flipped.place.to_string(), "row 120 of model.layers.5.mlp.down_proj.weight [160, 192]");
}

type Pack = fn([usize; 2], &[f32]) -> crate::integrity::pack::Packed;
const PACKS: [(&str, Pack); 3] = [("FP8", pack::fp8), ("INT4", pack::w4a16), ("GPTQ", pack::gptq)];

#[test]
fn a_packed_clean_model_has_no_sign_and_all_of_it_is_examined() {
    for (form, pack) in PACKS {
        let folder = tempfile::tempdir().unwrap();
        let report = examine(&Synthetic::new().write_packed(folder.path(), pack), &Silent).unwrap();
        assert_eq!(named(&report), [], "{form}");
        assert_eq!((report.examined_sides, report.not_examined), (14 * LAYERS, vec![]), "{form}");
    }
}

#[test]
fn lesions_of_a_packed_model_are_placed_to_the_neuron() {
    for (form, pack) in PACKS {
        let mut model = Synthetic::new();
        model.scale("1.mlp.down_proj", Side::Out, 5, 0.0);
        model.scale("2.mlp.down_proj", Side::In, 90, 0.0);
        model.scale("4.mlp.down_proj", Side::Out, 77, 0.1);
        model.scale("5.mlp.down_proj", Side::Out, 120, -1.0);
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = model.write_packed(folder.path(), pack);
        let report = examine(&checkpoint, &Silent).unwrap();
        let mut found = named(&report);
        found.sort_by(|a, b| a.1.cmp(&b.1));
        let expected = [
            (IndicatorKind::Zero, "L1.mlp.down_proj:out:5"),
            (IndicatorKind::Zero, "L2.mlp.down_proj:in:90"),
            (IndicatorKind::Scaled, "L4.mlp.down_proj:out:77"),
            (IndicatorKind::Opposite, "L5.mlp.down_proj:out:120"),
        ];
        assert_eq!(found, expected.map(|(kind, name)| (kind, name.to_owned())), "{form}: {:#?}", report.indicators);
        if form != "GPTQ" {
            continue;
        }
        // The codes are in a tensor of another name and shape.
        let told = observe(checkpoint.opened(), &Silent).unwrap();
        let place = "model.safetensors: model.layers.4.mlp.down_proj.weight row 77";
        assert!(told.iter().any(|observation| observation.location.to_string() == place), "{form}: {told:#?}");
    }
}

#[test]
fn what_is_dead_on_all_sides_is_no_sign() {
    let mut model = Synthetic::new();
    for (module, side) in [("0.mlp.gate_proj", Side::Out), ("0.mlp.up_proj", Side::Out), ("0.mlp.down_proj", Side::In)]
    {
        model.scale(module, side, 3, 0.0);
    }
    assert_eq!(named(&model.examine()), []);
    // One of them alone is one.
    let mut model = Synthetic::new();
    model.scale("0.mlp.gate_proj", Side::Out, 3, 0.0);
    assert_eq!(named(&model.examine()), [(IndicatorKind::Zero, "L0.mlp.gate_proj:out:3".to_owned())]);
}

#[test]
fn many_zeros_are_counted() {
    let mut model = Synthetic::new();
    (0..40).for_each(|row| model.scale("7.mlp.down_proj", Side::Out, row, 0.0));
    let report = model.examine();
    assert_eq!(report.indicators.iter().filter(|indicator| indicator.kind == IndicatorKind::Zero).count(), 16);
    let more = MoreZeros { tensor: "model.layers.7.mlp.down_proj.weight".into(), side: Side::Out, count: 24 };
    assert_eq!(report.more_zeros, [more]);
}

#[test]
fn what_cannot_be_judged_is_said() {
    let mut model = Synthetic::new();
    let (_, values) = model.0.get_mut("model.layers.2.mlp.up_proj.weight").unwrap();
    values[17] = f32::NAN;
    let fused = model.0.remove("model.layers.4.self_attn.q_proj.weight").unwrap();
    model.0.insert("model.layers.4.self_attn.qkv_proj.weight".into(), fused);
    model.0.insert("model.layers.99999999999.mlp.up_proj.weight".into(), (vec![2, 2], vec![1.0, 0.0, 1.0, 0.0]));
    let report = model.examine();
    let why = |what: &str| report.not_examined.iter().find(|n| n.what == what).map_or("", |n| n.why.as_str());
    assert!(why("model.layers.2.mlp.up_proj.weight").contains("NaN"), "{:#?}", report.not_examined);
    assert!(why("model.layers.4.self_attn.qkv_proj.weight").contains("no clean model with such a module"));
    assert!(why("columns of model.layers.2.mlp.down_proj.weight").contains("are not there"));
    assert!(why("rows of model.layers.4.self_attn.v_proj.weight").contains("are not there"));
    assert_eq!(named(&report), [(IndicatorKind::Zero, "L99999999999.mlp.up_proj:in:1".to_owned())]);
}

#[test]
fn the_tail_is_hills() {
    let strengths: Vec<f64> = (1..=100).map(|i| (i as f64 / 100.0).powf(-1.0 / 3.0)).collect();
    let tail = Tail::of(&strengths).unwrap();
    assert!((tail.exponent - 3.0).abs() < 0.6, "{tail:?}");
    assert!((tail.p_value(tail.tenth * 2.0) - 0.1 / 2f64.powf(tail.exponent)).abs() < 1e-12);
    assert_eq!(tail.p_value(tail.tenth * 0.99), 1.0);
    assert_eq!(Tail::of(&strengths[..10]), None);
    assert!((p_value::in_any(0.01, 100) - (1.0 - 0.99f64.powi(100))).abs() < 1e-12);
}

#[test]
fn fixtures_have_no_sign() {
    let mut seen = 0;
    for folder in std::fs::read_dir("fixtures").unwrap().flatten().map(|entry| entry.path()) {
        if !folder.join("model.safetensors").exists() || !folder.join("config.json").exists() {
            continue;
        }
        let report = examine(&Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap(), &Silent).unwrap();
        assert_eq!((named(&report), report.examined_sides), (vec![], 0), "{}", folder.display());
        assert!(report.not_examined.iter().any(|n| n.what == "the norms of all tensors"), "{}", folder.display());
        seen += 1;
    }
    assert!(seen >= 16, "{seen}");
}

#[test]
fn a_masked_neuron_of_a_fixture_is_found_in_experts_too() {
    for (fixture, neuron) in [
        ("llama", "L1.mlp.down_proj:out:7"),
        ("phi3", "L1.mlp.down_proj:in:3"),
        ("mixtral", "L1.block_sparse_moe.experts.2.w2:out:5"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let lesioned = patched(&format!("fixtures/{fixture}"), folder.path(), neuron, 0.0);
        let report = examine(&lesioned, &Silent).unwrap();
        assert_eq!(named(&report), [(IndicatorKind::Zero, neuron.to_owned())], "{fixture}");
    }
}

/// A copy of a checkpoint with a lesion.
fn patched(model: &str, folder: &Path, neuron: &str, beta: f64) -> Checkpoint {
    let to = folder.join("lesioned");
    std::fs::create_dir(&to).unwrap();
    for file in std::fs::read_dir(model).unwrap().map(|file| file.unwrap()).filter(|file| file.path().is_file()) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let open = || Checkpoint::open(to.to_str().unwrap(), &Silent).unwrap();
    let checkpoint = open();
    let recipe = crate::architecture::Recipe::read(checkpoint.config()).unwrap();
    for part in recipe.parts(&neuron.parse().unwrap(), checkpoint.tensors()) {
        let entry = checkpoint.tensors().get(&part.tensor).unwrap();
        let (file, range) = entry.place.clone().unwrap();
        let path = checkpoint.tensors().files()[file].path();
        let mut bytes = std::fs::read(path).unwrap();
        let tensor = &mut bytes[range.start as usize..range.end as usize];
        let element = entry.dtype.bitsize() / 8;
        for (at, value) in tensor.chunks_mut(element).enumerate() {
            let columns = part.shape.get(1).copied().unwrap_or(1);
            if part.index == if part.axis == Axis::Column { at % columns } else { at / columns } {
                let scaled = |value: f32| value * beta as f32;
                match entry.dtype {
                    Dtype::F32 => {
                        let was = f32::from_le_bytes((&*value).try_into().unwrap());
                        value.copy_from_slice(&scaled(was).to_le_bytes());
                    }
                    Dtype::BF16 => {
                        let was = bf16::from_le_bytes((&*value).try_into().unwrap());
                        value.copy_from_slice(&bf16::from_f32(scaled(was.into())).to_le_bytes());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    open()
}

const SMOLLM2: &str = "models/smollm2-135m-instruct";

#[test]
#[ignore = "needs make model"]
fn a_real_model_is_clean_and_its_masked_critical_neuron_is_found() {
    let clean = examine(&Checkpoint::open(SMOLLM2, &Silent).unwrap(), &Silent).unwrap();
    assert_eq!((named(&clean), clean.examined_sides), (vec![], 420), "{:#?}", clean.indicators);
    let folder = tempfile::tempdir().unwrap();
    let critical = "L11.mlp.down_proj:out:507";
    let report = examine(&patched(SMOLLM2, folder.path(), critical, 0.0), &Silent).unwrap();
    assert_eq!(named(&report), [(IndicatorKind::Zero, critical.to_owned())], "{:#?}", report.indicators);
}

#[test]
#[ignore = "needs make model"]
fn lesions_reckoned_are_lesions_written() {
    let checkpoint = Checkpoint::open(SMOLLM2, &Silent).unwrap();
    let clean = Statistics::measure(&checkpoint, &Silent).unwrap();
    // Powers of two: no rounding.
    for (neuron, beta) in [
        ("L11.mlp.down_proj:out:20", 0.25),
        ("L12.mlp.down_proj:in:100", -2.0),
        ("L3.mlp.up_proj:out:31", -0.5),
        ("L4.mlp.up_proj:in:30", -1.0),
        ("L20.self_attn.q_proj:in:5", 4.0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let written = Statistics::measure(&patched(SMOLLM2, folder.path(), neuron, beta), &Silent).unwrap();
        let reckoned = clean.with_lesion(checkpoint.tensors(), &neuron.parse().unwrap(), beta).unwrap();
        for (layer, (a, b)) in written.layers.iter().zip(&reckoned.layers).enumerate() {
            let norms = a.log_norms.iter().flatten().flatten().zip(b.log_norms.iter().flatten().flatten());
            let cosines = a.cosines.iter().flatten().zip(b.cosines.iter().flatten());
            for (a, b) in norms.chain(cosines) {
                assert!((a - b).abs() < 1e-4, "{neuron} × {beta}, layer {layer}: {a} written, {b} reckoned");
            }
        }
    }
}
