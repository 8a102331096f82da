//! What is fetched, and from where, when all goes well and when the network does not.

mod hostile;
mod server;
mod settings;

use super::*;
use crate::progress::Silent;
use server::*;
use std::fs;
use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// A hub, and a cache of one's own.
struct Hub {
    server: Server,
    folder: tempfile::TempDir,
}

impl std::ops::Deref for Hub {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Hub {
    fn new(files: Files) -> Hub {
        Hub { server: Server::new(files), folder: tempfile::tempdir().unwrap() }
    }

    fn sharded() -> Hub {
        Hub::new(sharded_files())
    }

    fn settings(&self) -> HubSettings {
        HubSettings {
            cache: self.folder.path().join("hub"),
            endpoint: self.endpoint.clone(),
            token: None,
            offline: false,
            patience: Duration::from_secs(30),
        }
    }

    fn offline(&self) -> HubSettings {
        HubSettings { offline: true, ..self.settings() }
    }

    fn fetch(&self, id: &str) -> Result<PathBuf> {
        Ok(fetch(&id.parse().unwrap(), &self.settings(), &Silent)?.folder)
    }

    fn refused(&self, id: &str) -> String {
        self.fetch(id).unwrap_err().to_string()
    }

    fn root(&self) -> PathBuf {
        self.settings().cache.join("models--org--tiny")
    }
}

fn sharded_files() -> Files {
    let index = r#"{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}}"#;
    let mut files = small();
    files.insert(INDEX.into(), index.into());
    files.insert(SHARDS[0].into(), (0..900_000u32).map(|i| (i * 7 % 251) as u8).collect());
    files.insert(SHARDS[1].into(), (0..300_000u32).map(|i| (i * 3 % 241) as u8).collect());
    files.insert("pytorch_model.bin".into(), b"pickle".to_vec());
    files.insert("additional_chat_templates/tool use.jinja".into(), b"{{ tools }}".to_vec());
    files
}

fn small() -> Files {
    let names = [CONFIG, TOKENIZER, "tokenizer_config.json", "chat_template.jinja", "README.md", "modeling_tiny.py"];
    names.into_iter().map(|name| (name.to_owned(), format!("{{\"is\": \"{name}\"}}").into_bytes())).collect()
}

/// All files below a folder, as paths relative to it.
fn names_in(folder: &Path) -> Vec<String> {
    let all = crate::checkpoint::walk::walk(folder, &|_| false).unwrap();
    all.into_iter().map(|entry| entry.path).collect()
}

#[derive(Default)]
struct Counter(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    totals: Vec<u64>,
    done: u64,
    ended: u32,
}

impl Progress for Counter {
    fn begin(&self, _: &str, total: u64, unit: &'static str) {
        assert_eq!(unit, "bytes");
        self.0.lock().unwrap().totals.push(total);
    }
    fn advance(&self, steps: u64) -> Result<()> {
        self.0.lock().unwrap().done += steps;
        Ok(())
    }
    fn end(&self) {
        self.0.lock().unwrap().ended += 1;
    }
}

#[test]
fn fetches_what_a_checkpoint_needs_and_then_uses_the_cache() {
    let hub = Hub::sharded();
    let counter = Counter::default();
    let Snapshot { folder, origin, .. } = fetch(&"org/tiny".parse().unwrap(), &hub.settings(), &counter).unwrap();
    assert_eq!(folder, hub.root().join("snapshots").join(COMMIT));
    let left = "pytorch_model.bin";
    let wanted: Vec<String> = sharded_files().into_keys().filter(|name| name != left).collect();
    assert_eq!(names_in(&folder), wanted);
    let not_fetched = vec![NotFetched { path: left.into(), bytes: Some(6) }];
    let (repository, revision) = ("org/tiny".into(), "main".into());
    assert_eq!(
        origin,
        Origin { repository, revision, commit: COMMIT.into(), state: State::Current, not_fetched, headers: Vec::new() }
    );
    for name in &wanted {
        assert_eq!(fs::read(folder.join(name)).unwrap(), sharded_files()[name], "{name}");
    }
    assert_eq!(fs::read_to_string(hub.root().join("refs/main")).unwrap(), COMMIT);
    assert!(names_in(&hub.root().join("blobs")).iter().all(|name| name.len() == 40 || name.len() == 64));
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(folder.join(SHARDS[0])).unwrap(),
        Path::new("../../blobs").join(sha256(&sharded_files()[SHARDS[0]]))
    );
    let counted = counter.0.into_inner().unwrap();
    let bytes = wanted.iter().map(|name| sharded_files()[name].len() as u64).sum::<u64>();
    assert_eq!((counted.done, counted.totals.iter().sum::<u64>(), counted.ended), (bytes, bytes, 2));

    hub.requests();
    assert_eq!(hub.fetch("org/tiny").unwrap(), folder);
    let paths: Vec<String> = hub.requests().into_iter().map(|r| r.path).collect();
    assert_eq!(paths, ["/api/models/org/tiny/revision/main?blobs=true"]);

    fs::remove_file(folder.join(SHARDS[1])).unwrap();
    hub.fetch("org/tiny").unwrap();
    assert!(
        hub.requests().iter().all(|r| r.method == "HEAD" || r.path.starts_with("/api/")),
        "the blob is still there"
    );
}

#[test]
fn revisions_are_noted_as_python_notes_them() {
    let hub = Hub::sharded();
    for id in ["org/tiny@refs/pr/1", "org/tiny@v1.0"] {
        hub.fetch(id).unwrap();
    }
    hub.fetch(&format!("org/tiny@{COMMIT}")).unwrap();
    assert_eq!(fs::read_to_string(hub.root().join("refs/refs/pr/1")).unwrap(), COMMIT);
    assert_eq!(names_in(&hub.root().join("refs")), ["refs/pr/1", "v1.0"], "a commit needs no ref");
    assert!(hub.requests().iter().filter(|r| r.path.contains("/resolve/")).all(|r| r.path.contains(COMMIT)));
    // Whoever can write to the cache cannot give a commit another's files.
    let other = "2".repeat(40);
    fs::write(hub.root().join("refs").join(&other), COMMIT).unwrap();
    assert!(fetch(&format!("org/tiny@{other}").parse().unwrap(), &hub.offline(), &Silent).is_err());
    assert!(fetch(&format!("org/tiny@{COMMIT}").parse().unwrap(), &hub.offline(), &Silent).is_ok());
    let problem = hub.refused("org/tiny@nope");
    assert!(problem.starts_with("hub org/tiny@nope: no such revision \"nope\" (404)"), "{problem}");
}

#[test]
fn a_renamed_repository_is_followed() {
    let mut files = small();
    files.insert(SINGLE.into(), vec![1; 100]);
    let hub = Hub::new(files);
    // Files are asked for under the name given, as the Python tools do it; this hub serves them under any name.
    let folder = hub.fetch("org/old").unwrap();
    assert_eq!(fs::read(folder.join(SINGLE)).unwrap(), [1; 100]);
}

#[test]
fn the_token_goes_to_the_endpoint_only() {
    let hub = Hub::sharded();
    let settings = HubSettings { token: Some(TOKEN.into()), ..hub.settings() };
    fetch(&"org/tiny".parse().unwrap(), &settings, &Silent).unwrap();
    let requests = hub.requests();
    assert!(requests.iter().any(|r| r.host == "cdn"));
    assert!(requests.iter().all(|r| r.token == (r.host == "hub")), "{requests:?}");

    assert!(!format!("{settings:?}").contains(TOKEN));
    hub.set(|s| s.refuse = Some((401, "")));
    let problem = fetch(&"org/tiny".parse().unwrap(), &settings, &Silent).unwrap_err().to_string();
    assert!(problem.contains("not accepted (401)") && !problem.contains(TOKEN), "{problem}");
    let settings = HubSettings { token: Some("line\nbreak".into()), ..settings };
    let problem = fetch(&"org/tiny".parse().unwrap(), &settings, &Silent).unwrap_err().to_string();
    assert!(problem.contains("HF_TOKEN") && !problem.contains("break"), "{problem}");
}

#[test]
fn offline_uses_the_cache_alone() {
    let hub = Hub::sharded();
    let id: HubId = "org/tiny".parse().unwrap();
    let cold = fetch(&id, &hub.offline(), &Silent).unwrap_err().to_string();
    assert!(cold.contains("HF_HUB_OFFLINE is set, and the cache") && cold.contains("unset it to download"), "{cold}");
    let folder = hub.fetch("org/tiny").unwrap();
    hub.requests();
    let found = fetch(&id, &hub.offline(), &Silent).unwrap();
    assert_eq!((&found.folder, &found.origin.state, &*found.origin.commit), (&folder, &State::Offline, COMMIT));
    let pinned = format!("org/tiny@{COMMIT}").parse().unwrap();
    assert_eq!(fetch(&pinned, &hub.offline(), &Silent).unwrap().folder, folder);
    for file in [SHARDS[1], INDEX, TOKENIZER] {
        fs::remove_file(folder.join(file)).unwrap();
        let lacking = fetch(&id, &hub.offline(), &Silent).unwrap_err().to_string();
        assert!(lacking.contains("the cache lacks") && lacking.contains(file), "{lacking}");
    }
    assert!(hub.requests().is_empty());
}

#[test]
fn a_hostile_ref_leads_nowhere() {
    let hub = Hub::sharded();
    fs::create_dir_all(hub.root().join("refs")).unwrap();
    fs::write(hub.root().join("refs/main"), "../../../../etc").unwrap();
    let problem = fetch(&"org/tiny".parse().unwrap(), &hub.offline(), &Silent).unwrap_err().to_string();
    assert!(problem.contains("has nothing of revision main"), "{problem}");
}

#[test]
fn unreachable_is_told_quickly_or_the_cache_serves() {
    let hub = Hub::sharded();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = HubSettings { endpoint: format!("http://{closed}/"), ..hub.settings() };
    let id: HubId = "org/tiny".parse().unwrap();
    let start = Instant::now();
    let problem = fetch(&id, &settings, &Silent).unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(problem.starts_with(&format!("hub org/tiny: cannot reach http://{closed} (")), "{problem}");
    let end = "check HF_ENDPOINT or the network, or set HF_HUB_OFFLINE=1 to use the cache";
    assert!(problem.ends_with(end), "{problem}");
    let folder = hub.fetch("org/tiny").unwrap();
    hub.set(|s| s.refuse = Some((503, "")));
    for settings in [settings, hub.settings()] {
        let stale = fetch(&id, &settings, &Silent).unwrap();
        assert_eq!((&stale.folder, &*stale.origin.commit), (&folder, COMMIT));
        assert!(matches!(stale.origin.state, State::Unreachable(_)));
        let told = stale.origin.not_examined([]).concat();
        assert!(told.starts_with("the hub cannot be reached (http") && told.contains(COMMIT), "{told}");
        let problem = stale.current().unwrap_err().to_string();
        assert!(problem.contains("cannot reach the hub") && problem.contains(COMMIT), "{problem}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let hub = Hub::sharded();
    let cases = [
        (401, "", "needs HF_TOKEN (401)"),
        (401, "GatedRepo", "is gated (401); accept its terms"),
        (403, "", "may not be read without a token (403)"),
        (404, "RepoNotFound", "no such repository (404)"),
        (404, "", "no such repository, or no revision \"main\""),
        (429, "", "cannot reach"),
        (418, "", "answers 418; check HF_ENDPOINT"),
    ];
    for (status, code, says) in cases {
        hub.set(|s| s.refuse = Some((status, code)));
        let problem = hub.refused("org/tiny");
        assert!(problem.starts_with("hub org/tiny: ") && problem.contains(says), "{status} {code}: {problem}");
    }
    // The real hub shows the file list of a gated repository to all.
    hub.set(|s| (s.refuse, s.refuse_files) = (None, Some((401, "GatedRepo"))));
    assert!(hub.refused("org/tiny").contains("is gated (401)"));
}

#[test]
fn an_answer_that_is_no_hubs_is_told() {
    let hub = Hub::sharded();
    hub.set(|s| s.other_commit = true);
    assert!(hub.refused("org/tiny").contains("another commit"));
    let settings = HubSettings { endpoint: "huggingface.co".into(), ..hub.settings() };
    let problem = fetch(&"org/tiny".parse().unwrap(), &settings, &Silent).unwrap_err().to_string();
    assert!(problem.starts_with("HF_ENDPOINT: expected http(s)://host"), "{problem}");
    let settings = HubSettings { endpoint: "https://me:secret@example.org".into(), ..hub.settings() };
    let problem = fetch(&"org/tiny".parse().unwrap(), &settings, &Silent).unwrap_err().to_string();
    assert!(problem.contains("without user name") && !problem.contains("secret"), "{problem}");
}

#[test]
fn shards_are_plain_files_of_the_repository() {
    for shard in
        ["../x.safetensors", "a/b.safetensors", "/etc/x.safetensors", ".safetensors", "x.bin", "a\\b.safetensors"]
    {
        let mut files = sharded_files();
        files.insert(INDEX.into(), serde_json::json!({"weight_map": {"a": shard}}).to_string().into_bytes());
        let hub = Hub::new(files);
        let problem = hub.refused("org/tiny");
        assert!(problem.contains("names the shard") && problem.contains("expected a plain"), "{shard}: {problem}");
        assert!(hub.requests().iter().all(|r| r.host == "hub"));
    }
    let mut files = sharded_files();
    files.remove(SHARDS[1]);
    let problem = Hub::new(files).refused("org/tiny");
    assert!(
        problem.contains("names model-00002-of-00002.safetensors, which the repository does not have"),
        "{problem}"
    );
}

#[test]
fn what_is_no_safetensors_checkpoint_is_refused_before_it_is_fetched() {
    let cases: [(&[&str], &str); 5] = [
        (&["pytorch_model.bin"], "only pickle (pytorch_model.bin), which can run code and is never read"),
        (&["tiny-Q4_K_M.gguf"], "achilles-audit import FILE.gguf -o DIR"),
        (&["adapter_model.safetensors"], "is an adapter"),
        (&[], "has neither model.safetensors nor"),
        (&["model.safetensors", "-tokenizer.json"], "has no tokenizer.json"),
    ];
    for (change, says) in cases {
        let mut files = small();
        for file in change {
            match file.strip_prefix('-') {
                Some(gone) => files.remove(gone),
                None => files.insert(file.to_string(), vec![0; 8]),
            };
        }
        let hub = Hub::new(files);
        let problem = hub.refused("org/tiny");
        assert!(problem.contains(says), "{problem}");
        assert_eq!(hub.requests().len(), 1);
    }
}

#[test]
fn a_cut_download_leaves_nothing_in_the_snapshot_and_goes_on_later() {
    let hub = Hub::sharded();
    hub.set(|s| s.cut_after = Some(0));
    let problem = hub.refused("org/tiny");
    assert!(problem.contains(&format!("{} does not arrive", SHARDS[0])), "{problem}");
    assert!(problem.contains("is kept: run it again to go on"), "{problem}");
    let cdn = |requests: Vec<Request>| requests.into_iter().filter(|r| r.host == "cdn").collect::<Vec<_>>();
    assert_eq!(cdn(hub.requests()).len(), 3, "it is tried three times");

    // Interrupted by the user on the way.
    struct Stop(Mutex<u64>);
    impl Progress for Stop {
        fn advance(&self, steps: u64) -> Result<()> {
            let mut seen = self.0.lock().unwrap();
            *seen += steps;
            if *seen > 400_000 { Err(Error::Interrupted) } else { Ok(()) }
        }
    }
    hub.set(|s| s.cut_after = None);
    let stopped = fetch(&"org/tiny".parse().unwrap(), &hub.settings(), &Stop(Mutex::new(0))).unwrap_err();
    assert!(matches!(stopped, Error::Interrupted));
    let folder = hub.root().join("snapshots").join(COMMIT);
    assert!(names_in(&folder).iter().all(|name| !SHARDS.contains(&name.as_str())));
    assert!(!hub.root().join("refs/main").exists());
    assert!(fetch(&"org/tiny".parse().unwrap(), &hub.offline(), &Silent).is_err());

    // A connection that drops again and again still gets there, for each brings something.
    hub.requests();
    hub.set(|s| s.cut_after = Some(200_000));
    hub.fetch("org/tiny").unwrap();
    let ranges: Vec<Option<usize>> = cdn(hub.requests()).iter().map(|r| r.range).collect();
    assert!(ranges[0] >= Some(400_000), "{ranges:?}");
    for shard in SHARDS {
        assert_eq!(fs::read(folder.join(shard)).unwrap(), sharded_files()[shard]);
    }
    assert!(names_in(&hub.root().join("blobs")).iter().all(|name| !name.contains("incomplete")));
}

#[test]
fn a_server_without_ranges_starts_anew() {
    let hub = Hub::sharded();
    let blobs = hub.root().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.achilles.incomplete", sha256(&sharded_files()[SHARDS[0]])));
    fs::write(&part, vec![9; 1000]).unwrap();
    hub.set(|s| s.no_ranges = true);
    let folder = hub.fetch("org/tiny").unwrap();
    assert_eq!(fs::read(folder.join(SHARDS[0])).unwrap(), sharded_files()[SHARDS[0]]);
    assert!(!part.exists());
}

#[test]
fn a_truncated_file_in_the_cache_is_fetched_again() {
    let hub = Hub::sharded();
    let folder = hub.fetch("org/tiny").unwrap();
    fs::write(folder.join(SHARDS[0]), b"short").unwrap();
    hub.fetch("org/tiny").unwrap();
    assert_eq!(fs::read(folder.join(SHARDS[0])).unwrap(), sharded_files()[SHARDS[0]]);
}

#[test]
fn a_relative_cache_is_made_absolute() {
    let id: HubId = "org/tiny".parse().unwrap();
    let cache = RepoCache::new(&id, Path::new("some/cache")).unwrap();
    assert!(cache.snapshot(COMMIT).is_absolute());
}
