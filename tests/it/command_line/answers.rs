//! What the binary answers, on the tiny model.

use crate::tiny::{Place, TEXT, wait};
use achilles_audit::checkpoint::sha256_hex;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Output;

/// `locate` with few samples and an ε that the tiny model reaches.
const LOCATE: [&str; 10] =
    ["locate", "{model}", "--text", TEXT, "--samples", "5", "--epsilon", "0.002", "--format", "json"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    [&LOCATE, more].concat()
}

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap()
}

/// Standard output of a run that went well and said nothing else.
fn quiet(output: &Output) -> &str {
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    text(&output.stdout)
}

/// The JSON of a run, without what differs between runs.
fn result(place: &Place, args: &[&str]) -> Value {
    let mut document: Value = serde_json::from_str(quiet(&place.run(args))).unwrap();
    document.as_object_mut().unwrap().remove("timing_s").unwrap();
    document
}

/// Every way in which `value` is not as `shape` says, which names the type of each key: `s` text, `i` whole number, `f`
/// number, `b` truth value; a `?` after it allows null; a list holds any number of its one element.
fn mismatches(value: &Value, shape: &Value, at: &str, found: &mut Vec<String>) {
    match (value, shape) {
        (Value::Object(value), Value::Object(shape)) => {
            for key in value.keys().filter(|k| !shape.contains_key(*k)) {
                found.push(format!("{at}.{key} is not in the schema"));
            }
            for (key, shape) in shape {
                match value.get(key) {
                    Some(value) => mismatches(value, shape, &format!("{at}.{key}"), found),
                    None => found.push(format!("{at}.{key} is missing")),
                }
            }
        }
        (Value::Array(values), Value::Array(shape)) => {
            values.iter().for_each(|value| mismatches(value, &shape[0], &format!("{at}[]"), found));
        }
        (value, Value::String(kind)) => {
            let holds = match kind.trim_end_matches('?') {
                "s" => value.is_string(),
                "i" => value.is_u64(),
                "f" => value.is_f64(),
                "b" => value.is_boolean(),
                other => panic!("no such kind: {other}"),
            };
            if !(holds || kind.ends_with('?') && value.is_null()) {
                found.push(format!("{at} is {value}, expected {kind}"));
            }
        }
        (value, shape) => found.push(format!("{at} is {value}, expected {shape}")),
    }
}

fn schema() -> Value {
    serde_json::json!({
        "schema": "s", "tool": {"name": "s", "version": "s"},
        "model": {"source": "s", "architecture": "s", "config_sha256": "s"},
        "settings": {"ranking": "s", "side": "s", "sites": "s", "counting": "s", "alpha": "f", "samples": "i",
            "samples_used": "i", "seed": "i", "epsilon": "f", "max_neurons": "i", "dtype": "s", "device": "s",
            "text_sha256": "s", "tokens": "i"},
        "base": {"nll_nats": "f", "perplexity": "f"},
        "ranking": [{"neuron": "s", "layer": "i?", "importance": "f", "position": "i", "tensor": "s?",
            "shape": ["i"], "axis": "s?", "index": "i?", "bias": "s?"}],
        "prefix": {"collapsed": "b", "n": "i", "curve_nll_nats": ["f"]},
        "critical_set": {"neurons": ["s"], "nll_nats": "f", "damage": "f",
            "subsets": [{"neurons": ["s"], "nll_nats": "f", "damage": "f"}]},
        "sharpness": {"largest_step": "f", "largest_step_at": "i", "above_epsilon": "f", "gradual": "b"},
        "timing_s": {"load": "f", "importance": "f", "search": "f", "minimize": "f"},
    })
}

#[test]
fn the_document_is_as_its_schema_says() {
    let place = Place::new();
    let document: Value = serde_json::from_str(quiet(&place.run(&LOCATE))).unwrap();
    let mut found = Vec::new();
    mismatches(&document, &schema(), "", &mut found);
    assert_eq!(found, Vec::<String>::new());
    let config = std::fs::read(place.model().join("config.json")).unwrap();
    let expected = [
        ("/schema", Value::from("achilles-audit/critical-set/v1")),
        ("/tool/name", "achilles-audit".into()),
        ("/tool/version", env!("CARGO_PKG_VERSION").into()),
        ("/model/source", place.model().to_str().unwrap().into()),
        ("/model/architecture", "LlamaForCausalLM".into()),
        ("/model/config_sha256", sha256_hex(&config).into()),
        ("/settings/ranking", "noise".into()),
        ("/settings/side", "out".into()),
        ("/settings/sites", "reference".into()),
        ("/settings/counting", "channels".into()),
        ("/settings/alpha", 5.0.into()),
        ("/settings/samples", 5.into()),
        ("/settings/samples_used", 5.into()),
        ("/settings/seed", 42.into()),
        ("/settings/epsilon", 0.002.into()),
        ("/settings/dtype", "f32".into()),
        ("/settings/text_sha256", sha256_hex(TEXT.as_bytes()).into()),
        ("/settings/tokens", TEXT.len().into()),
        ("/prefix/collapsed", true.into()),
    ];
    for (at, value) in expected {
        assert_eq!(document.pointer(at), Some(&value), "{at}");
    }
    let number = |at: &str| document.pointer(at).unwrap().as_f64().unwrap();
    let array = |at: &str| document.pointer(at).unwrap().as_array().unwrap();
    assert!((number("/base/perplexity") - number("/base/nll_nats").exp()).abs() < 1e-9);
    let damage = (number("/critical_set/nll_nats") - number("/base/nll_nats")) / std::f64::consts::LN_10;
    assert!(damage >= 0.002 && (damage - number("/critical_set/damage")).abs() < 1e-12, "{damage}");
    let curve: Vec<f64> = array("/prefix/curve_nll_nats").iter().map(|nll| nll.as_f64().unwrap()).collect();
    let before = std::iter::once(number("/base/nll_nats")).chain(curve.iter().copied());
    let steps = before.zip(&curve).map(|(a, b)| (b - a) / std::f64::consts::LN_10);
    let largest = steps.fold(f64::NEG_INFINITY, f64::max);
    assert!((number("/sharpness/largest_step") - largest).abs() < 1e-12, "{largest}");
    assert!((number("/sharpness/above_epsilon") - (damage - 0.002)).abs() < 1e-12, "{damage}");
    assert_eq!(document["sharpness"]["gradual"], Value::from(largest < 0.002));
    assert_eq!(array("/ranking").len(), 100);
    assert!(array("/ranking").is_sorted_by(|a, b| a["importance"].as_f64() >= b["importance"].as_f64()));
    assert_eq!(array("/prefix/curve_nll_nats").len() as u64, document["prefix"]["n"]);
    // Each member is in the prefix.
    let prefix = &array("/ranking")[..document["prefix"]["n"].as_u64().unwrap() as usize];
    for member in array("/critical_set/neurons") {
        assert!(prefix.iter().any(|r| r["neuron"] == *member), "{member}");
    }
}

/// Equal but for rounding: where weights are streamed, more rows are computed at once, and products of tiny matrices round
/// otherwise.
fn assert_alike(found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
            a.values().zip(b.values()).for_each(|(a, b)| assert_alike(a, b));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).for_each(|(a, b)| assert_alike(a, b));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
        }
        (a, b) => assert_eq!(a, b),
    }
}

#[test]
fn the_same_question_has_the_same_answer() {
    let place = Place::new();
    let first = result(&place, &LOCATE);
    assert_eq!(result(&place, &LOCATE), first);
    assert_alike(&result(&place, &with(&["--weights", "stream"])), &first);
    assert_eq!(result(&place, &with(&["--device", "cpu", "--seed", "42"])), first);
    assert_ne!(result(&place, &with(&["--seed", "43"]))["ranking"], first["ranking"]);
}

#[test]
fn variants_do_what_they_say() {
    let place = Place::new();
    let neurons = |args: &[&'static str]| -> Vec<String> {
        let document = result(&place, &with(args));
        let mut found = Vec::new();
        let mut shape = schema();
        shape.as_object_mut().unwrap().remove("timing_s");
        if document["critical_set"].is_null() {
            shape["critical_set"] = "s?".into();
            shape["sharpness"] = "s?".into();
        }
        for entry in document["ranking"].as_array().unwrap().iter().filter(|e| e["shape"].is_null()) {
            assert!(entry["tensor"].is_null() && entry["axis"].is_null() && entry["index"].is_null(), "{entry}");
        }
        shape["ranking"][0].as_object_mut().unwrap().remove("shape");
        if ["random", "weights"].iter().any(|ranking| document["settings"]["ranking"] == *ranking) {
            assert!(document["ranking"].as_array().unwrap().iter().all(|entry| entry["position"].is_null()));
            shape["ranking"][0]["position"] = "i?".into();
        }
        let mut plain = document.clone();
        for entry in plain["ranking"].as_array_mut().unwrap() {
            entry.as_object_mut().unwrap().remove("shape");
        }
        mismatches(&plain, &shape, "", &mut found);
        assert_eq!(found, Vec::<String>::new(), "{args:?}");
        document["ranking"].as_array().unwrap().iter().map(|r| r["neuron"].as_str().unwrap().to_owned()).collect()
    };
    let distinct = |list: &[String]| list.iter().collect::<std::collections::BTreeSet<_>>().len();
    let all = neurons(&[]);
    assert_eq!(distinct(&all), all.len());
    let published = neurons(&["--counting", "published"]);
    assert!(distinct(&published) < published.len(), "no channel is listed at two positions");
    let cases: [(&[&str], &str); 16] = [
        (&["--side", "in"], ":in:"),
        (&["--ranking", "magnitude"], ":out:"),
        (&["--ranking", "gradient"], ":out:"),
        (&["--ranking", "super-weight"], ".mlp.down_proj:out:"),
        (&["--ranking", "super-weight", "--side", "in"], ".mlp.down_proj:in:"),
        (&["--ranking", "magnitude-signed"], ":out:"),
        (&["--ranking", "random"], ":out:"),
        (&["--ranking", "random", "--side", "in"], ":in:"),
        (&["--ranking", "weights"], ".mlp.down_proj:out:"),
        (&["--ranking", "weights", "--side", "in"], ".mlp.down_proj:in:"),
        (&["--sites", "linear"], "_proj:out:"),
        (&["--sites", "down_proj"], ".mlp.down_proj:out:"),
        (&["--sites", "down_proj", "--side", "in"], ".mlp.down_proj:in:"),
        (&["--sites", "*.1.self_attn.*"], "model.layers.1.self_attn."),
        (&["--sites", "L2.mlp.act_fn"], "model.layers.2.mlp.act_fn:out:"),
        (&["--sites", "model.norm", "--max-neurons", "18446744073709551615"], "model.norm:out:"),
    ];
    for (args, part) in cases {
        let found = neurons(args);
        assert!(!found.is_empty() && found.iter().all(|n| n.contains(part)), "{args:?}: {found:?}");
    }
    for ranking in ["magnitude", "magnitude-signed", "gradient", "super-weight", "random", "weights"] {
        let settings = &result(&place, &with(&["--ranking", ranking]))["settings"];
        assert_eq!((&settings["ranking"], &settings["samples_used"]), (&ranking.into(), &0.into()));
    }
}

#[test]
fn not_collapsing_is_a_result() {
    let place = Place::new();
    let calm: Vec<&str> =
        ["locate", "{model}", "--text", TEXT, "--samples", "2", "--epsilon", "9", "--max-neurons", "5"].into();
    let document = result(&place, &[calm.as_slice(), &["--format", "json"]].concat());
    assert_eq!(document["critical_set"], Value::Null);
    assert_eq!((&document["prefix"]["collapsed"], &document["prefix"]["n"]), (&false.into(), &5.into()));
    let table = place.run(&calm);
    assert!(quiet(&table).contains("no collapse: masking up to 5 entries"), "{}", text(&table.stdout));
    let collapsed = place.run(&LOCATE[..8]);
    assert!(quiet(&collapsed).contains("COLLAPSE: without "), "{}", text(&collapsed.stdout));
    assert_eq!(place.run(&[&["scan"], &LOCATE[1..8]].concat()).status.code(), Some(0));
}

#[test]
fn samples_are_drawn_until_the_answer_is_settled_or_there_are_no_more() {
    let place = Place::new();
    // One row that stands out.
    let plant = ["patch", "{model}", "-o", "{out}/planted", "--neuron", "L1.mlp.down_proj:out:4", "--beta", "300"];
    assert!(place.run(&plant).status.success());
    let found = |samples, epsilon| {
        let model = "{out}/planted";
        result(&place, &["locate", model, "--text", TEXT, "--samples", samples, "--epsilon", epsilon, "--format=json"])
    };
    // The first entry alone is enough.
    let (few, all) = (found("auto", "0.0001"), found("100", "0.0001"));
    assert_eq!(few["sampling"], serde_json::json!({"stopped": "settled", "most": 100, "error_rate": 0.01}));
    assert!(few["settings"]["samples_used"].as_u64().unwrap() < 100, "{}", few["settings"]);
    assert_eq!((&few["settings"]["samples"], &all["sampling"]), (&"auto".into(), &Value::Null));
    assert_eq!(few["critical_set"]["neurons"], all["critical_set"]["neurons"]);
    // All of many near equals are not settled by fewer, and then it is all the same.
    let (auto, all) = (found("auto", "9"), found("100", "9"));
    assert_eq!((&auto["sampling"]["stopped"], &auto["settings"]["samples_used"]), (&"all".into(), &100.into()));
    for key in ["base", "ranking", "prefix", "critical_set"] {
        assert_eq!(auto[key], all[key], "{key}");
    }
}

#[test]
fn a_smaller_set_is_looked_for_within_a_budget() {
    let place = Place::new();
    let first = result(&place, &LOCATE);
    assert!(first["critical_set"].get("smallest").is_none());
    for (option, budget) in [("--smallest", 500), ("--smallest=7", 7)] {
        let document = result(&place, &with(&[option]));
        let smallest = &document["critical_set"]["smallest"];
        let members = document["critical_set"]["neurons"].as_array().unwrap().len() as u64;
        assert_eq!(smallest["budget"], budget, "{smallest}");
        assert!(smallest["rows"].as_u64() <= Some(budget), "{smallest}");
        assert_eq!(smallest["before"], first["critical_set"]["neurons"].as_array().unwrap().len());
        assert_eq!(smallest["found"], Value::from(Some(members) < smallest["before"].as_u64()), "{smallest}");
        let table = place.run(&[&LOCATE[..8], &[option]].concat());
        assert!(quiet(&table).contains(&format!("of {budget} rows")), "{}", text(&table.stdout));
    }
    assert_eq!(place.run(&with(&["--smallest=0"])).status.code(), Some(2));
}

#[test]
fn a_file_is_written_whole_and_replaced() {
    let place = Place::new();
    let file = place.out().join("result.json");
    std::fs::write(&file, "x".repeat(1 << 20)).unwrap();
    assert_eq!(quiet(&place.run(&with(&["-o", "{out}/result.json"]))), "");
    let mut document: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    document.as_object_mut().unwrap().remove("timing_s");
    assert_eq!(document, result(&place, &LOCATE));
    assert_eq!(std::fs::read_dir(place.out()).unwrap().count(), 1, "something else is there");
}

#[test]
fn progress_goes_to_standard_error() {
    let place = Place::new();
    let output = place.run(&with(&["--progress", "json"]));
    serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let lines: Vec<Value> = text(&output.stderr).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let shape = serde_json::json!({"stage": "s", "done": "i", "total": "i", "unit": "s"});
    let mut found = Vec::new();
    for line in &lines {
        mismatches(line, &shape, "", &mut found);
        assert!(line["done"].as_u64() <= line["total"].as_u64(), "{line}");
    }
    assert_eq!(found, Vec::<String>::new());
    for stage in ["loading weights", "importance", "masking prefixes 1 to 1"] {
        let of_stage: Vec<&Value> = lines.iter().filter(|l| l["stage"] == stage).collect();
        assert!(of_stage.last().is_some_and(|l| l["done"] == l["total"]), "{stage}: {of_stage:?}");
    }
    assert_eq!(quiet(&place.run(&with(&["--progress", "none"]))).lines().next(), Some("{"));
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let place = Place::new();
    for args in [LOCATE.to_vec(), vec!["perplexity", "{model}"], vec!["--help"]] {
        let mut child = place.command(&args).spawn().unwrap();
        drop(child.stdout.take());
        let output = wait(child, 60).unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""), "{args:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let place = Place::new();
    let before = place.snapshot();
    let args = ["locate", "{model}", "--samples", "4000", "--progress", "json", "-o", "{out}/result.json"];
    let mut child = place.command(&args).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = lines.by_ref().map(Result::unwrap).find(|l| l.contains("\"importance\""));
    assert!(begun.is_some());
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let last = lines.map(Result::unwrap).last();
    let output = wait(child, 60).unwrap();
    assert_eq!((output.status.code(), last.as_deref()), (Some(130), Some("achilles-audit: interrupted")));
    assert_eq!(place.snapshot(), before);
}

#[test]
fn a_short_text_is_warned_of_and_answered() {
    let place = Place::new();
    let output = place.run(&["locate", "{model}", "--text", "Paris", "--samples", "2", "--format", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let warning = text(&output.stderr);
    assert!(warning.lines().count() == 1 && warning.contains("WARN the text has 5 tokens; below 10"), "{warning}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["settings"]["tokens"], 5);
}

#[test]
fn perplexity_agrees_with_locate() {
    let place = Place::new();
    let located = result(&place, &LOCATE);
    let members: Vec<&str> =
        located["critical_set"]["neurons"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    let masks = members.iter().flat_map(|n| ["--neuron", n]);
    let args: Vec<&str> =
        ["perplexity", "{model}", "--text", TEXT, "--format", "json"].into_iter().chain(masks).collect();
    let run = |more: &[&str]| -> Value {
        serde_json::from_str(quiet(&place.run(&[args.as_slice(), more].concat()))).unwrap()
    };
    let close = |a: &Value, b: &Value| {
        let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
        assert!((a - b).abs() <= 1e-6 * b.abs(), "{a} {b}");
    };
    let masked = run(&[]);
    close(&masked["base"]["nll_nats"], &located["base"]["nll_nats"]);
    close(&masked["changed"]["nll_nats"], &located["critical_set"]["nll_nats"]);
    close(&run(&["--beta", "0"])["changed"]["nll_nats"], &located["critical_set"]["nll_nats"]);
    close(&run(&["--beta", "1"])["changed"]["nll_nats"], &located["base"]["nll_nats"]);
    assert_ne!(run(&["--beta", "-2"])["changed"]["nll_nats"], masked["changed"]["nll_nats"]);
}

/// Opening a pipe waits for a writer: a checkpoint that holds one must be refused, not waited for.
#[cfg(unix)]
#[test]
fn pipes_are_refused_at_once() {
    let pipe = |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    for file in ["config.json", "tokenizer.json", "model.safetensors", "achilles-patch.json"] {
        let place = Place::new();
        let path = place.model().join(file);
        let _ = std::fs::remove_file(&path);
        pipe(&path);
        let neuron = "L0.mlp.down_proj:out:1";
        let patch: &[&str] = &["patch", "{model}", "--in-place", "--neuron", neuron];
        for args in [patch, &["unpatch", "{model}"], &["locate", "{model}"]] {
            if (file, args[0]) == ("achilles-patch.json", "locate") || (file, args[0]) == ("tokenizer.json", "patch") {
                continue; // neither reads it
            }
            let output = wait(place.command(args).spawn().unwrap(), 10).unwrap();
            let told = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{file} {args:?}: {told}");
            assert_eq!(told.lines().count(), 1, "{file} {args:?}: {told}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_private_file_stays_private() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let path = place.model().join("private.json");
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(place.run(&["perplexity", "{model}", "-o", path.to_str().unwrap()]).status.success());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(std::fs::read(&path).unwrap(), b"old");
}
