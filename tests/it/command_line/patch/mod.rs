//! Lesions baked into weights: they do what the hooked intervention does, in every family; what weights cannot express
//! is refused.

mod experts;
mod gguf;
mod weights;

use crate::tiny::{self, Place};
use achilles_audit::Result;
use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::checkpoint::sha256_hex;
use achilles_audit::compute::{Arithmetic, ComputeSettings, DeviceChoice, Model, NoHook, Residency, Row};
use achilles_audit::evaluate::metrics::nll_nats;
use achilles_audit::neuron::{Action, Intervention, Neuron, Side, Site};
use achilles_audit::patch::{self, Plan};
use achilles_audit::progress::Silent;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Output;

pub const FAST: patch::WriteSettings = patch::WriteSettings { link: false, digests: false };

pub fn families() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = folders.filter(|path| path.join("reference.safetensors").exists()).collect();
    folders.sort();
    folders
}

/// A model folder of a fixture's weights and config, and nothing else.
pub fn copy(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

pub fn open(folder: &Path) -> (Checkpoint, Recipe) {
    let checkpoint = Checkpoint::open(folder.to_str().unwrap(), &Silent).unwrap();
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    (checkpoint, recipe)
}

fn plan(folder: &Path, interventions: &[Intervention]) -> Result<Plan> {
    let (checkpoint, recipe) = open(folder);
    Plan::new(&checkpoint, &recipe, interventions)
}

fn neuron(text: &str) -> Neuron {
    text.parse().unwrap()
}

/// One neuron of every kind of site that hooks see: of each name within layers one, in the last layer that has it.
pub fn one_of_each(recipe: &Recipe) -> Vec<Neuron> {
    let mut seen = BTreeSet::new();
    let mut neurons = Vec::new();
    for module in recipe.modules().iter().filter(|module| module.is_hooked()).rev() {
        for (side, channels) in [(Side::In, module.inputs), (Side::Out, module.outputs)] {
            let site = Site { module: module.path.parse().unwrap(), side };
            let kind = site.module.in_layer().replace(|c: char| c.is_ascii_digit(), "");
            if seen.insert((kind, side)) {
                neurons.push(Neuron { site, channel: channels * 2 / 3 });
            }
        }
    }
    neurons
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn good(output: Output) -> Output {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    output
}

/// The files of a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

const PATCH: [&str; 6] = ["patch", "{model}", "--neuron", "L1.mlp.down_proj:out:3", "--neuron", "L0.mlp.act_fn:out:5"];

#[test]
fn the_binary_patches_verifies_and_goes_back() {
    let place = Place::new();
    let run = |args: &[&str]| place.run(args);
    let model = files(&place.model());

    let before = place.snapshot();
    let dry = good(run(&[&PATCH, ["--dry-run"].as_slice()].concat()));
    for says in ["L1.mlp.down_proj:out:3", "row 3 of model.layers.1.mlp.down_proj.weight", "column 5", "is exact"] {
        assert!(text(&dry.stdout).contains(says), "{}", text(&dry.stdout));
    }
    assert!(place.snapshot() == before);

    good(run(&[&PATCH, ["-o", "{out}/p", "--beta", "0.3", "--digests"].as_slice()].concat()));
    let out = place.out().join("p");
    let patched = files(&out);
    let ours = ["achilles-patch.json", "achilles-patch.undo"];
    let names: Vec<&String> = patched.keys().filter(|n| !ours.contains(&n.as_str())).collect();
    assert_eq!(names, model.keys().collect::<Vec<_>>());
    let receipt: Value = serde_json::from_slice(&patched[ours[0]]).unwrap();
    assert_eq!(receipt["schema"], "achilles-audit/patch/v1");
    assert_eq!(receipt["asked"][1]["beta"], 0.3);
    assert_eq!(receipt["files"][0]["sha256_before"], sha256_hex(&model["model.safetensors"]));
    assert_eq!(receipt["files"][0]["sha256_after"], sha256_hex(&patched["model.safetensors"]));
    assert!(receipt["rounding"]["worst_relative"].as_f64().unwrap() < 1e-7);
    let verify = ["verify-patch", "{out}/p", "--original", "{model}"];
    let verified = good(run(&verify));
    assert!(text(&verified.stdout).contains("nothing else differs"), "{}", text(&verified.stdout));
    // Refused before the plan is printed.
    for (args, says) in [
        (["patch", "{model}", "-o", "{out}/p"], "is not empty"),
        (["patch", "{out}/p", "-o", "{out}/q"], "is patched already"),
        (["patch", "{out}/p", "--in-place", "--dry-run"], "is patched already"),
    ] {
        let refused = run(&[args.as_slice(), &PATCH[2..]].concat());
        assert!(refused.status.code() == Some(2) && refused.stdout.is_empty());
        assert!(text(&refused.stderr).contains(says), "{}", text(&refused.stderr));
    }

    let mut bytes = patched["model.safetensors"].clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(out.join("model.safetensors"), bytes).unwrap();
    let differs = run(&verify);
    assert_eq!(differs.status.code(), Some(1));
    assert!(text(&differs.stdout).contains("differs, outside of the receipt's edits"), "{}", text(&differs.stdout));
    let refused = run(&["unpatch", "{out}/p"]);
    assert!(text(&refused.stderr).contains("was changed since"), "{}", text(&refused.stderr));
    std::fs::write(out.join("model.safetensors"), &patched["model.safetensors"]).unwrap();
    good(run(&["unpatch", "{out}/p"]));
    assert!(files(&out) == model);

    good(run(&[&PATCH, ["--in-place"].as_slice()].concat()));
    assert!(files(&place.model())["model.safetensors"] != model["model.safetensors"]);
    good(run(&["unpatch", "{model}"]));
    assert!(files(&place.model()) == model);
}

/// Loaders read other files than those of one list: what is the model's own goes along, but for other weights.
#[test]
fn what_is_the_models_own_is_carried_and_what_is_missing_is_told() {
    let place = Place::new();
    let write = |folder: &Path, name: &str, text: &str| {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
    };
    let own =
        ["1_Pooling/config.json", "additional_chat_templates/tool_use.jinja", "README.md", "original/params.json"];
    let other = ["original/consolidated.00.pth", "onnx/model.onnx", "pytorch_model.bin", ".hidden/x"];
    own.iter().chain(&other).for_each(|name| write(&place.model(), name, name));
    write(&place.model(), ".git/HEAD", "ref");
    let patched = good(place.run(&[&PATCH, ["-o", "{out}/p"].as_slice()].concat()));
    let said = "not copied: .hidden, onnx/model.onnx, original/consolidated.00.pth, pytorch_model.bin\n";
    assert!(text(&patched.stderr).contains(said), "{}", text(&patched.stderr));
    let out = place.out().join("p");
    for name in own {
        assert_eq!(std::fs::read_to_string(out.join(name)).unwrap(), name);
    }
    assert!(other.iter().chain(&[".git"]).all(|name| !out.join(name).exists()));
    let verify = || {
        let output = place.run(&["verify-patch", "{out}/p", "--original", "{model}"]);
        (output.status.code(), text(&output.stdout).to_owned())
    };
    assert!(verify().1.contains("nothing else differs") && verify().0 == Some(0), "{:?}", verify());
    std::fs::remove_dir_all(out.join("1_Pooling")).unwrap();
    write(&out, own[1], "another");
    write(&out, "onnx/new.onnx", "new");
    #[cfg(unix)]
    {
        std::fs::rename(out.join("README.md"), place.out().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", out.join("README.md")).unwrap();
    }
    let (code, said) = verify();
    assert_eq!(code, Some(1));
    for says in [
        "1_Pooling/config.json is in the original checkpoint only",
        "additional_chat_templates/tool_use.jinja has 7 bytes, the original",
        "onnx/new.onnx is in the patched checkpoint only",
        #[cfg(unix)]
        "README.md is a link in the patched checkpoint only",
        if cfg!(unix) { "4 differences" } else { "3 differences" },
    ] {
        assert!(said.contains(says), "{said}");
    }
}

/// What takes next to no room in the model's folder takes none in the patched one.
#[cfg(target_os = "linux")]
#[test]
fn holes_and_links_stay_what_they_are() {
    use std::os::unix::fs::{MetadataExt, symlink};
    let place = Place::new();
    let model = place.model();
    std::fs::create_dir(model.join("below")).unwrap();
    std::fs::write(model.join("blob.dat"), vec![1; 1 << 20]).unwrap();
    std::fs::write(model.join("LICENSE"), "free").unwrap();
    std::fs::File::options().write(true).open(model.join("LICENSE")).unwrap().set_len(1 << 42).unwrap();
    for i in 0..60 {
        symlink("blob.dat", model.join(format!("l{i}.txt"))).unwrap();
    }
    symlink(model.join("blob.dat"), model.join("below/l.txt")).unwrap();
    // Names of files that are there while the folder is written.
    std::fs::write(model.join(".achilles-audit-unfinished"), "theirs").unwrap();
    std::fs::write(model.join("achilles-patch.json.partial"), "theirs").unwrap();
    let patched = good(place.run(&[&PATCH, ["-o", "{out}/p"].as_slice()].concat()));
    let said = "not copied: .achilles-audit-unfinished, achilles-patch.json.partial\n";
    assert!(text(&patched.stderr).contains(said), "{}", text(&patched.stderr));
    let out = place.out().join("p");
    let about = std::fs::metadata(out.join("LICENSE")).unwrap();
    assert!(about.len() == 1 << 42 && about.blocks() * 512 < 1 << 20, "{} blocks", about.blocks());
    let verified = place.run(&["verify-patch", "{out}/p", "--original", "{model}"]);
    assert!(verified.status.code() == Some(2) && text(&verified.stderr).contains("LICENSE: is mostly holes"));
    std::fs::remove_file(model.join("LICENSE")).unwrap();
    std::fs::remove_file(out.join("LICENSE")).unwrap();
    for (link, target) in [("l0.txt", "blob.dat"), ("l59.txt", "blob.dat"), ("below/l.txt", "../blob.dat")] {
        assert_eq!(std::fs::read_link(out.join(link)).unwrap(), Path::new(target));
        assert_eq!(std::fs::metadata(out.join(link)).unwrap().len(), 1 << 20);
    }
    good(place.run(&["verify-patch", "{out}/p", "--original", "{model}"]));
    // Hard links cannot be told from the files that they are: they are copied, up to a bound.
    std::fs::File::options().write(true).open(model.join("blob.dat")).unwrap().set_len(90 << 20).unwrap();
    for i in 0..6 {
        std::fs::hard_link(model.join("blob.dat"), model.join(format!("h{i}.txt"))).unwrap();
    }
    let refused = place.run(&[&PATCH, ["-o", "{out}/q"].as_slice()].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("some of them several names"), "{}", text(&refused.stderr));
    assert!(!place.out().join("q").exists());
}

/// A patched folder in the model's own is neither copied nor missed.
#[test]
fn a_patched_folder_may_lie_in_the_models() {
    let place = Place::new();
    for name in ["{model}/p", "{model}/q"] {
        good(place.run(&[&PATCH, ["-o", name].as_slice()].concat()));
        good(place.run(&["verify-patch", name, "--original", "{model}"]));
    }
    assert!(!place.model().join("q/p/model.safetensors").exists() && !place.model().join("q/q").exists());
}

#[test]
fn the_binary_keeps_a_vault_and_restores_from_it() {
    let place = Place::new();
    let model = files(&place.model());
    let neurons = ["--neuron", "L1.mlp.down_proj:out:3", "--neuron", "L0.mlp.act_fn:out:5"];
    let keep = |out: &str| place.run(&[["vault", "{model}", "-o", out].as_slice(), &neurons].concat());
    let refused = |output: Output, says: &str| {
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(says) && error.lines().count() == 1, "{error}");
    };
    refused(keep("{model}/vault.safetensors"), "would lie in a model folder");
    good(keep("{out}/v.safetensors"));
    refused(keep("{out}/v.safetensors"), "is there already");
    let vault = std::fs::read(place.out().join("v.safetensors")).unwrap();
    assert!(vault.len() < 10_000, "{}", vault.len());
    let restore = |more: &[&str]| {
        place.run(&[["restore", "{model}", "--vault", "{out}/v.safetensors"].as_slice(), more].concat())
    };

    let equal = good(restore(&[]));
    assert!(text(&equal.stdout).contains("nothing to restore"), "{}", text(&equal.stdout));
    // A patch whose undo file is lost.
    good(place.run(&[&PATCH, ["--in-place"].as_slice()].concat()));
    std::fs::remove_file(place.model().join(patch::UNDO)).unwrap();
    refused(place.run(&["unpatch", "{model}"]), "the original checkpoint can help");
    let dry: Value = serde_json::from_slice(&good(restore(&["--dry-run", "--format", "json"])).stdout).unwrap();
    assert_eq!((&dry["schema"], &dry["patch_undone"]), (&"achilles-audit/restore/v1".into(), &true.into()));
    assert_eq!(dry["parts"].as_array().unwrap().len(), 2);
    let restored = good(restore(&[]));
    for says in ["row 3 of model.layers.1.mlp.down_proj.weight", "column 5", "2 of 2 kept parts restored", "undid"] {
        assert!(text(&restored.stdout).contains(says), "{}", text(&restored.stdout));
    }
    assert!(files(&place.model()) == model);
    // The kept parts are sound and another row of the same tensor is not: nothing to restore, and not all is well.
    good(place.run(&["patch", "{model}", "--in-place", "--neuron", "L1.mlp.down_proj:out:4"]));
    for name in [patch::RECEIPT, patch::UNDO] {
        std::fs::remove_file(place.model().join(name)).unwrap();
    }
    let elsewhere = restore(&[]);
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(text(&elsewhere.stderr).contains("in more than the kept parts"), "{}", text(&elsewhere.stderr));
    good(restore(&["--force"]));
    refused(place.run(&["restore", "{out}", "--vault", "{out}/v.safetensors"]), "config.json");
    refused(place.run(&["restore", "{model}", "--vault", "{model}/model.safetensors"]), "is not a vault");
}

#[test]
fn a_plan_is_printed_for_programs_too() {
    let place = Place::new();
    let run = |beta: &str| place.run(&[&PATCH, ["--dry-run", "--format", "json", "--beta", beta].as_slice()].concat());
    // Not a number that a careless reader of decimals gives back.
    let beta = 0.300_000_000_000_000_04;
    let plan: Value = serde_json::from_slice(&good(run(&beta.to_string())).stdout).unwrap();
    assert_eq!((&plan["schema"], &plan["asked"][0]["beta"]), (&"achilles-audit/patch-plan/v1".into(), &beta.into()));
    let edit = &plan["edits"][1];
    assert_eq!((&edit["axis"], &edit["index"], &edit["dtype"]), (&"row".into(), &3.into(), &"F32".into()));
    assert_eq!(edit["bytes"], edit["changed_bytes"]);
    let value = |of: &str, at: usize| edit[of][at].as_f64().unwrap();
    let count = edit["before"].as_array().unwrap().len();
    assert!(count > 10 && (0..count).all(|at| value("after", at) == f64::from((value("before", at) * beta) as f32)));

    let same: Value = serde_json::from_slice(&good(run("1")).stdout).unwrap();
    assert!(same["edits"].as_array().unwrap().iter().all(|edit| edit["changed_bytes"] == 0 && edit["bytes"] != 0));
    let same = good(place.run(&[&PATCH, ["--dry-run", "--beta", "1"].as_slice()].concat()));
    assert!(text(&same.stdout).contains("2 edits, no value changes"), "{}", text(&same.stdout));
    let one = good(place.run(&["patch", "{model}", "--neuron", "L1.mlp.down_proj:out:3", "--dry-run"]));
    assert!(text(&one.stdout).contains(" in 1 edit, all change; every value is exact"), "{}", text(&one.stdout));
}

#[test]
fn unpatch_says_what_it_does_not_know() {
    let place = Place::new();
    let model = files(&place.model());
    let refused = |args: &[&str], says: &str| {
        let output = place.run(args);
        assert_eq!((output.status.code(), text(&output.stderr).contains(says)), (Some(2), true), "{output:?}");
    };
    refused(&["unpatch", "nope"], "nope: no such folder; expected a model folder");
    refused(&["unpatch", "{out}"], "holds no config.json; expected a model folder");
    refused(&["unpatch", "{model}"], "nothing to undo");
    refused(&["unpatch", "{model}/model.safetensors"], "is not a folder; expected a model folder");
    // Whatever became of the config, a key that nobody knows or none at all.
    let unknown = text(&model["config.json"]).replacen('{', "{\"my_loader_hint\": 0.5, ", 1);
    for config in [[model["config.json"].as_slice(), b"\n"].concat(), unknown.into_bytes(), b"{}".to_vec()] {
        good(place.run(&[&PATCH, ["--in-place"].as_slice()].concat()));
        std::fs::write(place.model().join("config.json"), &config).unwrap();
        let undone = good(place.run(&["unpatch", "{model}"]));
        assert!(text(&undone.stderr).contains("config.json is not the one"), "{}", text(&undone.stderr));
        std::fs::write(place.model().join("config.json"), &model["config.json"]).unwrap();
        assert!(files(&place.model()) == model);
    }
}

#[cfg(unix)]
#[test]
fn what_files_are_called_cannot_turn_a_line_around() {
    let place = Place::new();
    good(place.run(&[&PATCH, ["-o", "{out}/p"].as_slice()].concat()));
    std::fs::write(place.out().join("p/\u{202e}\u{1b}[2J\n.py"), "").unwrap();
    let output = place.run(&["verify-patch", "{out}/p", "--original", "{model}"]);
    assert!(text(&output.stdout).contains("\\u{202e}\\u{1b}[2J"), "{}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(1));
    let output = place.run(&["unpatch", "\u{202e}é\u{301}\u{200b}\"'\\"]);
    assert!(text(&output.stderr).contains("\\u{202e}é\u{301}\\u{200b}\"'\\: no such"), "{}", text(&output.stderr));
}

#[test]
fn what_is_missing_is_named_with_all_choices() {
    let place = Place::new();
    for (args, choices) in [
        (
            &["patch", "{model}", "--neuron", "L1.mlp.down_proj:out:3"] as &[&str],
            &["--output", "--in-place", "--dry-run"] as &[&str],
        ),
        (&["patch", "{model}", "--in-place"], &["--critical", "--neuron"]),
        (&["vault", "{model}", "-o", "{out}/v"], &["--critical", "--neuron"]),
        (&["patch"], &["MODEL"]),
    ] {
        let output = place.run(args);
        let error = text(&output.stderr);
        assert!(output.status.code() == Some(2) && choices.iter().all(|c| error.contains(c)), "{error}");
    }
}

#[test]
fn a_critical_set_of_another_architecture_is_refused() {
    let place = Place::new();
    let set = r#"{"schema": "achilles-audit/critical-set/v1", "model": {"architecture": "Qwen2ForCausalLM"},
        "critical_set": {"neurons": ["model.layers.1.mlp.down_proj:out:3"]}}"#;
    std::fs::write(place.out().join("other.json"), set).unwrap();
    let before = place.snapshot();
    for to in [["patch", "-o={out}/p"], ["patch", "--in-place"], ["vault", "-o={out}/v"]] {
        let output = place.run(&[to[0], "{model}", to[1], "--critical={out}/other.json"]);
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
        assert!(error.contains("is the critical set of a \"Qwen2ForCausalLM\""), "{error}");
        assert!(place.snapshot() == before, "{to:?}");
    }
}
