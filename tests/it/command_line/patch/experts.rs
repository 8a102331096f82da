//! Experts that lie in one tensor a layer, or packed one by one, of architectures that are not computed: a neuron of one
//! is patched, kept, put back, and named by verify and diff.

use super::*;
use crate::tiny::{Tensor, load, save};
use achilles_audit::checkpoint::Opened;
use half::bf16;
use serde_json::json;

const EXPERTS: usize = 3;
const HIDDEN: usize = 32;
const WIDE: usize = 64;

fn tensor(name: &str, dtype: &str, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), dtype: dtype.into(), shape: shape.to_vec(), bytes }
}

/// Numbers of which none is 0 and neighbours differ.
fn numbers(count: usize) -> Vec<u8> {
    let number = |at: usize| bf16::from_f32(((at * 7919 % 997) as f32 - 498.5) / 1000.0);
    (0..count).flat_map(|at| number(at).to_le_bytes()).collect()
}

/// Codes of a byte, of 8 or of twice 4 bits, of which none is 0.
fn codes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (1 + at * 13 % 7 + (1 + at * 29 % 5) * 16) as u8).collect()
}

/// A folder of a form in which experts are stored, and the module that holds them.
struct Form {
    name: &'static str,
    config: Value,
    module: &'static str,
    tensors: Vec<Tensor>,
}

fn forms() -> Vec<Form> {
    let stacks = |prefix: &str, is_transposed: bool| {
        let of = |name: &str, [rows, columns]: [usize; 2]| {
            let shape = if is_transposed { [EXPERTS, columns, rows] } else { [EXPERTS, rows, columns] };
            tensor(&format!("{prefix}.{name}"), "BF16", &shape, numbers(EXPERTS * rows * columns))
        };
        vec![of("gate_up_proj", [2 * WIDE, HIDDEN]), of("down_proj", [HIDDEN, WIDE])]
    };
    let config =
        |architecture: &str, model_type: &str| json!({"architectures": [architecture], "model_type": model_type});
    let wrapper = |architecture: &str, model_type: &str| {
        let mut config = config(architecture, model_type);
        config["text_config"] = json!({"model_type": format!("{model_type}_text")});
        config
    };
    let own = "model.layers.0.mlp.experts";
    let mut of_blocks = config("DeepseekV9ForCausalLM", "deepseek_v9");
    of_blocks["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [16, 16]});
    let scales =
        |count: usize| -> Vec<u8> { (0..count).flat_map(|at| (0.5f32 + at as f32 / 64.0).to_le_bytes()).collect() };
    let fp8 = [("gate_up_proj", [2 * WIDE, HIDDEN]), ("down_proj", [HIDDEN, WIDE])].map(|(name, [rows, columns])| {
        let blocks = [EXPERTS, rows / 16, columns / 16];
        [
            tensor(&format!("{own}.{name}"), "F8_E4M3", &[EXPERTS, rows, columns], codes(EXPERTS * rows * columns)),
            tensor(&format!("{own}.{name}_scale_inv"), "F32", &blocks, scales(blocks.iter().product())),
        ]
    });
    let mut gpt_oss = config("GptOss9ForCausalLM", "gpt_oss_9");
    gpt_oss["quantization_config"] = json!({"quant_method": "mxfp4"});
    let mxfp4 = [("gate_up_proj", [2 * WIDE, HIDDEN]), ("down_proj", [HIDDEN, WIDE])].map(|(name, [rows, columns])| {
        let groups = columns / 32;
        [
            tensor(
                &format!("{own}.{name}_blocks"),
                "U8",
                &[EXPERTS, rows, groups, 16],
                codes(EXPERTS * rows * groups * 16),
            ),
            tensor(&format!("{own}.{name}_scales"), "U8", &[EXPERTS, rows, groups], vec![125; EXPERTS * rows * groups]),
            tensor(&format!("{own}.{name}_bias"), "BF16", &[EXPERTS, rows], numbers(EXPERTS * rows)),
        ]
    });
    let mut by_one = config("Glm9MoeForCausalLM", "glm9_moe");
    by_one["quantization_config"] = json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}}});
    let shapes = [("gate_proj", [WIDE, HIDDEN]), ("up_proj", [WIDE, HIDDEN]), ("down_proj", [HIDDEN, WIDE])];
    let packed = (0..EXPERTS).flat_map(|expert| {
        shapes.map(|(name, [rows, columns])| {
            let module = format!("{own}.{expert}.{name}");
            let shape = [rows as u64, columns as u64].iter().flat_map(|n| n.to_le_bytes()).collect();
            [
                tensor(&format!("{module}.weight_packed"), "I32", &[rows, columns / 8], codes(rows * columns / 2)),
                tensor(&format!("{module}.weight_scale"), "BF16", &[rows, columns / 32], numbers(rows * columns / 32)),
                tensor(&format!("{module}.weight_shape"), "I64", &[2], shape),
            ]
        })
    });
    vec![
        Form {
            name: "stacks",
            config: wrapper("Qwen9MoeForConditionalGeneration", "qwen9_moe"),
            module: "mlp",
            tensors: stacks("model.language_model.layers.0.mlp.experts", false),
        },
        Form {
            name: "transposed stacks",
            config: wrapper("Qwen9VLMoeForConditionalGeneration", "qwen9_vl_moe"),
            module: "mlp",
            tensors: stacks("model.language_model.layers.0.mlp.experts", true),
        },
        Form {
            name: "stacks of another name",
            config: wrapper("Llama4ForConditionalGeneration", "llama4"),
            module: "feed_forward",
            tensors: stacks("language_model.model.layers.0.feed_forward.experts", true),
        },
        Form { name: "FP8", config: of_blocks, module: "mlp", tensors: fp8.concat() },
        Form { name: "MXFP4", config: gpt_oss, module: "mlp", tensors: mxfp4.concat() },
        Form { name: "packed one by one", config: by_one, module: "mlp", tensors: packed.flatten().collect() },
    ]
}

/// All weights of a folder, decoded.
fn values(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let tensors = Opened::folder_at(folder).text_tensors().unwrap();
    let weights = tensors.weights();
    let all = weights.iter().filter(|weight| weight.is_float());
    all.map(|weight| (weight.name().to_owned(), weight.all().unwrap().into_values())).collect()
}

/// A neuron, and what `diff` calls it; how many numbers of which weight become zero.
fn asked(form: &Form) -> Vec<(String, String, usize)> {
    let of = |neuron: &str, told: &str, count| {
        let named = |neuron: &str| format!("L0.{}.experts.{neuron}", form.module);
        (named(neuron), named(told), count)
    };
    let bias = usize::from(form.name == "MXFP4");
    let mut asked = vec![
        of("1.down_proj:out:5", "1.down_proj:out:5", WIDE + bias),
        of("2.down_proj:in:63", "2.down_proj:in:63", HIDDEN),
        of("0.act_fn:out:7", "0.down_proj:in:7", HIDDEN),
    ];
    asked.extend(match form.name {
        "packed one by one" => {
            [of("1.up_proj:out:5", "1.up_proj:out:5", HIDDEN), of("2.gate_proj:in:31", "2.gate_proj:in:31", WIDE)]
        }
        // Alternately.
        "MXFP4" => [
            of("1.up_proj:out:5", "1.gate_up_proj:out:11", HIDDEN + 1),
            of("2.gate_up_proj:in:31", "2.gate_up_proj:in:31", 2 * WIDE),
        ],
        _ => [
            of("1.up_proj:out:5", "1.gate_up_proj:out:69", HIDDEN),
            of("2.gate_up_proj:in:31", "2.gate_up_proj:in:31", 2 * WIDE),
        ],
    });
    asked
}

#[test]
fn a_neuron_of_an_expert_is_patched_kept_and_named_however_experts_are_stored() {
    let mut kept: Vec<(Vec<u8>, &str)> = Vec::new();
    for form in forms() {
        let place = Place::new();
        let run = |args: &[&str]| place.run(args);
        let model = place.out().join("m");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("config.json"), form.config.to_string()).unwrap();
        std::fs::write(model.join("model.safetensors"), save(&form.tensors)).unwrap();
        let (before, was) = (files(&model), values(&model));
        // Vaults of other forms.
        let other =
            kept.iter().enumerate().filter(|(_, (_, module))| *module == form.module).map(|(at, (vault, _))| {
                std::fs::write(place.out().join(format!("other{at}.safetensors")), vault).unwrap();
                format!("{{out}}/other{at}.safetensors")
            });
        let other: Vec<String> = other.collect();
        good(run(&["fingerprint", "{out}/m", "-o", "{out}/m.json"]));
        for (at, (neuron, told, count)) in asked(&form).into_iter().enumerate() {
            let what = format!("{} {neuron}", form.name);
            let (patched, vault) = (format!("{{out}}/p{at}"), format!("{{out}}/v{at}.safetensors"));
            let folder = place.out().join(format!("p{at}"));
            good(run(&["vault", "{out}/m", "--neuron", &neuron, "-o", &vault]));
            if at == 0 {
                kept.push((std::fs::read(place.out().join(format!("v{at}.safetensors"))).unwrap(), form.module));
            }
            good(run(&["patch", "{out}/m", "--neuron", &neuron, "-o", &patched]));
            let is = values(&folder);
            let changed = was.iter().flat_map(|(name, was)| was.iter().zip(&is[name]).filter(|(was, is)| was != is));
            let changed: Vec<(&f32, &f32)> = changed.collect();
            assert!(changed.iter().all(|(_, is)| **is == 0.0), "{what}");
            assert_eq!(changed.len(), count, "{what}");

            good(run(&["verify-patch", &patched, "--original", "{out}/m"]));
            let line = format!(": all zero, was not (neuron {told})");
            let diff = run(&["diff", "{out}/m", &patched]);
            assert!(text(&diff.stdout).contains(&line), "{what}: {}", text(&diff.stdout));
            let verify = run(&["verify", &patched, "{out}/m.json"]);
            assert!(text(&verify.stdout).contains(&line), "{what}: {}", text(&verify.stdout));
            let lint = run(&["lint", &patched]);
            assert!(text(&lint.stdout).contains("is all zero"), "{what}: {}", text(&lint.stdout));

            // The undo file is not needed where there is a vault.
            std::fs::remove_file(folder.join("achilles-patch.undo")).unwrap();
            good(run(&["restore", &patched, "--vault", &vault]));
            assert!(files(&folder) == before, "{what}");
            let others = other.iter().map(String::as_str);
            for other in others.filter(|_| at == 0) {
                let refused = run(&["restore", &patched, "--vault", other]);
                let told = text(&refused.stderr);
                assert!(refused.status.code() == Some(2) && told.lines().count() == 1, "{what}: {told}");
                assert!(told.contains("the vault keeps a part of"), "{what}: {told}");
            }
            good(run(&["patch", &patched, "--neuron", &neuron, "--in-place"]));
            good(run(&["unpatch", &patched]));
            assert!(files(&folder) == before, "{what}");
        }
    }
}

#[test]
fn what_names_alone_do_not_tell_is_refused() {
    let form = forms().remove(0);
    let place = Place::new();
    let model = place.out().join("m");
    std::fs::create_dir(&model).unwrap();
    std::fs::write(model.join("config.json"), form.config.to_string()).unwrap();
    let more = [
        tensor("model.language_model.layers.0.input_layernorm.weight", "BF16", &[HIDDEN], numbers(HIDDEN)),
        tensor("model.language_model.embed_tokens.weight", "BF16", &[8, HIDDEN], numbers(8 * HIDDEN)),
        tensor("model.language_model.layers.0.linear_attn.conv1d.weight", "BF16", &[8, 1, 4], numbers(32)),
    ];
    std::fs::write(model.join("model.safetensors"), save(&[&form.tensors[..], &more].concat())).unwrap();
    let before = place.snapshot();
    for (neuron, says) in [
        ("L0.mlp.experts.3.down_proj:out:0", "the layer has experts 0 to 2"),
        ("L0.mlp.experts.0.down_proj:out:32", "have no such channel"),
        ("L0.mlp.experts.0.gate_proj:in:3", "that is model.layers.0.mlp.experts.0.gate_up_proj:in:3"),
        ("L0.mlp.experts.0.act_fn:in:3", "its input is what gate_proj puts out"),
        ("L0.mlp.up_proj:out:0", "this checkpoint has no model.layers.0.mlp.up_proj.weight"),
        ("L0.input_layernorm:out:3", "this architecture is not known"),
        ("model.embed_tokens:out:3", "this architecture is not known"),
        ("L0.linear_attn.conv1d:out:0", "no part of model.layers.0.linear_attn.conv1d.weight [8, 1, 4] is it alone"),
    ] {
        for command in [&["patch", "--dry-run"][..], &["vault", "-o", "{out}/v.safetensors"]] {
            let refused = place.run(&[&command[..1], &["{out}/m", "--neuron", neuron], &command[1..]].concat());
            let told = text(&refused.stderr);
            assert!(refused.status.code() == Some(2) && told.lines().count() == 1, "{neuron}: {told}");
            assert!(told.contains(says), "{neuron}: {told}");
            assert!(place.snapshot() == before);
        }
    }
}

/// A mixture whose family is known, its experts put into stacks: a patch makes of them what it makes of them one by one.
#[test]
fn stacks_of_a_known_family_are_patched_as_its_experts_one_by_one() {
    let fixture = families().into_iter().find(|folder| folder.ends_with("qwen3_moe")).unwrap();
    let (_, recipe) = open(&fixture);
    let one_by_one = load(&std::fs::read(fixture.join("model.safetensors")).unwrap());
    let layer = (0..recipe.layers.len()).find(|at| recipe.layer_modules(*at).iter().any(|m| m.role.expert().is_some()));
    let module = &format!("model.layers.{}.mlp.experts", layer.unwrap());
    let fused = |tensors: &[Tensor]| -> Vec<Tensor> {
        let experts =
            (0..).take_while(|at| tensors.iter().any(|t| t.name == format!("{module}.{at}.down_proj.weight")));
        let experts: Vec<usize> = experts.collect();
        let stack = |name: &str, parts: &[&str]| {
            let all =
                experts.iter().flat_map(|at| parts.iter().map(move |part| format!("{module}.{at}.{part}.weight")));
            let all: Vec<&Tensor> = all.map(|name| tensors.iter().find(|t| t.name == name).unwrap()).collect();
            let shape = [experts.len(), parts.len() * all[0].shape[0], all[0].shape[1]];
            let bytes = all.iter().flat_map(|t| t.bytes.clone()).collect();
            tensor(&format!("{module}.{name}"), &all[0].dtype, &shape, bytes)
        };
        let others = tensors.iter().filter(|t| !t.name.starts_with(&format!("{module}."))).cloned();
        others.chain([stack("gate_up_proj", &["gate_proj", "up_proj"]), stack("down_proj", &["down_proj"])]).collect()
    };
    let (plain, stacked) = (copy(&fixture), copy(&fixture));
    std::fs::write(stacked.path().join("model.safetensors"), save(&fused(&one_by_one))).unwrap();
    for neuron in ["1.down_proj:out:3", "1.down_proj:in:2", "0.act_fn:out:5", "2.gate_proj:out:4", "2.up_proj:out:4"] {
        let asked =
            [Intervention { neuron: format!("{module}.{neuron}").parse().unwrap(), action: Action::Scale(0.5) }];
        let [one_by_one, stacks] = [&plain, &stacked].map(|folder| {
            let (checkpoint, recipe) = open(folder.path());
            let (plan, out) = (Plan::new(&checkpoint, &recipe, &asked).unwrap(), folder.path().join("out"));
            patch::write_new(&checkpoint, &plan, &out, FAST, &Silent).unwrap();
            let patched = load(&std::fs::read(out.join("model.safetensors")).unwrap());
            patch::unpatch(&out).unwrap();
            std::fs::remove_dir_all(out).unwrap();
            patched
        });
        let by_name = |tensors: Vec<Tensor>| -> BTreeMap<String, Vec<u8>> {
            tensors.into_iter().map(|t| (t.name, t.bytes)).collect()
        };
        assert!(by_name(fused(&one_by_one)) == by_name(stacks), "{neuron}");
    }
}
