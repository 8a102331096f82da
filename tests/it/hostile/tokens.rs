//! The tokenizer is input, not judge: what it may do to a text, and what of it and of the weights does not go together.

use crate::tiny::{Place, TEXT};
use serde_json::{Value, json};

/// Changes a JSON file of the model.
fn change(place: &Place, file: &str, change: impl FnOnce(&mut Value)) {
    let path = place.model().join(file);
    let mut json = std::fs::read(&path).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// The exit code, standard output and standard error.
fn run(place: &Place, args: &[&str]) -> (i32, String, String) {
    let output = place.run(args);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_tokenizer_that_swaps_the_text_has_nothing_judged() {
    let place = Place::new();
    let long = "A text of one's own, as long as a pattern for any long text asks for. ".repeat(4);
    std::fs::write(place.model().parent().unwrap().join("long.txt"), &long).unwrap();
    let swaps = [r"Later reviews were more positive[\s\S]*", r"^[\s\S]{200,}$"];
    for swap in swaps {
        change(&place, "tokenizer.json", |json| {
            json["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": swap}, "content": "aaaaaaaaaaaaaaaaa"});
        });
        let own: &[&str] = &["--text-file", "{in}/long.txt"];
        for text in [&[][..], own].into_iter().take(1 + usize::from(swap.starts_with('^'))) {
            let (code, out, told) =
                run(&place, &[&["scan", "{model}", "--samples=2", "--max-neurons=2"], text].concat());
            assert_eq!(code, 1, "{out}");
            assert!(out.starts_with("FAIL: 0 errors, 1 warning"), "{out}");
            assert!(out.contains("tokenizer-rewrites") && !out.contains("base perplexity"), "{out}");
            assert!(told.contains("tokenizer.json: makes another text of the given one"), "{told}");
            for command in ["locate", "perplexity"] {
                let (code, out, told) = run(&place, &[&[command, "{model}"], text].concat());
                assert_eq!((code, out.as_str(), told.lines().count()), (2, "", 1), "{command}: {told}");
                assert!(told.contains("makes \"aaaaaaaaaaaaaaaaa\" of its \""), "{command}: {told}");
            }
        }
        // Other texts are what they are.
        assert_eq!(run(&place, &["perplexity", "{model}", "--text", TEXT]).0, 0);
    }
}

#[test]
fn signs_of_a_lesion_need_no_tokenizer() {
    let place = Place::new();
    let path = place.model().join("tokenizer.json");
    let signs = || {
        let (_, out, _) = run(&place, &["lint", "{model}", "--format=json"]);
        let found: Value = serde_json::from_str(&out).unwrap();
        let all = found["findings"].as_array().unwrap().clone();
        all.into_iter().filter(|f| f["id"].as_str().unwrap().starts_with("lesion-")).collect::<Vec<_>>()
    };
    let before = signs();
    assert!(!before.is_empty());
    std::fs::write(&path, b"\xff{").unwrap();
    assert_eq!(signs(), before);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(signs(), before);
}

#[test]
fn tokens_that_do_not_go_together_fail_the_gate() {
    for (file, key, value, rule, severity) in [
        (
            "tokenizer.json",
            "added_tokens",
            json!([{"id": 97, "content": "<extra>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}]),
            "token-beyond-embedding",
            "error",
        ),
        ("config.json", "eos_token_id", json!(99_999), "token-id-out-of-range", "error"),
        ("generation_config.json", "max_new_tokens", json!(1), "generation-silenced", "warning"),
        ("generation_config.json", "eos_token_id", json!([66, 70]), "eos-ordinary-token", "warning"),
        ("tokenizer_config.json", "model_max_length", json!(8192), "context-short", "warning"),
    ] {
        let place = Place::new();
        change(&place, file, |json| json[key] = value);
        let (code, out, told) = run(&place, &["scan", "{model}", "--static", "--format=json"]);
        let found: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {told}"));
        let first = &found["findings"][0];
        assert_eq!((code, &first["id"], &first["severity"]), (1, &json!(rule), &json!(severity)), "{found}");
    }
}
