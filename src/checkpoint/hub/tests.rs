//! A small hub on the loopback: model info, resolve with HEAD, GET and ranges, and a second port that plays the host
//! large files are redirected to.

use super::*;
use crate::progress::Silent;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secretSecret";
const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// What the hub answers instead: status and X-Error-Code.
    refuse: Option<(u16, &'static str)>,
    /// The same, for files only.
    refuse_files: Option<(u16, &'static str)>,
    /// The large-file host hangs up after so many bytes of a body.
    cut_after: Option<usize>,
    /// It ignores ranges.
    no_ranges: bool,
    /// It sends other bytes than promised.
    altered: bool,
    /// It gives the wrong commit.
    other_commit: bool,
    requests: Vec<Request>,
}

#[derive(Clone, Debug)]
struct Request {
    host: &'static str,
    method: String,
    path: String,
    token: bool,
    range: Option<usize>,
}

struct Hub {
    endpoint: String,
    state: Arc<Mutex<State>>,
    folder: tempfile::TempDir,
}

impl Hub {
    fn new(files: BTreeMap<String, Vec<u8>>) -> Hub {
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let cdn = serve("cdn", state.clone(), String::new());
        let endpoint = serve("hub", state.clone(), cdn);
        Hub { endpoint, state, folder: tempfile::tempdir().unwrap() }
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
        }
    }

    fn offline(&self) -> HubSettings {
        HubSettings { offline: true, ..self.settings() }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn fetch(&self, id: &str) -> Result<PathBuf> {
        fetch(&id.parse().unwrap(), &self.settings(), &Silent)
    }

    fn refused(&self, id: &str) -> String {
        self.fetch(id).unwrap_err().to_string()
    }

    /// The requests since the last call.
    fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    fn root(&self) -> PathBuf {
        self.settings().cache.join("models--org--tiny")
    }
}

fn sharded_files() -> BTreeMap<String, Vec<u8>> {
    let index = r#"{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}}"#;
    let mut files = small();
    files.insert(INDEX.into(), index.into());
    files.insert(SHARDS[0].into(), (0..900_000u32).map(|i| (i * 7 % 251) as u8).collect());
    files.insert(SHARDS[1].into(), (0..300_000u32).map(|i| (i * 3 % 241) as u8).collect());
    files.insert("pytorch_model.bin".into(), b"pickle".to_vec());
    files.insert("onnx/model.onnx".into(), b"large".to_vec());
    files
}

fn small() -> BTreeMap<String, Vec<u8>> {
    let names = [CONFIG, TOKENIZER, "tokenizer_config.json", "chat_template.jinja", "README.md", ".gitattributes"];
    names.into_iter().map(|name| (name.to_owned(), format!("{{\"is\": \"{name}\"}}").into_bytes())).collect()
}

fn serve(host: &'static str, state: Arc<Mutex<State>>, cdn: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (state, cdn) = (state.clone(), cdn.clone());
            std::thread::spawn(move || {
                let _ = answer(host, stream?, &state, &cdn);
                std::io::Result::Ok(())
            });
        }
    });
    address
}

fn answer(host: &'static str, mut stream: TcpStream, state: &Mutex<State>, cdn: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let mut words = first.split(' ');
    let mut request = Request {
        host,
        method: words.next().unwrap().into(),
        path: words.next().unwrap().into(),
        token: false,
        range: None,
    };
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        request.token |= line == format!("authorization: bearer {}", TOKEN.to_ascii_lowercase());
        if let Some(range) = line.strip_prefix("range: bytes=") {
            request.range = range.trim_end_matches('-').parse().ok();
        }
    }
    let state = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        state.clone()
    };
    let mut send = |status: u16, headers: &[(&str, &str)], body: &[u8], length: usize| {
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if request.method == "GET" { stream.write_all(body) } else { Ok(()) }
    };
    let whole = |body: &[u8]| body.len();
    if let (Some((status, code)), "hub") = (state.refuse, host) {
        return send(status, &[("X-Error-Code", code)], b"no", 2);
    }
    if let Some(rest) = request.path.strip_prefix("/api/models/org/tiny/revision/") {
        let revision = rest.split('?').next().unwrap();
        if !["main", "refs%2Fpr%2F1", "v1.0", COMMIT].contains(&revision) {
            return send(404, &[("X-Error-Code", "RevisionNotFound")], b"", 0);
        }
        let siblings: Vec<_> = state
            .files
            .iter()
            .map(|(name, bytes)| {
                let mut sibling =
                    serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": &sha(bytes)[..40]});
                if name.ends_with(".safetensors") {
                    sibling["lfs"] = serde_json::json!({"sha256": sha(bytes), "size": bytes.len(), "pointerSize": 130});
                }
                sibling
            })
            .collect();
        let body = serde_json::json!({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).to_string();
        return send(200, &[], body.as_bytes(), body.len());
    }
    if request.path.starts_with("/api/models/org/old/") {
        let location = request.path.replace("org/old", "org/tiny");
        return send(307, &[("Location", &location)], b"", 0);
    }
    let file = request.path.rsplit('/').next().unwrap();
    let commit = if state.other_commit { "f".repeat(40) } else { COMMIT.to_owned() };
    let Some(bytes) = state.files.get(file).filter(|_| request.path.contains("/resolve") || host == "cdn") else {
        return send(404, &[("X-Error-Code", "RepoNotFound")], b"", 0);
    };
    let etag = sha(bytes);
    if host == "hub" {
        if let Some((status, code)) = state.refuse_files {
            return send(status, &[("X-Error-Code", code)], b"", 0);
        }
        if file.ends_with(".safetensors") {
            let (location, linked) = (format!("{cdn}/signed/{file}"), format!("\"{etag}\""));
            let size = bytes.len().to_string();
            let headers = [
                ("Location", &*location),
                ("X-Linked-Etag", &linked),
                ("X-Linked-Size", &size),
                ("X-Repo-Commit", &commit),
            ];
            return send(302, &headers, b"", 0);
        }
        // The real hub redirects small files once, within itself.
        if !request.path.starts_with("/resolve-cache/") {
            return send(307, &[("Location", &format!("/resolve-cache{}", request.path))], b"", 0);
        }
        let headers = [("ETag", &*format!("W/\"{}\"", &etag[..40])), ("X-Repo-Commit", &commit)];
        return send(200, &headers, bytes, whole(bytes));
    }
    let from = request.range.filter(|_| !state.no_ranges).unwrap_or(0);
    if from >= bytes.len() {
        return send(416, &[], b"", 0);
    }
    let mut body = bytes[from..].to_vec();
    if state.altered {
        body[0] ^= 1;
    }
    let length = body.len();
    body.truncate(state.cut_after.unwrap_or(length));
    let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
    let (status, headers) = if from > 0 { (206, vec![("Content-Range", &*range)]) } else { (200, vec![]) };
    send(status, &headers, &body, length)
}

fn sha(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
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
    let folder = fetch(&"org/tiny".parse().unwrap(), &hub.settings(), &counter).unwrap();
    assert_eq!(folder, hub.root().join("snapshots").join(COMMIT));
    let wanted = ["chat_template.jinja", CONFIG, SHARDS[0], SHARDS[1], INDEX, TOKENIZER, "tokenizer_config.json"]
        .map(String::from);
    let mut sorted = wanted.to_vec();
    sorted.sort();
    assert_eq!(names_in(&folder), sorted);
    for name in &wanted {
        assert_eq!(fs::read(folder.join(name)).unwrap(), sharded_files()[name], "{name}");
    }
    assert_eq!(fs::read_to_string(hub.root().join("refs/main")).unwrap(), COMMIT);
    assert!(names_in(&hub.root().join("blobs")).iter().all(|name| name.len() == 40 || name.len() == 64));
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(folder.join(SHARDS[0])).unwrap(),
        Path::new("../../blobs").join(sha(&sharded_files()[SHARDS[0]]))
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
    assert_eq!(names_in(&hub.root().join("refs")), ["refs", "v1.0"], "a commit needs no ref");
    assert!(hub.requests().iter().filter(|r| r.path.contains("/resolve/")).all(|r| r.path.contains(COMMIT)));
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
    assert_eq!(fetch(&id, &hub.offline(), &Silent).unwrap(), folder);
    assert_eq!(fetch(&format!("org/tiny@{COMMIT}").parse().unwrap(), &hub.offline(), &Silent).unwrap(), folder);
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
    assert_eq!(fetch(&id, &settings, &Silent).unwrap(), folder);
    hub.set(|s| s.refuse = Some((503, "")));
    assert_eq!(hub.fetch("org/tiny").unwrap(), folder);
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
    let part = blobs.join(format!("{}.achilles.incomplete", sha(&sharded_files()[SHARDS[0]])));
    fs::write(&part, vec![9; 1000]).unwrap();
    hub.set(|s| s.no_ranges = true);
    let folder = hub.fetch("org/tiny").unwrap();
    assert_eq!(fs::read(folder.join(SHARDS[0])).unwrap(), sharded_files()[SHARDS[0]]);
    assert!(!part.exists());
}

#[test]
fn altered_bytes_are_not_kept() {
    let hub = Hub::sharded();
    hub.set(|s| s.altered = true);
    let problem = hub.refused("org/tiny");
    assert!(problem.contains("SHA-256") && problem.contains("is not kept"), "{problem}");
    hub.set(|s| s.altered = false);
    hub.fetch("org/tiny").unwrap();
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

#[test]
fn ids_parse_and_bad_ones_say_why() {
    for good in ["org/name", "Qwen/Qwen2.5-0.5B_x", "org/name@main", "org/name@refs/pr/1", "a/b@v1.0"] {
        assert_eq!(good.parse::<HubId>().unwrap().to_string(), good);
    }
    let id: HubId = "org/name@refs/pr/1".parse().unwrap();
    assert_eq!((id.repo(), id.revision()), ("org/name", "refs/pr/1"));
    assert_eq!("org/name".parse::<HubId>().unwrap().revision(), "main");
    let bad = [
        "",
        "gpt2",
        "a/b/c",
        "/b",
        "a/",
        "a/..",
        "../b",
        "-a/b",
        "a/-b",
        ".a/b",
        "a/b.",
        "a/b--c",
        "a b/c",
        "a/b@",
        "a/b@..",
        "a/b@x/../y",
        "a/b@/x",
        "a/b@x/",
        "a/b@x//y",
        "a/b@-x",
        "a/b@x y",
        "a/b@x@y",
        "ä/b",
        "a/b\n",
        "https://huggingface.co/a/b",
    ];
    for text in bad {
        let problem = text.parse::<HubId>().unwrap_err().to_string();
        assert!(problem.starts_with("hub id \"") && problem.contains("expected "), "{text}: {problem}");
    }
}

proptest! {
    #[test]
    fn any_id_that_parses_prints_back_and_stays_in_the_cache(text in "[a-zA-Z0-9._/@-]{1,24}|[a-z.-]{1,6}/[a-z.-]{1,6}(@[a-z./-]{1,9})?") {
        if let Ok(id) = text.parse::<HubId>() {
            prop_assert_eq!(id.to_string(), text);
            let cache = RepoCache::new(&id, Path::new("/cache")).unwrap();
            let up = std::path::Component::ParentDir;
            prop_assert!(cache.snapshot(id.revision()).components().all(|c| c != up));
        }
    }
}

fn read(vars: &[(&str, &str)]) -> Result<HubSettings> {
    HubSettings::from_vars(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
}

#[test]
fn variables_are_read_as_the_python_tools_read_them() {
    let plain = read(&[("HOME", "/home/me")]).unwrap();
    assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
    assert_eq!((plain.endpoint.as_str(), plain.token, plain.offline), ("https://huggingface.co", None, false));
    assert_eq!(read(&[("HF_HOME", "/hf")]).unwrap().cache, Path::new("/hf/hub"));
    assert_eq!(read(&[("HOME", "/me"), ("HF_HOME", "~/hf")]).unwrap().cache, Path::new("/me/hf/hub"));
    assert_eq!(read(&[("XDG_CACHE_HOME", "/xdg")]).unwrap().cache, Path::new("/xdg/huggingface/hub"));
    assert_eq!(read(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]).unwrap().cache, Path::new("/c"));
    assert!(read(&[("HF_HUB_CACHE", "relative")]).unwrap().cache.is_absolute());
    for (value, offline) in
        [("1", true), ("true", true), ("Yes", true), ("ON", true), ("0", false), ("", false), ("2", false)]
    {
        assert_eq!(read(&[("HF_HOME", "/hf"), ("HF_HUB_OFFLINE", value)]).unwrap().offline, offline, "{value}");
    }
    let problem = read(&[]).unwrap_err().to_string();
    assert!(problem.contains("HOME is not set; set HF_HOME"), "{problem}");
}

#[test]
fn the_token_comes_from_the_variable_or_the_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "hf_file\n").unwrap();
    let home = ("HF_HOME", folder.path().to_str().unwrap());
    assert_eq!(read(&[home]).unwrap().token.as_deref(), Some("hf_file"));
    assert_eq!(read(&[home, ("HF_TOKEN", " hf_var\n")]).unwrap().token.as_deref(), Some("hf_var"));
    let disabled = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
    assert_eq!(read(&[home, ("HF_TOKEN", "hf_var"), disabled]).unwrap().token, None);
}
