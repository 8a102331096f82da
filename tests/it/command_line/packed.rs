//! Packed models through every command that runs them: the figures are those of the decoded weights stored in F32.

use crate::tiny::{Place, Tensor, load, save};
use achilles_audit::checkpoint::packing::NumberType;
use serde_json::{Value, json};
use std::path::Path;

const TEXT: [&str; 2] = ["--text", "Pitchfork called it daring"];
const SEARCH: [&str; 3] = ["--samples=2", "--epsilon=0.02", "--max-neurons=20"];
/// Rows and columns of a block.
const BLOCK: usize = 16;
const READ: &str = "decoded from FP8; activations in f32";

/// The tiny llama in FP8 blocks in `{out}/packed`, what its codes stand for in `{model}`, and prompts.
fn place() -> Place {
    let place = Place::new();
    let packed = place.out().join("packed");
    std::fs::create_dir(&packed).unwrap();
    let read = |name: &str| std::fs::read(place.model().join(name)).unwrap();
    let mut config: Value = serde_json::from_slice(&read("config.json")).unwrap();
    config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK]});
    std::fs::write(packed.join("config.json"), config.to_string()).unwrap();
    std::fs::write(packed.join("tokenizer.json"), read("tokenizer.json")).unwrap();
    let mut dense = load(&read("model.safetensors"));
    let mut stored = Vec::new();
    for tensor in &mut dense {
        match tensor.name.ends_with("_proj.weight") {
            true => stored.extend(pack(tensor)),
            false => stored.push(tensor.clone()),
        }
    }
    std::fs::write(packed.join("model.safetensors"), save(&stored)).unwrap();
    std::fs::write(place.model().join("model.safetensors"), save(&dense)).unwrap();
    let prompts = |words: [&str; 6]| {
        let all = words.iter().flat_map(|one| words.map(|other| format!("{one} {other}\n")));
        all.collect::<String>()
    };
    let prompts = [
        prompts(["The", "capital", "river", "night", "Paris", "we"]),
        prompts(["runs", "France", "to sea", "Rome", "a", "street"]),
    ];
    for (name, text) in ["record.txt", "check.txt"].iter().zip(prompts) {
        std::fs::write(place.model().parent().unwrap().join(name), text).unwrap();
    }
    place
}

/// Rounds a matrix to what FP8 codes with a scale a block hold; the codes and the scales.
fn pack(tensor: &mut Tensor) -> [Tensor; 2] {
    let [rows, columns] = *tensor.shape.as_slice() else { panic!("{} is no matrix", tensor.name) };
    let mut values: Vec<f32> = NumberType::F32.decode_all(&tensor.bytes);
    let mut codes = vec![0; values.len()];
    let mut scales = Vec::new();
    for (top, left) in (0..rows).step_by(BLOCK).flat_map(|top| (0..columns).step_by(BLOCK).map(move |left| (top, left)))
    {
        let bottom = rows.min(top + BLOCK);
        let places: Vec<usize> = (top..bottom)
            .flat_map(|row| (left..columns.min(left + BLOCK)).map(move |column| row * columns + column))
            .collect();
        let scale = places.iter().map(|at| values[*at].abs()).fold(0f32, f32::max) / 448.0;
        for at in places {
            let mut code = Vec::new();
            NumberType::F8E4M3.encode(f64::from(values[at] / scale), &mut code);
            values[at] = NumberType::F8E4M3.decode_all::<f32>(&code)[0] * scale;
            codes[at] = code[0];
        }
        scales.extend(scale.to_le_bytes());
    }
    tensor.bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![rows.div_ceil(BLOCK), columns.div_ceil(BLOCK)];
    [
        Tensor { dtype: "F8_E4M3".into(), bytes: codes, ..tensor.clone() },
        Tensor { name: format!("{}_scale_inv", tensor.name), dtype: "F32".into(), shape, bytes: scales },
    ]
}

fn run(place: &Place, args: &[&str]) -> String {
    let output = place.run(args);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code().is_some_and(|code| code < 2) && told.is_empty(), "{args:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// Without what names the model; how often weights were said to be packed.
fn figures(json: &str) -> (Value, usize) {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| {
                    !["source", "config_sha256", "weights", "timing_s", "baseline_sha256"].contains(&key.as_str())
                });
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(json).unwrap();
    strip(&mut value);
    (value, json.matches(READ).count())
}

#[test]
fn commands_give_the_figures_of_the_decoded_weights() {
    let place = place();
    let neuron = ["--neuron", "L1.mlp.down_proj:out:3"];
    let prompt = ["--prompts", "{in}/record.txt", "--max-new-tokens=2"];
    let commands: [(&[&str], usize); 4] = [
        (&[&["perplexity", "MODEL"], &TEXT[..], &neuron].concat(), 1),
        (&[&["locate", "MODEL"], &TEXT[..], &SEARCH].concat(), 1),
        (&[&["compare", "MODEL", "MODEL"], &TEXT[..], &SEARCH].concat(), 3),
        (&[&["probe", "MODEL"], &neuron[..], &prompt].concat(), 1),
    ];
    let of = |args: &[&str], model: &'static str| -> Vec<String> {
        args.iter().map(|arg| arg.replace("MODEL", model)).collect()
    };
    for (args, told) in commands {
        let json = |model| {
            let args = of(args, model);
            let args: Vec<&str> = args.iter().map(String::as_str).chain(["--format=json"]).collect();
            figures(&run(&place, &args))
        };
        let (dense, packed) = (json("{model}"), json("{out}/packed"));
        assert_eq!((&packed.0, packed.1, dense.1), (&dense.0, told, 0), "{args:?}");
        let args = of(args, "{out}/packed");
        let table = run(&place, &args.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(table.contains(&format!("weights {READ}\n")), "{table}");
    }
}

#[test]
fn a_packed_model_is_like_the_baseline_of_its_decoded_weights() {
    let place = place();
    let record = |model: &str, to: &str| {
        let table = run(&place, &["monitor", "record", model, "--prompts", "{in}/record.txt", "-o", to]);
        let path = to.replace("{out}", place.out().to_str().unwrap());
        (figures(&std::fs::read_to_string(Path::new(&path)).unwrap()), table)
    };
    let (dense, packed) = (record("{model}", "{out}/dense.json"), record("{out}/packed", "{out}/packed.json"));
    assert_eq!(dense.0.0, packed.0.0);
    assert_eq!((dense.0.1, packed.0.1, packed.1.contains(&format!("weights {READ}\n"))), (0, 1, true));
    let check = |model: &str, more: &[&str]| {
        let args = ["monitor", "check", model, "--prompts", "{in}/check.txt", "--baseline", "{out}/dense.json"];
        run(&place, &[&args, more, &["--false-alarm-rate=0.1"]].concat())
    };
    let [dense, packed] = ["{model}", "{out}/packed"].map(|model| figures(&check(model, &["--format=json"])));
    assert_eq!((&packed.0, packed.1, dense.1), (&dense.0, 1, 0));
    assert!(check("{out}/packed", &[]).contains(&format!("weights {READ}\n")));
    let scan = ["scan", "{out}/packed", "--format=json"];
    let output = place.run(&[&scan, &TEXT[..], &SEARCH].concat());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["model"]["weights"], &found["critical_set"]["model"]["weights"]), (&json!(READ), &json!(READ)));
}
