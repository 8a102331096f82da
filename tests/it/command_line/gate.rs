//! `scan` as the release gate: exit codes, reports, rules, waivers.

use crate::tiny::{Place, TEXT, wait};
use serde_json::Value;
use std::process::Output;

/// A scan of the tiny model, with few samples and an ε that it does not reach.
const SCAN: [&str; 8] = ["scan", "{model}", "--text", TEXT, "--samples", "2", "--max-neurons", "2"];
const FORMATS: [&str; 6] = ["table", "json", "sarif", "junit", "html", "markdown"];

fn with(more: &[&'static str]) -> Vec<&'static str> {
    [&SCAN, more].concat()
}

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap()
}

fn json(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What was found, but for the note that a model this small is not judged by norms.
fn ids(found: &Value) -> Vec<&str> {
    let ids = found["findings"].as_array().unwrap().iter().map(|f| f["id"].as_str().unwrap());
    ids.filter(|id| *id != "lesion-not-examined").collect()
}

/// Writes a rule file that the runs name as `{in}/gate.yaml`.
fn rules(place: &Place, yaml: &str) {
    let path = place.model().parent().unwrap().join("gate.yaml");
    std::fs::write(path, format!("schema: achilles-audit/rules/v1\n{yaml}")).unwrap();
}

/// Something that a warning is given for.
fn custom_code(place: &Place) {
    std::fs::write(place.model().join("modeling_x.py"), "").unwrap();
}

/// The rules of a release, but for a limit that a model of random weights is beyond.
fn strict(place: &Place) {
    rules(place, "extends: release\nrules: {base-perplexity-high: {severity: off}}");
}

/// What is done to the place, what is asked, the exit code, what the JSON says, and what standard error does.
type Case = (fn(&Place), &'static [&'static str], i32, &'static str, &'static str);

const CASES: &[Case] = &[
    (|_| {}, &[], 0, "pass", ""),
    (|_| {}, &["--static"], 0, "pass", ""),
    (custom_code, &[], 1, "fail", ""),
    (custom_code, &["--static"], 1, "fail", ""),
    // What is required, and what was asked for and could not be had.
    (strict, &["--rules", "{in}/gate.yaml"], 2, "not-examined", "fingerprint: no fingerprint was given"),
    (
        |p| rules(p, "require: [critical-set]"),
        &["--rules", "{in}/gate.yaml", "--static"],
        2,
        "not-examined",
        "critical-set: the model was not to be run",
    ),
    (
        |p| rules(p, "require: [critical-set]\nnot_examined: allow"),
        &["--rules", "{in}/gate.yaml", "--static"],
        0,
        "pass",
        "critical-set: the model was not to be run",
    ),
    (
        |p| std::fs::remove_file(p.model().join("tokenizer.json")).unwrap(),
        &[],
        2,
        "not-examined",
        "no tokenizer.json in this folder",
    ),
    (
        |p| {
            custom_code(p);
            std::fs::remove_file(p.model().join("tokenizer.json")).unwrap();
        },
        &[],
        1,
        "fail",
        "no tokenizer.json in this folder",
    ),
    // The rules decide.
    (
        |p| {
            custom_code(p);
            rules(p, "fail_on: error");
        },
        &["--rules", "{in}/gate.yaml"],
        0,
        "pass",
        "",
    ),
    (
        |p| {
            custom_code(p);
            rules(p, "rules: {custom-code: {severity: off}}");
        },
        &["--rules", "{in}/gate.yaml"],
        0,
        "pass",
        "",
    ),
    (
        |p| rules(p, "rules: {base-perplexity-high: {thresholds: {perplexity: 1.5}}}"),
        &["--rules", "{in}/gate.yaml"],
        1,
        "fail",
        "",
    ),
    (
        |p| {
            custom_code(p);
            rules(
                p,
                "longest_waiver_days: 4000000\nwaivers: [{rule: custom-code, location: 'modeling_*.py', reason: reviewed, expires: 9999-12-31}]",
            );
        },
        &["--rules", "{in}/gate.yaml"],
        0,
        "pass",
        "",
    ),
    (
        |p| {
            custom_code(p);
            rules(
                p,
                "waivers: [{rule: custom-code, location: 'modeling_*.py', reason: reviewed, expires: 2020-12-31}]",
            );
        },
        &["--rules", "{in}/gate.yaml"],
        1,
        "fail",
        "",
    ),
];

#[test]
fn the_exit_code_is_the_verdict_s_in_every_format() {
    for (at, (make, more, code, verdict, told)) in CASES.iter().enumerate() {
        let place = Place::new();
        make(&place);
        for format in FORMATS {
            let output = place.run(&[&with(more), ["--format", format].as_slice()].concat());
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(*code), "case {at} {format}: {stderr}{}", text(&output.stdout));
            assert!(
                stderr.contains(told) && stderr.lines().count() == usize::from(!told.is_empty()),
                "case {at}: {stderr}"
            );
            let shown = text(&output.stdout);
            match format {
                "table" => {
                    let head = ["PASS: ", "FAIL: ", "NOT EXAMINED: "][*code as usize];
                    assert!(shown.starts_with(head), "case {at}: {shown}");
                }
                "json" => assert_eq!(json(&output, *code)["verdict"], *verdict, "case {at}"),
                "sarif" => {
                    let found = json(&output, *code);
                    assert_eq!(found["runs"][0]["invocations"][0]["exitCode"], *code, "case {at}");
                    sarif_is_valid(&found);
                }
                "html" => {
                    let head = ["PASS", "FAIL", "NOT EXAMINED"][*code as usize];
                    let page = scraper::Html::parse_document(shown);
                    assert!(page.errors.is_empty(), "case {at}: {:?}", page.errors);
                    let strong = page.select(&scraper::Selector::parse("h1 strong").unwrap()).next().unwrap();
                    assert_eq!(strong.inner_html(), head, "case {at}");
                }
                "markdown" => {
                    let head = ["PASS", "FAIL", "NOT EXAMINED"][*code as usize];
                    assert!(
                        shown.starts_with(&format!("## Audit by achilles-audit\n\n**{head}**: ")),
                        "case {at}: {shown}"
                    );
                }
                _ => {
                    let found = roxmltree::Document::parse(shown).unwrap();
                    let bad = |tag| found.descendants().filter(|n| n.has_tag_name(tag)).count();
                    assert_eq!(bad("failure") > 0, *code == 1, "case {at}: {shown}");
                    assert_eq!(bad("error") > 0, !told.is_empty(), "case {at}: {shown}");
                }
            }
        }
    }
}

/// By the schema that OASIS publishes, and what GitHub asks for besides.
pub fn sarif_is_valid(found: &Value) {
    let schema = include_str!("../../../fixtures/sarif/sarif-schema-2.1.0.json");
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("sarif.json", serde_json::from_str(schema).unwrap()).unwrap();
    let form = compiler.compile("sarif.json", &mut schemas).unwrap();
    if let Err(e) = schemas.validate(found, form) {
        panic!("{e:#}\n{found:#}");
    }
    let run = &found["runs"][0];
    for result in run["results"].as_array().unwrap() {
        let place = &result["locations"][0]["physicalLocation"];
        assert!(place["region"]["startLine"].as_u64() >= Some(1), "{result}");
        let uri = place["artifactLocation"]["uri"].as_str().unwrap();
        assert!(!uri.is_empty() && !uri.starts_with('/') && !uri.contains([':', ' ']), "{uri}");
        assert_eq!(result["partialFingerprints"]["achillesAudit/v1"].as_str().unwrap().len(), 64);
        let rule = &run["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize];
        assert_eq!(rule["id"], result["ruleId"]);
        let (why, help) = (rule["fullDescription"]["text"].as_str().unwrap(), &rule["help"]);
        assert!(help["text"].as_str().unwrap().starts_with(why), "{help}");
        assert!(help["markdown"].as_str().unwrap().contains("**What to do.** "), "{help}");
    }
}

#[test]
fn a_waived_finding_is_shown_and_suppressed() {
    let place = Place::new();
    custom_code(&place);
    std::fs::write(place.model().join("<odd> & \"name\".py"), "").unwrap();
    rules(
        &place,
        "waivers:\n- {rule: custom-code, location: 'modeling_*', reason: 'read <it> & signed', expires: 9999-12-31}\n\
         - {rule: custom-code, location: '<odd>*', reason: old, expires: 2020-01-01}\n\
         - {rule: zero-row, location: '*', reason: none, expires: 9999-12-31}\n\
         - {rule: signature-refused, location: '*', reason: not verified here, expires: 9999-12-31}\n\
         longest_waiver_days: 4000000\nrules: {lesion-not-examined: {severity: off}}\n",
    );
    let args = with(&["--static", "--rules", "{in}/gate.yaml", "--format"]);
    let run = |format: &'static str| place.run(&[args.as_slice(), &[format]].concat());
    let found = json(&run("json"), 1);
    assert_eq!(ids(&found), ["custom-code", "waiver-expired", "waiver-unused", "custom-code"]);
    let findings = found["findings"].as_array().unwrap();
    let waived = serde_json::json!({"reason": "read <it> & signed", "expires": "9999-12-31"});
    assert_eq!((&findings[3]["waived"], &findings[0]["waived"]), (&waived, &Value::Null));
    assert!(
        findings[1]["message"].as_str().unwrap().starts_with("line 4: the waiver of custom-code at \"<odd>*\" expired")
    );
    assert!(findings[2]["message"].as_str().unwrap().starts_with("line 5: the waiver of zero-row"));
    let table = run("table");
    for shown in ["waived (warning)", "waived until 9999-12-31: read <it> & signed", "2 warnings, 1 note, 1 waived"] {
        assert!(text(&table.stdout).contains(shown), "{}", text(&table.stdout));
    }
    let sarif = json(&run("sarif"), 1);
    sarif_is_valid(&sarif);
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results[3]["suppressions"][0]["justification"], "read <it> & signed (until 9999-12-31)");
    assert_eq!(results[0]["suppressions"], serde_json::json!([]));
    assert_eq!(
        results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
        "%3Codd%3E%20%26%20%22name%22.py"
    );
    assert_eq!(results[1]["locations"][0]["physicalLocation"]["region"]["startLine"], 4);
    let junit = run("junit");
    let junit = roxmltree::Document::parse(text(&junit.stdout)).unwrap();
    let suite = junit.descendants().find(|n| n.has_tag_name("testsuite")).unwrap();
    let count = |tag: &str| suite.descendants().filter(|n| n.has_tag_name(tag)).count().to_string();
    for (attribute, tag) in
        [("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")]
    {
        assert_eq!(suite.attribute(attribute), Some(count(tag).as_str()), "{attribute}");
    }
    let names: Vec<&str> = suite.children().filter_map(|n| n.attribute("name")).collect();
    assert!(names.contains(&"custom-code: <odd> & \\\"name\\\".py"), "{names:?}");
}

#[test]
fn a_fingerprint_is_held_against_the_files() {
    let place = Place::new();
    let taken = place.run(&["fingerprint", "{model}", "-o", "{out}/f.json"]);
    assert!(taken.status.success());
    let args = with(&["--fingerprint", "{out}/f.json", "--rules", "{in}/gate.yaml", "--format", "json"]);
    strict(&place);
    let found = json(&place.run(&args), 0);
    assert_eq!((&found["fingerprint"]["intact"], &found["not_examined"]), (&true.into(), &serde_json::json!([])));
    let patch = ["patch", "{model}", "-o", "{out}/lesioned", "--neuron", "L1.mlp.down_proj:out:3", "--beta", "0.5"];
    assert!(place.run(&patch).status.success());
    for name in ["achilles-patch.json", "achilles-patch.undo"] {
        std::fs::remove_file(place.out().join("lesioned").join(name)).unwrap();
    }
    let mut lesioned = args.clone();
    lesioned[1] = "{out}/lesioned";
    let found = json(&place.run(&lesioned), 1);
    assert_eq!(ids(&found)[..2], ["fingerprint-file-changed", "fingerprint-tensor-changed"]);
    let place_of = &found["findings"][1]["location"];
    assert_eq!(place_of["file"], "model.safetensors");
    assert_eq!((&place_of["axis"], &place_of["index"]), (&"row".into(), &3.into()));
    let message = found["findings"][1]["message"].as_str().unwrap();
    assert!(message.contains("0.5 times what it was (neuron L1.mlp.down_proj:out:3)"), "{message}");
    // A fingerprint that cannot be read is a mistake of the one who asks.
    let output = place.run(&with(&["--fingerprint", "{out}/none.json"]));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
}

#[test]
fn a_signature_is_verified() {
    let place = Place::new();
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/oms/keys");
    let (own, public) = (format!("{keys}/p256.pem"), format!("{keys}/p256.pub.pem"));
    let signed = place.run(&["sign", "{model}", "--private-key", &own]);
    assert!(signed.status.success(), "{}", text(&signed.stderr));
    let run_with = |place: &Place, more: &[&str]| {
        let args = ["scan", "{model}", "--static", "--signature", "--public-key", &public, "--format", "json"];
        place.run(&[&args, more].concat())
    };
    let run = |place: &Place| run_with(place, &[]);
    let found = json(&run(&place), 0);
    assert_eq!(found["signature"]["verdict"], "verified");
    std::fs::write(place.model().join("README.md"), "new").unwrap();
    assert_eq!(ids(&json(&run(&place), 1)), ["signature-file-extra"]);
    // What is let be is listed, and fails nothing.
    assert_eq!(ids(&json(&run_with(&place, &["--ignore-unsigned-files"]), 0)), ["signature-left-out"]);
    std::fs::remove_file(place.model().join("model.sig")).unwrap();
    let found = json(&run(&place), 2);
    assert_eq!(found["not_examined"][0]["measurement"], "signature");
    let other = format!("{keys}/p384.pub.pem");
    assert!(place.run(&["sign", "{model}", "--private-key", &own]).status.success());
    let found = place.run(&[
        "scan",
        "{model}",
        "--static",
        "--signature={model}/model.sig",
        "--public-key",
        &other,
        "--format",
        "json",
    ]);
    assert_eq!(ids(&json(&found, 1)), ["signature-refused"]);
}

#[test]
fn nan_is_a_finding_and_the_rest_is_not_examined() {
    let place = Place::new();
    let path = place.model().join("model.safetensors");
    let mut tensors = crate::tiny::load(&std::fs::read(&path).unwrap());
    let norm = tensors.iter_mut().find(|t| t.name == "model.norm.weight").unwrap();
    norm.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, crate::tiny::save(&tensors)).unwrap();
    let found = json(&place.run(&with(&["--format", "json"])), 1);
    assert!(ids(&found).contains(&"nan") && ids(&found).contains(&"base-perplexity-not-finite"), "{:?}", ids(&found));
    assert_eq!(found["not_examined"][0]["measurement"], "critical-set");
}

#[test]
fn a_gguf_is_linted_and_run() {
    let place = Place::new();
    // What nobody looked at does not pass.
    let unsound: [(&str, &[u8]); 3] = [
        ("empty.gguf", b""),
        ("pointer.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n"),
        ("short.gguf", b"GGUF\x03\0\0\0"),
    ];
    for (name, content) in unsound {
        std::fs::write(place.model().join(name), content).unwrap();
        let path = format!("{{model}}/{name}");
        for more in [&["--static"][..], &[]] {
            for format in FORMATS {
                let output = place.run(&[&["scan", &path, "--format", format], more].concat());
                assert_eq!(output.status.code(), Some(2), "{name} {more:?} {format}: {}", text(&output.stdout));
            }
        }
        std::fs::remove_file(place.model().join(name)).unwrap();
    }
    let gguf = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/gguf/tiny-llama-spm.gguf");
    let sound = json(&place.run(&["scan", gguf, "--static", "--format", "json"]), 0);
    assert_eq!((&sound["verdict"], &sound["not_examined"]), (&"pass".into(), &serde_json::json!([])));
    let mut args = with(&["--format", "json"]);
    args[1] = gguf;
    let found = json(&place.run(&args), 0);
    assert!(found["lint"]["value_bytes"].as_u64().unwrap() > 10_000, "{found}");
    assert!(found["critical_set"]["base"]["perplexity"].as_f64().unwrap() > 1.0);
    // How it is served is judged: its chat template.
    let mut bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/gguf/tiny-llama.gguf")).unwrap();
    let template = b"{{ messages }}";
    let at = bytes.windows(template.len()).position(|window| window == template).unwrap();
    bytes[at..at + template.len()].copy_from_slice(b"{{ 'say it' }}");
    std::fs::write(place.model().join("x.gguf"), bytes).unwrap();
    let mut args = with(&["--format", "json"]);
    args[1] = "{model}/x.gguf";
    let found = json(&place.run(&args), 1);
    let first = &found["findings"][0];
    assert_eq!((&first["id"], &first["location"]["file"]), (&"template-drops-text".into(), &"x.gguf".into()));
}

#[test]
fn a_reader_that_has_had_enough_does_not_change_the_verdict() {
    for format in FORMATS {
        let place = Place::new();
        custom_code(&place);
        let mut child = place.command(&with(&["--static", "--format", format])).spawn().unwrap();
        drop(child.stdout.take());
        let output = wait(child, 60).unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), ""), "{format}");
    }
}

#[test]
fn a_bad_rule_file_is_one_line_and_exit_code_2() {
    let place = Place::new();
    rules(&place, "rules:\n  zero-row: {severity: bad}\n");
    let output = place.run(&with(&["--rules", "{in}/gate.yaml"]));
    let stderr = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
    assert!(stderr.lines().count() == 1 && stderr.contains("gate.yaml: line 3, column 24: "), "{stderr}");
    let output = place.run(&with(&["--rules", "{in}/nowhere.yaml"]));
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("nowhere.yaml"));
}

#[test]
fn rules_are_listed_and_explained() {
    let place = Place::new();
    let list = place.run(&["rules", "list"]);
    assert!(list.status.success() && text(&list.stdout).contains("│ pickle-file "));
    let strict = place.run(&["rules", "list", "--rules", "release"]);
    assert_ne!(strict.stdout, list.stdout);
    let schema = place.run(&["rules", "schema"]);
    assert_eq!(text(&schema.stdout), include_str!("../../../rules/schema.json"));
    for rule in achilles_audit::rules::Rules::default_rules().unwrap().all() {
        let explained = place.run(&["explain", rule.id.as_str()]);
        let said = text(&explained.stdout);
        assert!(explained.status.success() && said.starts_with(&format!("{}: {}\n", rule.id, rule.why)), "{said}");
    }
    let explained = place.run(&["explain", "critical-set-small"]);
    let shown = text(&explained.stdout);
    assert!(shown.contains("thresholds: neurons: 5, damage: 1") && shown.contains("severity: note"), "{shown}");
    let unknown = place.run(&["explain", "zero-rwo"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("did you mean `zero-row`?"), "{}", text(&unknown.stderr));
}

/// A scan by which nothing was measured has nothing to pass by.
#[test]
fn nothing_measured_is_not_examined() {
    let place = Place::new();
    let off = achilles_audit::rules::Rules::default_rules().unwrap();
    let off: Vec<String> = off.all().iter().map(|rule| format!("{}: {{severity: off}}", rule.id)).collect();
    rules(&place, &format!("rules: {{{}}}", off.join(", ")));
    for format in FORMATS {
        let output = place.run(&with(&["--rules", "{in}/gate.yaml", "--format", format]));
        assert_eq!(output.status.code(), Some(2), "{format}");
    }
}

/// A path that is no text is one in every format.
#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_are_no_reason_to_fail() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let path = place.out().join(std::ffi::OsStr::from_bytes(b"f\xff.json"));
    assert!(place.command(&["fingerprint", "{model}", "-o"]).arg(&path).status().unwrap().success());
    for format in FORMATS {
        let mut scan = place.command(&["scan", "{model}", "--static", "--format", format, "--fingerprint"]);
        let output = scan.arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{format}: {}", text(&output.stderr));
    }
    let output = place.command(&["verify", "{model}", "--format", "json"]).arg(&path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

/// The section for a model card names the set, and the command in it gives the same.
#[test]
fn a_model_card_tells_how_to_repeat_it() {
    let place = Place::new();
    let set = ["--epsilon", "0.002", "--alpha", "0.5", "--format", "markdown"];
    let args = ["scan", "{model}", "--text", TEXT, "--samples", "2", "--max-neurons", "20"];
    let output = place.run(&[&args[..], &set].concat());
    let section = text(&output.stdout).to_owned();
    assert!(section.starts_with("## Audit by achilles-audit\n\n**"), "{section}");
    let block = section.split("```").nth(1).unwrap().strip_prefix("sh\n").unwrap();
    let (command, about) = block.split_once('\n').unwrap();
    assert!(about.starts_with("# TEXT: the text with SHA-256 "), "{block}");
    let words: Vec<&str> = command.split(' ').map(|word| if word == "TEXT" { "{out}/text" } else { word }).collect();
    assert_eq!(words[0], "achilles-audit");
    std::fs::write(place.out().join("text"), TEXT).unwrap();
    let repeat = [&words[1..], &["--format", "json"]].concat();
    let found: Value = serde_json::from_slice(&place.run(&repeat).stdout).unwrap();
    let settings = &found["critical_set"]["settings"];
    assert_eq!(
        (&settings["alpha"], &settings["epsilon"], &settings["samples"]),
        (&0.5.into(), &0.002.into(), &2.into())
    );
    let neurons = found["critical_set"]["critical_set"]["neurons"].as_array().unwrap();
    for neuron in neurons {
        let short = neuron.as_str().unwrap().replacen("model.layers.", "L", 1);
        assert!(section.contains(&format!("| `{short}` |")), "{short}: {section}");
    }
    let also = ["--dtype", "f64", "--counting", "published"];
    let section = text(&place.run(&[&args[..], &set, &also].concat()).stdout).to_owned();
    assert!(section.contains(" --dtype f64") && section.contains(" --counting published"), "{section}");
    let of_static = text(&place.run(&["scan", "{model}", "--static", "--format", "markdown"]).stdout).to_owned();
    assert!(
        of_static.contains("--static\n```") && of_static.starts_with("## Audit by achilles-audit\n\n**PASS**"),
        "{of_static}"
    );
}
