//! A few kilobytes that ask for hours and for all memory: one line, exit code 2 (in lint a finding), soon and in little
//! memory.

use crate::tiny::{Place, join, wait};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// What a run gets: far above what it should take, far below what these would.
const SECONDS: u64 = 60;
const DATA_KIB: u64 = 1 << 20;

/// Runs the binary under these limits.
pub fn run(place: &Place, args: &[&str]) -> Output {
    run_in(place, args, DATA_KIB)
}

fn run_in(place: &Place, args: &[&str], data_kib: u64) -> Output {
    let bare = place.command(args);
    let mut limited = Command::new("/bin/sh");
    limited.arg("-c").arg(format!("ulimit -d {data_kib}; exec \"$0\" \"$@\"")).arg(bare.get_program());
    limited.args(bare.get_args()).env_clear();
    limited.envs(bare.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.stdin(std::process::Stdio::null());
    limited.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    wait(limited.spawn().unwrap(), SECONDS).unwrap_or_else(|problem| panic!("{args:?}: {problem}"))
}

/// It says one line, which holds `says`, and exits with 2.
fn refuses(what: &str, place: &Place, args: &[&str], says: &str) {
    let output = run(place, args);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{what}: {told}{}", String::from_utf8_lossy(&output.stdout));
    assert!(told.lines().count() == 1 && told.contains(says), "{what}: {told}");
}

/// What lint wrote there: a pipe would fill up.
fn report(place: &Place) -> Value {
    serde_json::from_slice(&fs::read(place.out().join("report.json")).unwrap()).unwrap()
}

fn change(path: &Path, change: &dyn Fn(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

const MEMORY: &str = "of memory that its size warrants";
const TIME: &str = "of processor time that its size warrants";

/// 19 kB of zstd that are one text of 600 MiB.
#[test]
fn parquet_that_takes_all_memory_is_refused() {
    let place = Place::new();
    let bomb = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/parquet/bomb.parquet");
    let says = format!("takes more than the 576 MiB {MEMORY}");
    refuses("a bomb", &place, &["perplexity", "{model}", "--corpus", bomb], &says);
}

#[test]
fn tokenizers_that_never_end_or_take_all_memory_are_refused() {
    let replace =
        |from: &str, to: usize| json!({"type": "Replace", "pattern": {"String": from}, "content": from.repeat(to)});
    let sequence = |steps: Vec<Value>| json!({"type": "Sequence", "normalizers": steps});
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let special = json!({"SpecialToken": {"id": "x", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let many: Vec<Value> = (0..20_000).map(|_| special.clone()).chain([text.clone()]).collect();
    let template = json!({"type": "TemplateProcessing", "single": many, "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"x": {"id": "x", "ids": vec![1; 20_000], "tokens": vec!["a"; 20_000]}}});
    for (what, part, value, says) in [
        (
            "a text of many tokens",
            "normalizer",
            replace("e", 100),
            "tokens of 515 bytes of text, expected at most 2124",
        ),
        ("e to a million of e", "normalizer", replace("e", 1_000_000), MEMORY),
        ("e to 3000 e, twice", "normalizer", sequence(vec![replace("e", 3000); 2]), MEMORY),
        ("bytes as characters, 60 times", "normalizer", sequence(vec![json!({"type": "ByteLevel"}); 60]), MEMORY),
        (
            "a long beginning, over and over",
            "normalizer",
            sequence(vec![json!({"type": "Prepend", "prepend": "a".repeat(4000)}); 1000]),
            TIME,
        ),
        ("special tokens, over and over", "post_processor", template, MEMORY),
        (
            "a back reference",
            "pre_tokenizer",
            split(r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)#\1"),
            "regular expression that backtracks without end",
        ),
        (
            "many splits",
            "pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "FixedLength", "length": 1}); 50_000]}),
            TIME,
        ),
    ] {
        let place = Place::new();
        change(&place.model().join("tokenizer.json"), &|tokenizer| tokenizer[part] = value.clone());
        refuses(what, &place, &["perplexity", "{model}"], says);
    }
}

#[test]
fn chat_templates_that_never_end_or_take_all_memory_are_refused() {
    let grown = |step: &str, then: &str| {
        format!(
            "{{% set a = namespace(l=['a']) %}}{{% for i in range(34) %}}{{% set a.l = {step} %}}{{% endfor %}}{then}"
        )
    };
    for (what, template, says) in [
        ("a wide format", "{{ '{:4000000000}'.format(1)|length }}".to_owned(), ""),
        ("a deep list, written", grown("[a.l, a.l]", "{{ a.l|tojson|length }}"), "warrants"),
        (
            "a deep list, compared",
            grown("[a.l, a.l]", "{% set b = a.l %}{{ [b] == [[a.l]] or [a.l, b] == [b, a.l] }}{{ a.l|string|length }}"),
            "warrants",
        ),
        ("a long list", grown("a.l + a.l", "{{ a.l|length }}"), "warrants"),
        (
            "a slice of a long text",
            "{% set x = 'a'*16000000 %}{% for i in range(90000) %}{% set y = x[15999998:] %}{% endfor %}".into(),
            TIME,
        ),
        (
            "a long text",
            "{{ 'a' * 100000 }}".into(),
            "made 100000 bytes of the 30 that were said, expected at most 33008",
        ),
        (
            "lists in lists",
            "{% set a = namespace(l=[]) %}{% for i in range(90000) %}{% set a.l = [a.l] %}{% endfor %}x".into(),
            "",
        ),
    ] {
        let place = Place::new();
        fs::write(place.model().join("chat_template.jinja"), &template).unwrap();
        let args = ["probe", "{model}", "--neuron", "L0.mlp.down_proj:out:1", "--max-new-tokens", "1"];
        refuses(what, &place, &args, says);
        refuses(what, &place, &args, "use --no-chat-template");
    }
}

/// A library's child answers as the library itself does, and its end is not the program's.
#[test]
fn a_process_that_was_asked_to_serve_answers_until_there_are_no_more_requests() {
    use std::io::Write;
    let place = Place::new();
    let serve = |requests: &str| {
        let mut child = place.command(&["--serve-untrusted"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(requests.as_bytes()).unwrap();
        wait(child, SECONDS).unwrap()
    };
    let chat = json!({"Render": {"template": "{{ messages[0].content }}!", "special_tokens": {},
        "turns": [{"role": "user", "content": "Hi", "in_parts": false}]}});
    let output = serve(&format!("{chat}\n{chat}\n"));
    let answer = "{\"Rendered\":{\"made\":{\"Ok\":\"Hi!\"},\"met\":[]}}\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), answer.repeat(2));
    assert_eq!(output.status.code(), Some(0));
    let output = serve("no request\n");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

#[test]
fn what_tensors_share_is_read_once() {
    let place = Place::new();
    let data = vec![1; 2 << 20];
    let entry =
        |i: usize| (format!("a{i}"), json!({"dtype": "F16", "shape": [2, 1 << 19], "data_offsets": [0, data.len()]}));
    let header: Map<String, Value> = (0..20_000).map(entry).collect();
    fs::write(place.model().join("model.safetensors"), join(&serde_json::to_vec(&header).unwrap(), &data)).unwrap();
    // The same file by a thousand names.
    for i in 0..1000 {
        std::os::unix::fs::symlink("model.safetensors", place.model().join(format!("x{i}.safetensors"))).unwrap();
    }
    let output = run(&place, &["lint", "{model}", "--format", "json", "-o", "{out}/report.json"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report = report(&place);
    assert_eq!(report["examined"]["value_bytes"], data.len());
    let ids = report["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap());
    assert!(ids.clone().any(|id| id == "tensor-overlap") && ids.clone().any(|id| id == "stray-weights"));
    let file = |f: &&Value| f["id"] == "tensor-overlap" && f["location"]["file"] != "model.safetensors";
    assert_eq!(report["findings"].as_array().unwrap().iter().filter(file).count(), 0);
}

#[test]
fn a_config_that_asks_for_more_than_any_model_has_is_told_so() {
    let place = Place::new();
    let entry = |i: usize| (i.to_string(), json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}));
    let header: Map<String, Value> = (0..75_000).map(entry).collect();
    fs::write(place.model().join("model.safetensors"), join(&serde_json::to_vec(&header).unwrap(), &[])).unwrap();
    change(&place.model().join("config.json"), &|config| {
        let keys = config.as_object_mut().unwrap();
        keys.retain(|key, _| !["attention_bias", "mlp_bias", "pretraining_tp"].contains(&key.as_str()));
        keys.extend([
            ("num_hidden_layers".to_owned(), json!(10_000)),
            ("num_local_experts".to_owned(), json!(245)),
            ("num_experts_per_tok".to_owned(), json!(2)),
            ("model_type".to_owned(), json!("mixtral")),
            ("architectures".to_owned(), json!(["MixtralForCausalLM"])),
        ]);
    });
    let output = run(&place, &["lint", "{model}"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("2450000 tensors or more"), "{shown}");
}

#[test]
fn receipts_that_list_a_change_again_and_again_are_refused() {
    let place = Place::new();
    assert_eq!(
        run(&place, &["patch", "{model}", "-o", "{out}/p", "--neuron", "L0.mlp.down_proj:out:1"]).status.code(),
        Some(0)
    );
    let receipt = place.out().join("p/achilles-patch.json");
    let sound = fs::read(&receipt).unwrap();
    for (list, says) in [
        ("files", "lists model.safetensors twice"),
        ("edits", "lists row 1 of model.layers.0.mlp.down_proj.weight twice"),
    ] {
        fs::write(&receipt, &sound).unwrap();
        change(&receipt, &|value| {
            let again = value[list][0].clone();
            value[list].as_array_mut().unwrap().extend(vec![again; 8000]);
        });
        refuses(list, &place, &["unpatch", "{out}/p"], says);
        let output = run(&place, &["lint", "{out}/p", "--format", "json"]);
        assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stdout).contains(says), "{list}");
    }
    fs::write(&receipt, &sound).unwrap();
    assert_eq!(run(&place, &["unpatch", "{out}/p"]).status.code(), Some(0));
}

#[test]
fn rule_files_that_ask_for_too_much_are_refused() {
    let place = Place::new();
    let waiver =
        |location: &str| format!("- {{rule: zero-row, location: '{location}', reason: x, expires: 2026-12-01}}\n");
    let nested = format!("{}{}", "{a,".repeat(300), "}".repeat(300));
    for (what, rules, says) in [
        (
            "a long glob",
            format!("waivers:\n{}", waiver(&"*a".repeat(50_000))),
            "has 100000 bytes, expected a glob of at most 4096",
        ),
        ("nested braces", format!("waivers:\n{}", waiver(&nested)), "location: cannot be compiled"),
        ("many waivers", format!("waivers:\n{}", waiver("*").repeat(2000)), "2000 waivers, expected at most 1000"),
        ("brackets", format!("rules: {}", "[".repeat(100_000)), "line 2: over 1000 brackets are open"),
        ("a long file", format!("# {}", "x".repeat(1 << 18)), "expected at most 262144"),
    ] {
        fs::write(place.out().join("rules.yaml"), format!("schema: achilles-audit/rules/v1\n{rules}")).unwrap();
        refuses(what, &place, &["scan", "--static", "{model}", "--rules", "{out}/rules.yaml"], says);
    }
}

#[test]
fn folders_of_more_files_than_a_checkpoint_has_are_refused() {
    let place = Place::new();
    for i in 0..20_001 {
        fs::write(place.model().join(format!("{i}.txt")), "").unwrap();
    }
    let says = "holds over 20000 files, or folders more than 32 deep; expected the folder of one checkpoint";
    refuses("lint", &place, &["lint", "{model}"], says);
    refuses("fingerprint", &place, &["fingerprint", "{model}", "-o", "{out}/fp.json"], says);
    refuses("scan", &place, &["scan", "--static", "{model}"], says);
}

/// Many files with many findings each: those that are not listed are counted.
#[test]
fn reports_of_a_hundred_thousand_findings_are_bounded() {
    let place = Place::new();
    let entry = |i: usize| (i.to_string(), json!({"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}));
    let header: Map<String, Value> = (0..100).map(entry).collect();
    let shard = join(&serde_json::to_vec(&header).unwrap(), &[1]);
    for i in 0..1000 {
        fs::write(place.model().join(format!("x{i}.safetensors")), &shard).unwrap();
    }
    let output = run(&place, &["lint", "{model}", "--format", "json", "-o", "{out}/report.json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = report(&place);
    let (listed, more) = (report["findings"].as_array().unwrap().len(), report["not_listed"].as_u64().unwrap());
    assert!((5000..6000).contains(&listed) && more > 90_000, "{listed} and {more}");
}

#[test]
fn a_long_tokenizer_is_read() {
    let place = Place::new();
    let path = place.model().join("tokenizer.json");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str(&" ".repeat(40 << 20));
    fs::write(&path, text).unwrap();
    let output = run(&place, &["perplexity", "{model}"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Settings of thousands of nested values, and those that are a hole in a disk.
#[test]
fn settings_that_are_none_take_no_memory() {
    let nested = format!("{{\"a\":[{}[[0]]]}}", "[[0]],".repeat(800_000));
    for name in ["generation_config.json", "tokenizer_config.json"] {
        for sparse in [false, true] {
            let place = Place::new();
            let file = fs::File::create(place.model().join(name)).unwrap();
            match sparse {
                true => file.set_len(200 << 20).unwrap(),
                false => fs::write(place.model().join(name), &nested).unwrap(),
            }
            let args = ["lint", "{model}", "--format=json", "-o", "{out}/report.json"];
            let output = run_in(&place, &args, 200 << 10);
            assert_eq!(output.status.code(), Some(1), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let findings = report(&place)["findings"].to_string();
            assert!(findings.contains("file-unreadable") && findings.contains("was not examined"), "{findings}");
        }
    }
    let place = Place::new();
    fs::write(place.model().join("tokenizer.json"), &nested).unwrap();
    let output = run_in(&place, &["lint", "{model}", "--format=json", "-o", "{out}/report.json"], 200 << 10);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(report(&place)["findings"].to_string().contains("tokenizer-invalid"));
}

/// A disk's worth of holes in files of a few kilobytes is told, and not read.
#[cfg(target_os = "linux")]
#[test]
fn what_is_mostly_holes_is_told_and_not_read() {
    const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/oms/keys/p256.pem");
    let large: u64 = 7 << 40;
    let header = json!({"x": {"dtype": "F32", "shape": [large / 4], "data_offsets": [0, large]}}).to_string();
    for (name, start) in [
        ("model.safetensors", join(header.as_bytes(), &[])),
        ("other.safetensors", join(header.as_bytes(), &[])),
        ("README.md", b"# A model".to_vec()),
    ] {
        let place = Place::new();
        let path = place.model().join(name);
        fs::write(&path, &start).unwrap();
        let length = start.len() as u64 + large;
        fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        let output = run(&place, &["lint", "{model}", "--format=json", "-o", "{out}/report.json"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let report = report(&place);
        let found: Vec<&Value> =
            report["findings"].as_array().unwrap().iter().filter(|f| f["id"] == "not-downloaded").collect();
        assert!(found.len() == 1 && found[0]["location"]["file"] == name, "{name}: {found:?}");
        assert!(found[0]["message"].to_string().contains("is mostly holes"), "{name}: {found:?}");
        let diff: &[&str] = &["diff", "{model}", "{model}"];
        let reads = match name {
            // What lies beside the weights that loaders take is a file like any other.
            "other.safetensors" => &[][..],
            _ => &[diff],
        };
        let all: [&[&str]; 2] =
            [&["fingerprint", "{model}", "-o", "{out}/print.json"], &["sign", "{model}", "--private-key", KEY]];
        for args in all.iter().chain(reads) {
            refuses(name, &place, args, "is mostly holes");
        }
        let scanned = run(&place, &["scan", "{model}", "--static"]);
        assert_eq!(scanned.status.code(), Some(1), "{name}: {}", String::from_utf8_lossy(&scanned.stderr));
    }
}

/// What is linked to a thousand times is read once.
#[test]
fn links_do_not_multiply_the_work() {
    let place = Place::new();
    let long = format!("[{}0]", "0,".repeat(2_000_000));
    fs::write(place.model().join("a.json"), long).unwrap();
    for i in 0..1_000 {
        std::os::unix::fs::symlink("a.json", place.model().join(format!("l{i}.json"))).unwrap();
    }
    for args in [
        &["lint", "{model}", "--format=json", "-o", "{out}/report.json"] as &[&str],
        &["fingerprint", "{model}", "-o", "{out}/print.json"],
    ] {
        let began = std::time::Instant::now();
        let output = run(&place, args);
        assert!(output.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(began.elapsed().as_secs() < 20, "{args:?}: {:?}", began.elapsed());
    }
    let print: Value = serde_json::from_slice(&fs::read(place.out().join("print.json")).unwrap()).unwrap();
    let files = print["files"].as_array().unwrap();
    let of = |path: &str| files.iter().find(|file| file["path"] == path).unwrap();
    assert_eq!(of("a.json")["sha256"], of("l999.json")["sha256"]);
    assert_eq!(of("l7.json")["link"], "a.json");

    for i in 0..20 {
        std::os::unix::fs::symlink("model.safetensors", place.model().join(format!("l{i}.safetensors"))).unwrap();
    }
    refuses("tensors by many names", &place, &["fingerprint", "{model}"], "names in the folder, expected at most 16");
}

/// What is wrong with a file is told by each of its names.
#[test]
fn a_file_of_two_names_is_judged_by_both() {
    let place = Place::new();
    let config = place.model().join("tokenizer_config.json");
    fs::write(&config, r#"{"chat_template":"{{ x.__class__ }}","a":1,"a":2}"#).unwrap();
    fs::hard_link(&config, place.model().join("a.json")).unwrap();
    run(&place, &["lint", "{model}", "--format=json", "-o", "{out}/report.json"]);
    let findings = report(&place)["findings"].to_string();
    for rule in ["template-dunder", "json-duplicate-key"] {
        assert_eq!(findings.matches(&format!("\"{rule}\"")).count(), 2, "{rule}: {findings}");
    }
}

/// Long texts that are gone over again and again, behind numbers that let more be said, or in one kind of chat alone.
#[test]
fn a_template_that_takes_too_long_anywhere_was_not_tried() {
    let says =
        "{% for m in messages %}[{{ m.role }}]{{ m.content if m.content is string else '' }}{% endfor %}[assistant]";
    let slow = "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(20) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}\
                {% set s = ns.s %}{% for i in range(9) %}{% for i in range(5000) %}{% set y = s[-1] %}{% endfor %}{% endfor %}";
    let numbers = (99_000..99_008).map(|n| n.to_string()).collect::<Vec<String>>().join(",");
    for template in [
        format!("{says}{{% set l = [{numbers}] %}}{{% if v00 is defined and v00 %}}{slow}{{% endif %}}"),
        format!(
            "{{% if messages[1] is defined and messages[1].reasoning_content is defined %}}{slow}{{% endif %}}{says}"
        ),
    ] {
        let place = Place::new();
        fs::write(place.model().join("chat_template.jinja"), &template).unwrap();
        let started = std::time::Instant::now();
        run(&place, &["lint", "{model}", "--format=json", "-o", "{out}/report.json"]);
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
        let findings = report(&place)["findings"].to_string();
        assert_eq!(findings.matches("template-not-tried").count(), 1, "{findings}");
    }
}

/// A child that is killed says nothing of the template, which is no finding then.
#[cfg(target_os = "linux")]
#[test]
fn a_child_that_is_killed_is_no_property_of_the_template() {
    let place = Place::new();
    let busy = "{% for i in range(300) %}{% for j in range(100) %}{% endfor %}{% endfor %}\
                {% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]";
    fs::write(place.model().join("chat_template.jinja"), busy).unwrap();
    let mut lint = place.command(&["lint", "{model}"]);
    let run = lint.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", run.id());
    let child = (0..600).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(5));
        fs::read_to_string(&children).ok()?.split_whitespace().next().map(str::to_owned)
    });
    assert!(Command::new("kill").arg("-9").arg(child.unwrap()).status().unwrap().success());
    let output = wait(run, SECONDS).unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("could not be examined: the process that runs it was ended"), "{told}");
}
