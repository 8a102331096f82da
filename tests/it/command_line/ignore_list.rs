//! `locate --ignore-list`.

use crate::tiny::Place;
use serde_json::Value;

const HOW: [&str; 4] = ["--text", "Pitchfork called it daring", "--samples=1", "--max-neurons=20"];

/// Standard output and standard error of `locate`.
fn located(place: &Place, more: &[&str]) -> (String, String) {
    let epsilon = if more.contains(&"--epsilon=99") { &[][..] } else { &["--epsilon=0.02"] };
    let output = place.run(&[&["locate", "{model}"], more, &HOW, epsilon].concat());
    let [out, told] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{told}");
    (out, told)
}

#[test]
fn modules_of_the_critical_set_are_listed_for_quantizers() {
    let place = Place::new();
    let (json, _) = located(&place, &["--format=json"]);
    let document: Value = serde_json::from_str(&json).unwrap();
    let tensor = |neuron: &Value| {
        let ranking = document["ranking"].as_array().unwrap();
        let ranked = ranking.iter().find(|ranked| ranked["neuron"] == *neuron).unwrap();
        ranked["tensor"].as_str().unwrap().strip_suffix(".weight").unwrap().to_owned()
    };
    let mut modules: Vec<String> = document["critical_set"]["neurons"].as_array().unwrap().iter().map(tensor).collect();
    let mut seen = std::collections::HashSet::new();
    modules.retain(|module| seen.insert(module.clone()));
    let (yaml, told) = located(&place, &["--ignore-list=llm-compressor"]);
    assert_eq!((yaml, told.as_str()), (format!("ignore: {}\n", serde_json::json!(modules)), ""));
    let gguf = |module: &String| {
        let (layer, name) = module.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
        let names = [
            ("mlp.down_proj", "ffn_down"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
        ];
        let name = names.iter().find(|(theirs, _)| *theirs == name).unwrap().1;
        format!("--tensor-type blk.{layer}.{name}=f16")
    };
    let expected = modules.iter().map(gguf).collect::<Vec<_>>().join(" ") + "\n";
    assert_eq!(located(&place, &["--ignore-list=gguf", "-o", "{out}/arguments"]), Default::default());
    assert_eq!(std::fs::read_to_string(place.out().join("arguments")).unwrap(), expected);
}

#[test]
fn what_needs_no_entry_is_told() {
    let place = Place::new();
    let (yaml, told) = located(&place, &["--ignore-list=llm-compressor", "--sites=*.input_layernorm"]);
    assert!(yaml == "ignore: []\n" && told.contains(".input_layernorm is a norm"), "{yaml}{told}");
    let (arguments, told) = located(&place, &["--ignore-list=gguf", "--sites=model.embed_tokens"]);
    assert!(arguments.is_empty() && told.contains("model.embed_tokens is an embedding"), "{arguments}{told}");
    let (yaml, told) = located(&place, &["--ignore-list=llm-compressor", "--sites=model.norm", "--epsilon=99"]);
    assert!(yaml == "ignore: []\n" && told.contains("nothing collapsed"), "{yaml}{told}");
    let output = place.run(&["locate", "{model}", "--ignore-list=gguf", "--format=json"]);
    assert_eq!(output.status.code(), Some(2));
}
