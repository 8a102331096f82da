//! `compare`, `published`, and what `scan` makes of a base, a baseline and its cache.

use crate::tiny::Place;
use achilles_audit::document::critical_set::CAUTION;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A text on which the model of random weights has a critical set, at an ε that fits one.
const HOW: [&str; 5] = ["--text", "Pitchfork called it daring", "--samples=2", "--epsilon=0.02", "--max-neurons=20"];

fn place() -> Place {
    let place = Place::new();
    // Limits that fit a model of random weights.
    let rules = "schema: achilles-audit/rules/v1\nrules:\n  base-set-shared: {thresholds: {damage: 0.002}}\n  \
                 base-perplexity-high: {severity: off}\n";
    std::fs::write(input(&place, "gate.yaml"), rules).unwrap();
    place
}

fn input(place: &Place, name: &str) -> PathBuf {
    place.model().parent().unwrap().join(name)
}

/// The exit code, standard output as JSON if it is some, and standard error.
fn run(place: &Place, args: &[&str]) -> (i32, Value, String) {
    let output = place.run(&[args, &HOW].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_default(), told)
}

fn compared(place: &Place, base: &str, variant: &str) -> Value {
    let args = ["compare", base, variant, "--rules={in}/gate.yaml", "--format=json"];
    let (code, result, told) = run(place, &args);
    assert_eq!((code, told.as_str()), (0, ""));
    result
}

fn scan(place: &Place, model: &str, more: &[&str]) -> (i32, Value, String) {
    run(place, &[&["scan", model, "--rules={in}/gate.yaml", "--format=json"], more].concat())
}

fn ids(result: &Value) -> Vec<&str> {
    let of_base = |id: &&str| ["base-", "worse-", "activations-"].iter().any(|start| id.starts_with(start));
    result["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap()).filter(of_base).collect()
}

/// The critical set's neurons, and the document in `{in}/base.json`.
fn located(place: &Place) -> Vec<String> {
    let (code, result, told) = run(place, &["locate", "{model}", "--format=json"]);
    assert_eq!(code, 0, "{told}");
    std::fs::write(input(place, "base.json"), result.to_string()).unwrap();
    let neurons = result["critical_set"]["neurons"].as_array().unwrap();
    neurons.iter().map(|n| n.as_str().unwrap().to_owned()).collect()
}

/// Writes a copy in which the neurons are scaled, without a receipt.
fn scaled(place: &Place, neurons: &[String], beta: &str) {
    let mut args = vec!["patch", "{model}", "-o", "{out}/scaled", "--beta", beta];
    neurons.iter().for_each(|n| args.extend(["--neuron", n]));
    assert!(place.run(&args).status.success());
    for receipt in ["achilles-patch.json", "achilles-patch.undo"] {
        std::fs::remove_file(place.out().join("scaled").join(receipt)).unwrap();
    }
}

#[test]
fn a_model_shares_all_with_itself() {
    let place = place();
    let result = compared(&place, "{model}", "{model}");
    let variant = &result["variants"][0];
    let own = &variant["located"]["critical_set"];
    assert_eq!(result["critical_set"], own["neurons"]);
    let found = &variant["compared"];
    assert_eq!(found["verdict"], "shared");
    assert_eq!(found["damage"], 0.0);
    assert_eq!(found["location"]["spearman"], 1.0);
    for overlap in found["location"]["overlap"].as_array().unwrap() {
        assert_eq!(overlap["k"], overlap["shared"]);
    }
    for neuron in found["location"]["neurons"].as_array().unwrap() {
        assert_eq!(neuron["rank"], neuron["base_rank"]);
        assert_eq!(neuron["importance_ratio"], 1.0);
    }
    let transfer = &found["transfer"];
    assert_eq!(transfer["base_on_variant"], transfer["variant_on_base"]);
    assert_eq!(transfer["base_on_variant"]["damage"], own["damage"]);
    // Ten different random sets of the same size, each of which perplexity shows.
    let controls = transfer["base_on_variant"]["controls"].as_array().unwrap();
    let distinct: std::collections::HashSet<String> = controls.iter().map(Value::to_string).collect();
    assert_eq!((controls.len(), distinct.len()), (10, 10));

    // A saved set says the same, as far as it goes without the base's weights.
    located(&place);
    let saved = compared(&place, "{in}/base.json", "{model}");
    let saved = &saved["variants"][0]["compared"];
    assert_eq!((&saved["location"], &saved["damage"]), (&found["location"], &found["damage"]));
    assert_eq!(saved["transfer"]["base_on_variant"], transfer["base_on_variant"]);
    assert_eq!(saved["transfer"]["variant_on_base"], Value::Null);
}

/// What the document of an earlier version does not say is not told.
#[test]
fn a_gradual_collapse_is_told_with_caution() {
    let place = place();
    located(&place);
    let path = input(&place, "base.json");
    let document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for gradual in [Some(true), Some(false), None] {
        let mut document = document.clone();
        match gradual {
            Some(gradual) => document["sharpness"]["gradual"] = gradual.into(),
            None => _ = document.as_object_mut().unwrap().remove("sharpness").unwrap(),
        }
        std::fs::write(&path, document.to_string()).unwrap();
        let told = |told: &[u8], who: &str| {
            let told = String::from_utf8_lossy(told);
            assert_eq!(told.contains(&format!("{who}{CAUTION}")), gradual == Some(true), "{told}");
        };
        told(&place.run(&[&["compare", "{in}/base.json", "{model}"], &HOW[..]].concat()).stdout, "base.json: ");
        let scan = ["scan", "{model}", "--base={in}/base.json", "--rules={in}/gate.yaml", "--format=junit"];
        told(&place.run(&[&scan, &HOW[..]].concat()).stdout, "of the base, ");
        let vault = format!("{{out}}/{gradual:?}.safetensors");
        let kept = place.run(&["vault", "{model}", "--critical={in}/base.json", "-o", &vault]);
        assert!(kept.status.success());
        told(&kept.stderr, "");
    }
}

#[test]
fn a_scaled_neuron_is_told_by_how_far_it_moves() {
    let place = place();
    let neurons = located(&place);
    scaled(&place, &neurons, "0.5");
    let result = compared(&place, "{model}", "{out}/scaled");
    for neuron in result["variants"][0]["compared"]["location"]["neurons"].as_array().unwrap() {
        let ratio = neuron["importance_ratio"].as_f64().unwrap();
        assert!((ratio - 0.5).abs() < 1e-3, "{neuron}");
    }
    for base in ["{model}", "{in}/base.json"] {
        let (code, result, _) = scan(&place, "{out}/scaled", &["--base", base]);
        assert_eq!((code, ids(&result).contains(&"base-neuron-changed")), (1, true), "{base}: {result}");
        let (code, result, _) = scan(&place, "{model}", &["--base", base]);
        assert_eq!((code, ids(&result)), (0, vec!["base-set-shared"]), "{base}");
    }
    std::fs::remove_dir_all(place.out().join("scaled")).unwrap();
    scaled(&place, &neurons, "2");
    let (code, result, _) = scan(&place, "{out}/scaled", &["--base={in}/base.json"]);
    assert_eq!((code, ids(&result).contains(&"base-neuron-changed")), (1, true), "{result}");
    std::fs::remove_dir_all(place.out().join("scaled")).unwrap();
    scaled(&place, &neurons, "0.5");
    // Not a difference of bytes alone: the base's thresholds decide.
    let rules = std::fs::read_to_string(input(&place, "gate.yaml")).unwrap();
    let lax = rules + "  base-neuron-changed: {thresholds: {ratio: 0.4}}\n";
    std::fs::write(input(&place, "gate.yaml"), lax).unwrap();
    let (code, result, _) = scan(&place, "{out}/scaled", &["--base={in}/base.json"]);
    assert_eq!((code, ids(&result).contains(&"base-neuron-changed")), (0, false), "{result}");
}

#[test]
fn other_settings_leave_importances_uncompared_and_other_sites_are_refused() {
    let place = place();
    located(&place);
    let args = ["compare", "{in}/base.json", "{model}", "--format=json", "--alpha=4", "--seed=7"];
    let (_, result, _) = run(&place, &args);
    let found = &result["variants"][0]["compared"];
    let why = found["importance_not_compared"].as_str().unwrap();
    assert!(why.contains("--alpha, --seed") && !why.contains("--dtype"), "{why}");
    assert_eq!(found["location"]["neurons"][0]["importance_ratio"], Value::Null);
    // A gate that would have to judge them says so.
    let (code, _, told) = scan(&place, "{model}", &["--base={in}/base.json", "--alpha=4"]);
    assert!(code == 2 && told.contains("not examined: base: ") && told.contains("--alpha"), "{code}: {told}");
    // What fails for one measurement is told of all that hang on it.
    let (code, result, _) = scan(&place, "{model}", &["--base={in}/base.json", "--sites=model.zzz.*"]);
    let left: Vec<&str> =
        result["not_examined"].as_array().unwrap().iter().map(|l| l["measurement"].as_str().unwrap()).collect();
    assert_eq!((code, left), (2, vec!["base", "critical-set"]));
    for (other, expected) in [("--side=in", "use --side out"), ("--sites=linear", "use --sites reference")] {
        let (code, _, told) = run(&place, &["compare", "{in}/base.json", "{model}", other]);
        assert!(code == 2 && told.contains(expected), "{told}");
    }
}

#[test]
fn a_base_that_cannot_be_compared_is_one_line_and_exit_code_2() {
    let place = place();
    located(&place);
    std::fs::write(input(&place, "broken.json"), "{}").unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let other = input(&place, "other");
    std::fs::create_dir(&other).unwrap();
    for file in ["qwen2/config.json", "qwen2/model.safetensors", "tokenizer.json"] {
        std::fs::copy(fixtures.join(file), other.join(Path::new(file).file_name().unwrap())).unwrap();
    }
    let saved: Value = serde_json::from_slice(&std::fs::read(input(&place, "base.json")).unwrap()).unwrap();
    let changed = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut document = saved.clone();
        change(&mut document);
        std::fs::write(input(&place, name), document.to_string()).unwrap();
    };
    changed("none.json", &|d| d["critical_set"]["neurons"] = serde_json::json!([]));
    changed("apart.json", &|d| d["ranking"] = serde_json::json!([]));
    changed("zero.json", &|d| d["ranking"][0]["importance"] = 0.into());
    changed("nll.json", &|d| d["base"]["nll_nats"] = (-1e308).into());
    changed("kind.json", &|d| d["model"]["architecture"] = "Qwen2ForCausalLM".into());
    let rows: [(&str, &str, &str); 12] = [
        ("{in}/none.json", "{model}", "has no neurons"),
        ("{in}/apart.json", "{model}", "is not within its ranking"),
        ("{in}/zero.json", "{model}", "importances that are not above 0"),
        ("{in}/nll.json", "{model}", "a perplexity that is not a number of 1 or more"),
        ("{in}/kind.json", "{model}", "it is a LlamaForCausalLM, the base a Qwen2ForCausalLM"),
        ("published:gpt-2", "{model}", "`achilles-audit published` lists them"),
        ("published:gemma-7b", "{model}", "cannot be compared with the base AI-ModelScope/gemma-7b"),
        ("{in}/nowhere.json", "{model}", "nowhere.json"),
        ("{in}/broken.json", "{model}", "expected what `locate --format json` writes"),
        ("{in}/nowhere", "{model}", "nowhere"),
        ("{model}", "{in}/nowhere", "nowhere"),
        ("{model}", "{in}/other", "cannot be compared with the base"),
    ];
    for (base, variant, expected) in rows {
        let (code, _, told) = run(&place, &["compare", base, variant]);
        assert_eq!((code, told.lines().count()), (2, 1), "{base} {variant}: {told}");
        assert!(told.contains(expected), "{base} {variant}: {told}");
        if variant == "{model}" {
            let (code, _, told) = scan(&place, variant, &["--base", base]);
            assert!(code == 2 && told.contains(expected), "{told}");
            // What is not there, or is no base, is told before anything is measured.
            let at_once = ["published:gpt-2", "{in}/nowhere.json", "{in}/broken.json", "{in}/nowhere"].contains(&base);
            assert_eq!(told.contains("not examined: base: "), !at_once, "{base}: {told}");
            assert_eq!(told.lines().count(), 1, "{base}: {told}");
        }
    }
    let (code, _, told) = scan(&place, "{model}", &["--static", "--base={in}/base.json"]);
    assert!(code == 2 && told.contains("--base"), "{told}");
}

#[test]
fn how_a_model_is_served_is_held_against_its_base() {
    let place = place();
    let variant = |change: &dyn Fn(&Path)| {
        let folder = input(&place, "variant");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(place.model().join(file), folder.join(file)).unwrap();
        }
        change(&folder);
        let (code, result, told) = scan(&place, "{in}/variant", &["--base={model}"]);
        let found: Vec<String> = ids(&result).into_iter().map(str::to_owned).collect();
        assert!(told.is_empty(), "{told}");
        (code, found, result)
    };
    let json = |path: PathBuf, change: &dyn Fn(&mut Value)| {
        let mut json: Value =
            std::fs::read(&path).map_or(serde_json::json!({}), |b| serde_json::from_slice(&b).unwrap());
        change(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
    };
    let shared = |more: &[&str]| more.iter().chain(&["base-set-shared"]).map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let same = |found: &[String], expected: &[&str]| {
        let sorted = |mut all: Vec<String>| (all.sort(), all).1;
        assert_eq!(sorted(found.to_vec()), sorted(shared(expected)));
    };
    let (code, found, result) = variant(&|_| {});
    same(&found, &[]);
    assert_eq!(
        (code, &result["model"]["chat_template_sha256"], &result["model"]["tokenizer_class"]),
        (0, &Value::Null, &Value::Null)
    );
    let (code, found, result) = variant(&|folder| {
        json(folder.join("tokenizer_config.json"), &|t| {
            t["chat_template"] = "{% for m in messages %}{{ m.content }}{% endfor %}".into();
            t["tokenizer_class"] = "LlamaTokenizer".into();
            t["pad_token"] = "~".into();
        });
        json(folder.join("generation_config.json"), &|g| g["temperature"] = 0.7.into());
        json(folder.join("tokenizer.json"), &|t| t["decoder"] = Value::Null);
    });
    same(
        &found,
        &["base-template-changed", "base-generation-changed", "base-special-tokens-changed", "base-tokenizer-differs"],
    );
    assert_eq!((code, result["model"]["tokenizer_class"].as_str()), (0, Some("LlamaTokenizer")));
    // Of the template's own bytes: `printf … | sha256sum`.
    let digest = "2f3f666573313d2b0849e1037ccb379ce3a75eb687eccf69f077257e055b93bd";
    assert_eq!(result["model"]["chat_template_sha256"], digest);
    // Letters that the text does not have, and yet ordinary words do.
    let (code, found, _) = variant(&|folder| {
        json(folder.join("tokenizer.json"), &|t| {
            (t["model"]["vocab"]["J"], t["model"]["vocab"]["K"]) = (44.into(), 43.into());
        });
    });
    same(&found, &["base-tokenizer-changed"]);
    assert_eq!(code, 1);
}

#[test]
fn nothing_is_computed_before_all_configs_are_read() {
    let place = place();
    let variant = |name: &str, file: &str, change: &dyn Fn(&mut Value)| {
        let folder = input(&place, name);
        std::fs::create_dir(&folder).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(place.model().join(file), folder.join(file)).unwrap();
        }
        let mut json: Value = serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(folder.join(file), json.to_string()).unwrap();
    };
    variant("config", "config.json", &|c| c["hidden_act"] = "tanhshrink".into());
    variant("layers", "config.json", &|c| c["num_hidden_layers"] = 2.into());
    variant("tokenizer", "tokenizer.json", &|t| t["model"]["type"] = "None".into());
    located(&place);
    let rows = [
        ("{model}", "{in}/config", "", "hidden_act"),
        ("{model}", "{in}/layers", "", "cannot be compared with the base"),
        ("{model}", "{in}/tokenizer", "", "is not a tokenizer"),
        ("{in}/tokenizer", "{model}", "", "is not a tokenizer"),
        ("{in}/base.json", "{model}", "--side=in", "use --side out"),
        ("published:gemma-7b", "{model}", "--side=in", ""),
    ];
    for (base, variant, option, expected) in rows {
        let options: Vec<&str> = ["--progress=json", option].into_iter().filter(|o| !o.is_empty()).collect();
        let (code, _, told) = run(&place, &[&["compare", base, "{model}", variant], options.as_slice()].concat());
        assert!(code == 2 && told.contains(expected), "{base} {variant}: {told}");
        let computed = told.lines().find(|line| line.contains("\"stage\""));
        assert_eq!(computed, None, "{base} {variant}");
        if variant == "{in}/config" || variant == "{in}/tokenizer" {
            let (code, _, told) = scan(&place, "{model}", &["--base", variant, "--progress=json"]);
            let before = told.lines().take_while(|line| !line.contains("not examined")).count();
            assert!(code == 2 && told.contains(expected) && before > 0, "{variant}: {told}");
        }
    }
}

#[test]
fn activations_are_held_against_a_baseline() {
    let place = place();
    let words = ["The", "capital", "of", "France", "is", "Paris", "a", "river", "runs", "to", "sea", "at", "night"];
    let prompt =
        |n: usize| (0..7).map(|at| words[(n * 7919 + at * at * 31 + n / 3) % 13]).collect::<Vec<_>>().join(" ");
    let lines = |from, to| (from..to).map(prompt).collect::<Vec<_>>().join("\n");
    std::fs::write(input(&place, "recorded.txt"), lines(0, 240)).unwrap();
    std::fs::write(input(&place, "others.txt"), lines(240, 260)).unwrap();
    let record = ["monitor", "record", "{model}", "--prompts={in}/recorded.txt", "-o", "{out}/baseline.json"];
    let output = place.run(&record);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let against = ["--baseline={out}/baseline.json", "--prompts={in}/others.txt"];
    let (code, result, told) = scan(&place, "{model}", &against);
    assert_eq!((code, ids(&result)), (0, vec![]), "{told}");
    assert_eq!(result["baseline"]["alarm"], false);
    scaled(&place, &["L1.mlp.down_proj:out:7".into()], "60");
    let (code, result, _) = scan(&place, "{out}/scaled", &against);
    assert_eq!((code, ids(&result)), (1, vec!["activations-outside"]));
    // Too few prompts for the α that the rules ask for.
    std::fs::write(input(&place, "others.txt"), lines(240, 241)).unwrap();
    let rules = "schema: achilles-audit/rules/v1\nrules: {activations-outside: {thresholds: {alpha: 0.0001}}, \
                 base-perplexity-high: {severity: off}}\n";
    std::fs::write(input(&place, "gate.yaml"), rules).unwrap();
    let (code, _, told) = scan(&place, "{model}", &against);
    assert!(code == 2 && told.contains("not examined: baseline: "), "{told}");
    let (code, _, told) = scan(&place, "{model}", &["--baseline={out}/baseline.json"]);
    assert!(code == 2 && told.contains("--prompts"), "{told}");
}

#[test]
fn the_cache_answers_for_the_same_bytes_and_settings_only() {
    let place = place();
    located(&place);
    // What was written a moment ago may be written again unseen, and is not kept.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let asked = ["--result-cache", "--base={in}/base.json"];
    let (code, first, told) = scan(&place, "{model}", &asked);
    assert_eq!((code, told.as_str()), (0, ""));
    let folder = input(&place, "../.cache/achilles-audit/scan");
    let kept = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let (_, second, _) = scan(&place, "{model}", &asked);
    assert_eq!(first, second);
    assert!(second["critical_set"].is_object() && second["base"].is_object());

    // What is kept is what is told.
    let marked = std::fs::read_to_string(&kept).unwrap().replace("LlamaForCausalLM", "FromTheCache");
    std::fs::write(&kept, marked).unwrap();
    let architecture = |args: &[&str]| scan(&place, "{model}", args).1["model"]["architecture"].clone();
    assert_eq!(architecture(&asked), "FromTheCache");
    for other in
        [&["--base={in}/base.json"][..], &["--result-cache"], &["--result-cache", "--base={in}/base.json", "--seed=43"]]
    {
        assert_eq!(architecture(other), "LlamaForCausalLM", "{other:?}");
    }
    // Of other bytes, if only by a newline, nothing is known: the base's, the tokenizer's.
    for path in [input(&place, "base.json"), place.model().join("tokenizer.json")] {
        let before = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{before}\n")).unwrap();
        assert_eq!(architecture(&asked), "LlamaForCausalLM", "{path:?}");
        std::fs::write(&path, before).unwrap();
        assert_eq!(architecture(&asked), "FromTheCache", "{path:?}");
    }
    // One bit of a weight, with the file's times as they were.
    let weights = place.model().join("model.safetensors");
    let times = std::fs::metadata(&weights).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    std::fs::File::options().write(true).open(&weights).unwrap().set_modified(times).unwrap();
    // From here on every result is kept.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert_eq!(architecture(&asked), "LlamaForCausalLM");
    // Broken ones are computed again, and so are those that lack what is wanted.
    let hollow = |text: &str| {
        let mut kept: Value = serde_json::from_str(text).unwrap();
        kept["ran"] = serde_json::json!({"architecture": "Hollow", "config_sha256": "x"});
        kept.to_string()
    };
    for change in [hollow, |_: &str| "{".to_owned()] {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(path, change(&text)).unwrap();
        }
        assert_eq!(architecture(&asked), "LlamaForCausalLM");
        let (_, result, _) = scan(&place, "{model}", &asked);
        assert!(result["critical_set"].is_object() && result["base"].is_object());
    }
    // What is not a file is neither read nor replaced.
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    }
    let (code, _, told) = scan(&place, "{model}", &asked);
    assert!(code == 0 && told.contains("is not a file"), "{code}: {told}");
}

#[test]
fn a_cache_that_cannot_be_used_is_told_and_left() {
    let place = place();
    std::fs::write(input(&place, "../.cache"), "a file").unwrap();
    let (code, result, told) = scan(&place, "{model}", &["--result-cache"]);
    assert_eq!((code, result["verdict"].as_str()), (0, Some("pass")));
    assert!(told.contains("the cache is not used"), "{told}");
}

#[test]
fn published_sets_are_listed() {
    let place = Place::new();
    let output = place.run(&["published"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("Qwen2.5-0.5B-Instruct") && text.contains("L21.mlp.down_proj:out:62"));
    let output = place.run(&["published", "--format=json"]);
    let sets: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(sets["sets"].as_array().unwrap().len(), 21);
}
