//! What a scan parses: each header and each config once, and one recipe of each config, however many parts of it look at
//! the model.

use crate::tiny::{Place, load, save};
use achilles_audit::audit::{Request, Run, audit};
use achilles_audit::checkpoint::Opened;
use achilles_audit::compare::BaseName;
use achilles_audit::integrity::fingerprint::{self, take};
use achilles_audit::progress::Silent;
use achilles_audit::rules::{Date, Rules};
use achilles_audit::{compute, locate};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tracing::{Event, Metadata, Subscriber, span};

const NAME: &str = "command_line::once::a_scan_parses_each_header_and_each_config_once";
/// Set in the process that counts, where no other test parses anything.
const COUNTS: &str = "ACHILLES_AUDIT_TEST_COUNTS";

static HEADERS: AtomicUsize = AtomicUsize::new(0);
static CONFIGS: AtomicUsize = AtomicUsize::new(0);
static RECIPES: AtomicUsize = AtomicUsize::new(0);

/// Counts what the library says that it parses.
struct Counter;

impl Counter {
    fn of(metadata: &Metadata<'_>) -> Option<&'static AtomicUsize> {
        match metadata.target() {
            "achilles_audit::checkpoint::header" | "achilles_audit::checkpoint::gguf::header" => Some(&HEADERS),
            "achilles_audit::checkpoint::config" => Some(&CONFIGS),
            "achilles_audit::architecture::families" => Some(&RECIPES),
            _ => None,
        }
    }
}

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        Counter::of(metadata).is_some()
    }
    fn event(&self, event: &Event<'_>) {
        Counter::of(event.metadata()).unwrap().fetch_add(1, Relaxed);
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_scan_parses_each_header_and_each_config_once() {
    if std::env::var_os(COUNTS).is_none() {
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let cache = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let output =
            alone.args(["--exact", NAME]).env(COUNTS, "").env("XDG_CACHE_HOME", cache.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    tracing::subscriber::set_global_default(Counter).unwrap();
    for shards in [1, 2] {
        let place = Place::new();
        served(&place);
        let base = place.out().join("base");
        copy(&place.model(), &base);
        if shards > 1 {
            cut(&place.model());
        }
        let taken =
            take(&Opened::folder_at(&place.model()), &fingerprint::FingerprintSettings::default(), None, None, &Silent);
        let print = place.out().join("fingerprint.json");
        std::fs::write(&print, taken.unwrap().fingerprint.to_json("model", None).unwrap()).unwrap();
        assert_eq!(scanned(&place.model(), None, Some(&print)), (shards, 1, 1), "{shards} shards, not run");
        assert_eq!(
            scanned(&place.model(), run(Some(&base)), Some(&print)),
            (shards + 1, 2, 2),
            "{shards} shards and a base"
        );
    }
    let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf/tiny-llama.gguf");
    assert_eq!(scanned(&gguf, run(None), None), (1, 0, 1), "a GGUF");
}

/// Scans a model against all that is given, and counts the headers and the configs that are parsed, and the recipes that are made.
fn scanned(model: &Path, run: Option<Run>, fingerprint: Option<&PathBuf>) -> (usize, usize, usize) {
    let is_compared = run.as_ref().is_some_and(|run| run.base.is_some());
    let rules = Rules::default_rules().unwrap();
    let (model, fingerprint, today) = (model.to_str().unwrap(), fingerprint.cloned(), Date::today());
    [&HEADERS, &CONFIGS, &RECIPES].iter().for_each(|count| count.store(0, Relaxed));
    let found = audit(&Request { model, rules: &rules, run, fingerprint, signature: None, today }, &Silent).unwrap();
    let counted = (HEADERS.load(Relaxed), CONFIGS.load(Relaxed), RECIPES.load(Relaxed));
    assert_eq!(found.result.base.is_some(), is_compared, "{:?}", found.result.not_examined);
    assert!(found.result.fingerprint.is_none_or(|compared| compared.intact));
    counted
}

fn run(base: Option<&Path>) -> Option<Run> {
    let locate = locate::SearchSettings {
        samples: locate::Samples::Exactly(2),
        max_neurons: 20,
        epsilon: 0.02,
        ..locate::SearchSettings::default()
    };
    Some(Run {
        text: "Pitchfork called it daring".into(),
        model: compute::ComputeSettings::default(),
        locate,
        base: base.map(|base| BaseName::of(base.to_str().unwrap())),
        baseline: None,
        cache: true,
    })
}

/// With a chat template and settings of generation.
fn served(place: &Place) {
    let write = |name: &str, value: Value| std::fs::write(place.model().join(name), value.to_string()).unwrap();
    write("tokenizer_config.json", json!({"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}));
    write("generation_config.json", json!({"eos_token_id": 1}));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Cuts the weights into two shards with an index.
fn cut(model: &Path) {
    let whole = model.join("model.safetensors");
    let tensors = load(&std::fs::read(&whole).unwrap());
    std::fs::remove_file(whole).unwrap();
    let mut map = Map::new();
    for (part, shard) in tensors.chunks(tensors.len().div_ceil(2)).zip(["model-1.safetensors", "model-2.safetensors"]) {
        std::fs::write(model.join(shard), save(part)).unwrap();
        map.extend(part.iter().map(|tensor| (tensor.name.clone(), shard.into())));
    }
    std::fs::write(model.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
}
