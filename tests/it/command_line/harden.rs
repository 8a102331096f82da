//! Spares for critical rows: on a model whose first layer writes a massive activation that later layers depend on.

use crate::tiny::{Place, load, save};
use serde_json::Value;
use std::path::Path;

const CRITICAL: &str = "model.layers.0.mlp.down_proj:out:7";

/// A family's fixture, in which one weight far larger than the others writes channel 7.
fn planted(family: &str, up: &str, row: usize, down: &str) -> Place {
    let place = Place::new();
    for file in ["config.json", "model.safetensors"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(family).join(file);
        std::fs::copy(from, place.model().join(file)).unwrap();
    }
    let path = place.model().join("model.safetensors");
    let mut tensors = load(&std::fs::read(&path).unwrap());
    for (name, (row, column), value) in [(up, (row, 0), 30f32), (down, (7, 11), 60f32)] {
        let name = format!("model.layers.0.{name}.weight");
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        let at = row * tensor.shape[1] + column;
        assert_eq!(tensor.dtype, "F32");
        tensor.bytes[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
    }
    std::fs::write(path, save(&tensors)).unwrap();
    place
}

fn place() -> Place {
    planted("llama", "mlp.up_proj", 11, "mlp.down_proj")
}

fn json(place: &Place, args: &[&str]) -> Value {
    let output = place.run(args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn told(place: &Place, args: &[&str]) -> (i32, String) {
    let output = place.run(args);
    (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn damage(found: &Value, neurons: &[&str]) -> f64 {
    let lesions = found["lesions"].as_array().unwrap();
    let lesion = lesions.iter().find(|lesion| lesion["neurons"] == serde_json::json!(neurons)).unwrap();
    lesion["damage_after"].as_f64().unwrap()
}

#[test]
fn a_spare_stands_in_and_is_taken_out_again() {
    let place = place();
    let before = place.snapshot();
    let args = ["harden", "{model}", "--neuron", CRITICAL, "--in-place", "--dtype", "f64", "--format", "json"];
    let found = json(&place, &args);
    assert_eq!((&found["schema"], &found["critical"][0]), (&"achilles-audit/harden/v1".into(), &CRITICAL.into()));
    let lesion = &found["lesions"][0];
    let (was, is) = (lesion["damage_before"].as_f64().unwrap(), lesion["damage_after"].as_f64().unwrap());
    assert!(was.abs() > 0.02 && is.abs() < 0.8 * was.abs(), "{was} {is}");
    assert!(found["change"].as_f64().unwrap().abs() < 0.2, "{found}");
    let spare = &found["spares"][0];
    assert_eq!(spare["row"], "model.layers.1.mlp.down_proj:out:7");
    assert!(damage(&found, &[CRITICAL, "model.layers.1.mlp.down_proj:out:7"]).abs() > is.abs());

    // What was measured is what was written: the same model, read anew.
    let perplexity = |neuron: &str| {
        let text = "Later reviews were more positive.";
        let args = ["perplexity", "{model}", "--text", text, "--neuron", neuron, "--dtype", "f64", "--format", "json"];
        json(&place, &args)["changed"]["nll_nats"].as_f64().unwrap()
    };
    assert!(perplexity(CRITICAL).is_finite());
    let receipt: Value =
        serde_json::from_slice(&std::fs::read(place.model().join("achilles-patch.json")).unwrap()).unwrap();
    let neurons = receipt["spares"][0]["neurons"].as_array().unwrap().len();
    assert_eq!(
        (receipt["spares"][0]["stands_for"].as_str(), receipt["edits"].as_array().unwrap().len()),
        (Some(CRITICAL), 3 * neurons)
    );

    // It says what it is, and is no lesion.
    let (_, table) = told(&place, &["lint", "{model}"]);
    assert!(table.contains("hardened-receipt") && !table.contains("lesion-receipt"), "{table}");
    // A second patch is refused; the first is undone byte for byte.
    let (code, said) = told(&place, &["harden", "{model}", "--neuron", CRITICAL, "--in-place"]);
    assert!(code == 2 && said.contains("is patched already"), "{said}");
    assert_eq!(told(&place, &["unpatch", "{model}"]).0, 0);
    assert_eq!(place.snapshot(), before);
}

/// What is planted is different at every position, so that a sink alone restores it in part, and not in every family.
/// Fused rows, a factor on what is added to the residual stream, a shared expert beside routed ones, mixers that are no
/// attention.
#[test]
fn spares_are_where_families_have_them() {
    for (family, up, row, down, neurons, left) in [
        ("phi3", "mlp.gate_up_proj", 56 + 11, "mlp.down_proj", "model.layers.1.mlp.down_proj:in:", 0.8),
        ("granite", "mlp.up_proj", 11, "mlp.down_proj", "model.layers.1.mlp.down_proj:in:", 0.8),
        (
            "deepseek_v3",
            "mlp.up_proj",
            11,
            "mlp.down_proj",
            "model.layers.1.mlp.shared_experts.down_proj:in:",
            f64::INFINITY,
        ),
        ("lfm2", "feed_forward.w3", 11, "feed_forward.w2", "model.layers.1.feed_forward.w2:in:", f64::INFINITY),
        ("qwen3_5", "mlp.up_proj", 11, "mlp.down_proj", "model.layers.1.mlp.down_proj:in:", f64::INFINITY),
    ] {
        let place = planted(family, up, row, down);
        let before = place.snapshot();
        let neuron = format!("model.layers.0.{down}:out:7");
        let found = json(
            &place,
            &["harden", "{model}", "--neuron", &neuron, "--in-place", "--dtype", "f64", "--format", "json"],
        );
        let lesion = &found["lesions"][0];
        let (was, is) = (lesion["damage_before"].as_f64().unwrap(), lesion["damage_after"].as_f64().unwrap());
        println!("{family}: {was} {is} {}", found["change"]);
        assert!(found["spares"][0]["neurons"][0].as_str().unwrap().starts_with(neurons), "{found}");
        assert!(is.abs() < left * was.abs(), "{family}: {was} {is}");
        assert!(told(&place, &["lint", "{model}"]).1.contains("hardened-receipt"), "{family}");
        assert_eq!(told(&place, &["unpatch", "{model}"]).0, 0);
        assert_eq!(place.snapshot(), before, "{family}");
    }
}

#[test]
fn a_hardened_copy_is_proved() {
    let place = place();
    let before = place.snapshot();
    let (code, table) = told(&place, &["harden", "{model}", "--neuron", CRITICAL, "-o", "{out}/hard", "--spares", "2"]);
    assert!(code == 0 && table.contains("stands in for") && table.contains("damage before"), "{table}");
    let (code, said) = told(&place, &["verify-patch", "{out}/hard", "--original", "{model}"]);
    assert!(code == 0 && said.contains("nothing else differs"), "{said}");
    for (path, bytes) in &before {
        assert_eq!(std::fs::read(path).ok().as_ref().unwrap_or(&Vec::new()), bytes, "{}", path.display());
    }
    // A receipt that says other values than were written is not followed.
    let receipt = place.out().join("hard/achilles-patch.json");
    let text = std::fs::read_to_string(&receipt).unwrap();
    let at = text.find("\"values\": \"").unwrap() + 11;
    let other = if &text[at..=at] == "A" { "B" } else { "A" };
    std::fs::write(&receipt, format!("{}{other}{}", &text[..at], &text[at + 1..])).unwrap();
    let (code, said) = told(&place, &["unpatch", "{out}/hard"]);
    assert!(code == 2 && said.contains("is not followed"), "{said}");
    // A mask beside spares is a lesion.
    let masked = text.replacen(
        "\"asked\": [",
        "\"asked\": [{\"neuron\": \"model.layers.0.mlp.down_proj:out:7\", \"beta\": 0, \"set_to\": null},",
        1,
    );
    std::fs::write(&receipt, masked).unwrap();
    assert!(told(&place, &["lint", "{out}/hard"]).1.contains("lesion-receipt"));
}

#[test]
fn what_cannot_be_spared_is_told_in_one_line() {
    let place = place();
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    let gemma = place.out().join("gemma");
    std::fs::create_dir(&gemma).unwrap();
    for file in ["gemma3/config.json", "gemma3/model.safetensors", "tokenizer.json"] {
        let from = fixture(file);
        std::fs::copy(&from, gemma.join(from.file_name().unwrap())).unwrap();
    }
    let packed = fixture("packed/ct_fp8_block");
    for (model, neuron, says) in [
        (packed.to_str().unwrap(), "L0.mlp.down_proj:out:3", "harden the model it was quantized from"),
        ("{model}", "L0.self_attn.q_proj:out:3", "acts within its layer"),
        ("{model}", "L0.post_attention_layernorm:out:3", "a norm's channel"),
        ("{model}", "L0.mlp.down_proj:in:3", "only outputs of down_proj"),
        ("{model}", "L2.mlp.down_proj:out:7", "none of the later layers can hold a spare"),
        ("{model}", "L0.mlp.down_proj:out:4000", "only outputs of down_proj"),
        ("{out}/gemma", "L0.mlp.down_proj:out:3", "not normed, as Gemma's"),
    ] {
        let (code, said) = told(&place, &["harden", model, "--neuron", neuron, "--dry-run"]);
        assert!(code == 2 && said.contains(says) && said.lines().count() == 1, "{neuron}: {said}");
    }
    std::fs::write(place.out().join("few.txt"), "One text.\n\nAnother.").unwrap();
    let few = ["harden", "{model}", "--neuron", CRITICAL, "--dry-run", "--corpus", "{out}/few.txt"];
    let (code, said) = told(&place, &few);
    assert!(code == 2 && said.contains("give more") && said.lines().count() == 1, "{said}");
}
