//! `monitor record` and `monitor check`.

use crate::tiny::Place;
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::{Arithmetic, ComputeSettings, DeviceChoice, Model};
use achilles_audit::monitor::{Distribution, Tokens, observe};
use achilles_audit::neuron::{Side, Site};
use achilles_audit::progress::Silent;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

const RECORD: [&str; 8] =
    ["monitor", "record", "{model}", "--prompts", "{in}/record.txt", "-o", "{out}/base.json", "--max-tokens=24"];

/// A place with prompts: 120 to record, 10 others to check.
fn place() -> Place {
    let place = Place::new();
    let words =
        ["The", "capital", "of", "France", "is", "Paris", "a", "river", "runs", "to", "sea", "at", "night", "we"];
    let mut state = 1u64;
    let mut prompt = || {
        let mut word = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            words[(state >> 33) as usize % words.len()]
        };
        let length = 4 + word().len();
        (0..length).map(|_| word()).collect::<Vec<_>>().join(" ")
    };
    let lines = |n, prompt: &mut dyn FnMut() -> String| (0..n).map(|_| prompt() + "\n").collect::<String>();
    write(&place, "record.txt", &lines(120, &mut prompt));
    write(&place, "check.txt", &lines(10, &mut prompt));
    // A channel with massive activations, as models that were trained have them.
    done(&place, &["patch", "{model}", "-o", "{out}/massive", "--neuron", NEURON, "--beta", "200"]);
    let weights = "model.safetensors";
    std::fs::copy(place.out().join("massive").join(weights), place.model().join(weights)).unwrap();
    place
}

const NEURON: &str = "L1.mlp.down_proj:out:7";

fn write(place: &Place, name: &str, text: &str) {
    std::fs::write(place.model().parent().unwrap().join(name), text).unwrap();
}

fn done(place: &Place, args: &[&str]) -> Output {
    let output = place.run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// The exit code and the result of a check.
fn check(place: &Place, model: &str, more: &[&str]) -> (i32, Value) {
    let args = ["monitor", "check", model, "--baseline={out}/base.json", "--prompts={in}/check.txt", "--format=json"];
    let output = place.run(&[&args, more].concat());
    let code = output.status.code().unwrap();
    assert!(code < 2, "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "achilles-audit/activation-check/v1");
    (code, document["result"].clone())
}

#[test]
fn a_lesion_is_told_and_clean_prompts_are_not() {
    let place = place();
    done(&place, &RECORD);
    let recorded = std::fs::read(place.out().join("base.json")).unwrap();
    done(&place, &RECORD);
    assert_eq!(std::fs::read(place.out().join("base.json")).unwrap(), recorded, "recording is not deterministic");

    let (code, clean) = check(&place, "{model}", &[]);
    assert_eq!((code, &clean["alarm"], clean["prompts"].as_u64()), (0, &json!(false), Some(10)), "{clean}");
    assert_eq!(clean["sites_examined"], clean["sites"]);
    assert_eq!(check(&place, "{model}", &[]).1, clean, "checking is not deterministic");

    for beta in ["0", "0.3"] {
        let out = format!("{{out}}/lesioned-{beta}");
        done(&place, &["patch", "{model}", "-o", &out, "--neuron", NEURON, "--beta", beta]);
        let (code, result) = check(&place, &out, &[]);
        assert_eq!((code, &result["alarm"]), (1, &json!(true)), "{result}");
        assert!(result["prompts_outside"].as_u64().unwrap() >= 8, "{result}");
        assert!(result["p_value"].as_f64().unwrap() <= 0.01);
        let first = &result["outside"][0];
        assert_eq!(first["site"], "model.layers.1.mlp.down_proj:out", "{result}");
        assert_eq!(first["baseline_channel"][0], 7);
    }
    done(&place, &["patch", "{model}", "-o", "{out}/innocent", "--neuron", "L0.mlp.down_proj:out:3"]);
    assert_eq!(check(&place, "{out}/innocent", &[]).0, 0);

    let table =
        place.run(&["monitor", "check", "{out}/lesioned-0", "--baseline={out}/base.json", "--prompts={in}/check.txt"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("ALARM: 10 of 10 prompts outside") && table.contains("L1.mlp.down_proj:out"), "{table}");
}

#[test]
fn a_weight_that_is_no_number_is_found() {
    let place = place();
    done(&place, &RECORD);
    let file = place.model().join("model.safetensors");
    for (value, nan, inf) in [(f32::NAN, true, false), (f32::INFINITY, false, true)] {
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        let name = "model.layers.1.mlp.up_proj.weight";
        let weight = &tensors[name];
        let mut values = weight.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[0] = value;
        let weight = Tensor::from_vec(values, weight.shape(), &Device::Cpu).unwrap();
        tensors.insert(name.into(), weight);
        std::fs::create_dir_all(place.out().join("broken")).unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::copy(place.model().join(file), place.out().join("broken").join(file)).unwrap();
        }
        candle_core::safetensors::save(&tensors, place.out().join("broken/model.safetensors")).unwrap();
        let (code, result) = check(&place, "{out}/broken", &[]);
        let first = &result["not_finite"][0];
        assert_eq!((code, &first["site"]), (1, &json!("model.layers.1.mlp.up_proj:out")), "{result}");
        assert_eq!((first["nan"].as_u64() > Some(0), first["inf"].as_u64() > Some(0)), (nan, inf), "{first}");
    }
}

#[test]
fn dumped_norms_are_checked() {
    let place = place();
    done(&place, &RECORD);
    let baseline: Value = serde_json::from_slice(&std::fs::read(place.out().join("base.json")).unwrap()).unwrap();
    let site = baseline["sites"].as_array().unwrap().iter().find(|s| s["site"] == "model.layers.1.mlp.down_proj:out");
    let range = &site.unwrap()["first"]["l2"]["positions"]["range"];
    let usual = (range[0].as_f64().unwrap() * range[1].as_f64().unwrap()).sqrt();
    let dump = |l2: f64, extra: &str| {
        let line = |prompt| {
            json!({"prompt": prompt, "site": "model.layers.1.mlp.down_proj:out", "position": 0, "l2": l2,
                "max_abs": l2 * 0.99, "channel": 7})
        };
        (0..10).map(|p| format!("{}\n", line(p))).collect::<String>() + extra
    };
    let run = |text: &str| {
        write(&place, "dump.jsonl", text);
        place.run(&["monitor", "check", "--activations={in}/dump.jsonl", "--baseline={out}/base.json"])
    };
    let code = |text: &str| run(text).status.code();
    assert_eq!(code(&dump(usual, "")), Some(0));
    assert_eq!(code(&dump(usual / 1000.0, "")), Some(1));
    let nan =
        r#"{"prompt":10,"site":"L1.mlp.down_proj:out","position":3,"l2":null,"max_abs":null,"channel":null,"nan":2}"#;
    assert_eq!(code(&dump(usual, nan)), Some(1));

    let other = r#"{"prompt":0,"site":"lm_head:out","position":0,"l2":1,"max_abs":1,"channel":0}"#;
    let output = run(&dump(usual, other));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 site is not in the baseline"), "{output:?}");
    for (line, says) in [
        ("{\n", "line 11: expected {\"prompt\""),
        (r#"{"prompt":0,"site":"L1.mlp.down_proj:out","position":0,"l2":-1,"max_abs":1,"channel":0}"#, "l2 is -1"),
        (r#"{"prompt":0,"site":"L1.mlp.down_proj:out","position":0,"l2":1,"max_abs":1,"channel":40}"#, "channel is 40"),
        (r#"{"prompt":0,"site":"L1.mlp.down_proj:out","position":0}"#, "line 11: expected l2, max_abs and channel"),
        (r#"{"prompt":0,"site":"here","position":0,"l2":1,"max_abs":1,"channel":0}"#, "line 11: "),
    ] {
        refused(&run(&dump(usual, line)), says);
    }
    refused(&run(&" ".repeat(1 << 17)), "line 1: is longer than 65536 bytes");
    refused(&run(""), "has no line of a site of the baseline");
}

fn refused(output: &Output, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{says}: {said}");
    assert!(said.contains(says) && said.lines().count() == 1, "expected {says:?}, found {said:?}");
}

#[test]
fn what_cannot_be_recorded_or_checked_is_refused() {
    let place = place();
    write(&place, "empty.txt", " \n\n");
    write(&place, "few.txt", "The capital\nof France\nis Paris\n");
    write(&place, "bad.jsonl", "{\"text\": \"The capital of France\"}\n{\"txt\": \"is Paris\"}\n");
    let record = |text: &str| {
        let text = format!("--prompts={{in}}/{text}");
        place.run(&["monitor", "record", "{model}", &text, "-o={out}/none.json"])
    };
    refused(&record("empty.txt"), "no prompt found");
    refused(&record("few.txt"), "needs 4 prompts at least");
    refused(&record("bad.jsonl"), "bad.jsonl: line 2: expected a JSON object such as {\"text\"");
    refused(&record("missing.txt"), "missing.txt");
    assert!(!place.out().join("none.json").exists());

    done(&place, &RECORD);
    let base = std::fs::read_to_string(place.out().join("base.json")).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut document: Value = serde_json::from_str(&base).unwrap();
        change(&mut document);
        document.to_string()
    };
    let hostile: [(String, &str); 10] = [
        (base.trim_end().trim_end_matches('}').to_owned(), "is not a baseline: EOF"),
        ("{}".into(), "is not a baseline: missing field `schema`"),
        (with(&|d| d["schema"] = json!("achilles-audit/patch/v1")), "its schema is"),
        (with(&|d| d["calibration_scores"] = json!([])), "no calibration scores"),
        (with(&|d| d["calibration_scores"] = json!([1.0, 2.0])), "largest first"),
        (with(&|d| d["settings"]["max_tokens"] = json!(0)), "max-tokens is 0"),
        (with(&|d| d["sites"][0]["first"]["channels"] = json!({"4000000000": 1})), "has channel 4000000000 of"),
        (with(&|d| d["sites"][0]["first"]["l2"]["positions"]["zeros"] = json!(u64::MAX)), "absurdly large"),
        (with(&|d| d["sites"][0]["rest"]["l2"]["largest"]["range"] = json!([2.0, 1.0])), "its range is none"),
        (with(&|d| d["sites"][1] = d["sites"][0].clone()), "is there twice"),
    ];
    let check =
        |more: &[&str]| place.run(&[&["monitor", "check", "{model}", "--prompts={in}/check.txt"], more].concat());
    for (text, says) in hostile {
        write(&place, "hostile.json", &text);
        refused(&check(&["--baseline={in}/hostile.json"]), says);
    }
    write(&place, "other.json", &with(&|d| d["sites"][0]["channels"] = json!(4096)));
    refused(&check(&["--baseline={in}/other.json"]), "is of another model");
    write(&place, "deeper.json", &with(&|d| d["sites"][0]["site"] = json!("model.layers.9.input_layernorm:out")));
    refused(&check(&["--baseline={in}/deeper.json"]), "this one has no model.layers.9");
    refused(&check(&["--baseline={out}/base.json", "--false-alarm-rate=0"]), "the false-alarm rate is 0");
    refused(&check(&["--baseline={out}/base.json", "--false-alarm-rate=1e-30"]), "cannot be told from chance");
    assert_eq!(check(&[]).status.code(), Some(2), "a check without a baseline");
    assert_eq!(place.run(&["monitor", "check", "--baseline={out}/base.json"]).status.code(), Some(2));
}

/// The largest |x| of each position and the norm, computed here from what the model authors' code gives.
#[test]
fn norms_are_those_of_the_authors_activations() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut compared = 0;
    for family in ["llama", "gemma3", "qwen3", "phi3", "mixtral"] {
        let folder = fixtures.join(family);
        let reference: Value = serde_json::from_slice(&std::fs::read(folder.join("reference.json")).unwrap()).unwrap();
        let theirs = candle_core::safetensors::load(folder.join("reference.safetensors"), &Device::Cpu).unwrap();
        let copy = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(folder.join(file), copy.path().join(file)).unwrap();
        }
        let checkpoint = Checkpoint::open(copy.path().to_str().unwrap(), &Silent).unwrap();
        let recipe = Recipe::read(checkpoint.config()).unwrap();
        let settings =
            ComputeSettings { arithmetic: Arithmetic::F64, device: DeviceChoice::Cpu, ..ComputeSettings::default() };
        let model = Model::new(checkpoint, recipe, &settings, &Silent).unwrap();
        let out = model.sites().iter().filter(|s| s.site.side == Side::Out);
        let sites: Vec<(Site, usize)> = out.map(|s| (s.site.clone(), s.channels)).collect();
        let tokens: Vec<u32> = serde_json::from_value(reference["tokens"].clone()).unwrap();
        let observed = observe(&model, &sites, &[tokens.into()], "", &Silent).unwrap();
        for profile in &observed.profiles {
            let site = profile.site.to_string();
            let key = reference["same_as"][&site].as_str().unwrap_or(&site);
            let rows: Vec<Vec<f64>> =
                theirs[&format!("f64/clean/{key}")].to_dtype(DType::F64).unwrap().to_vec2().unwrap();
            for (tokens, rows) in [(Tokens::First, &rows[..1]), (Tokens::Rest, &rows[1..])] {
                let found = profile.at(tokens);
                let l2 = rows.iter().map(|r| r.iter().map(|v| v * v).sum::<f64>().sqrt());
                same(&found.l2, l2.collect(), &site);
                let largest = |r: &Vec<f64>| r.iter().fold(0f64, |m, v| m.max(v.abs()));
                same(&found.max_abs, rows.iter().map(largest).collect(), &site);
                let mut channels = BTreeMap::new();
                for row in rows {
                    *channels.entry(row.iter().position(|v| v.abs() == largest(row)).unwrap()).or_insert(0u64) += 1;
                }
                assert_eq!(found.channels, channels, "{family} {site}");
                compared += 1;
            }
        }
    }
    assert!(compared > 200, "{compared}");
}

/// One prompt's values: its smallest and largest are exact, the median within the sketch's error.
fn same(found: &Distribution, mut values: Vec<f64>, site: &str) {
    values.sort_by(f64::total_cmp);
    let near = |a: f64, b: f64, error: f64| assert!((a - b).abs() <= error * b.max(1e-300), "{site}: {a} for {b}");
    let (min, max) = found.positions.range().unwrap();
    near(min, values[0], 1e-9);
    near(max, values[values.len() - 1], 1e-9);
    near(found.positions.quantile(0.5).unwrap(), values[(values.len() - 1) / 2], 0.0101);
    assert_eq!(found.smallest.range().unwrap(), (min, min));
    assert_eq!(found.largest.range().unwrap(), (max, max));
}
