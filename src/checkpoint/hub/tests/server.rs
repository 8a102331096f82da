//! A small hub on the loopback: the list of a commit's files, resolve with HEAD, GET and ranges, and a second port that
//! plays the host large files are redirected to. It can be told to lie, to break off and to drip.

use sha2::Digest;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The commit of a data set's branch `refs/convert/parquet`.
pub const CONVERTED: &str = "fedcba9876543210fedcba9876543210fedcba98";
pub const TOKEN: &str = "hf_secretSecret";

pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Default)]
pub struct Behaviour {
    pub files: Files,
    /// Those of a data set's branch `refs/convert/parquet`, if it has one.
    pub converted: Option<Files>,
    /// What the hub answers instead: status and X-Error-Code.
    pub refuse: Option<(u16, &'static str)>,
    /// The same, for files only.
    pub refuse_files: Option<(u16, &'static str)>,
    /// The large-file host hangs up after so many bytes of a body.
    pub cut_after: Option<usize>,
    /// It ignores ranges.
    pub no_ranges: bool,
    /// It sends other bytes than promised.
    pub altered: bool,
    /// The hub gives the wrong commit.
    pub other_commit: bool,
    /// The list of files that it answers with instead.
    pub list: Option<Vec<u8>>,
    /// Its list has names only.
    pub names_only: bool,
    /// Pages of its tree have so many files; it has no tree without.
    pub tree_page: Option<usize>,
    /// Its files have no digest.
    pub no_etags: bool,
    /// Sizes that it claims for files.
    pub sizes: BTreeMap<String, u64>,
    /// Other bytes that it sends for files.
    pub bodies: Files,
    /// A file that it sends byte by byte, and how long it waits between two.
    pub drip: Option<(String, Duration)>,
    /// Headers that never end.
    pub endless_headers: bool,
    pub requests: Vec<Request>,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub host: &'static str,
    pub method: String,
    pub path: String,
    pub token: bool,
    /// The first byte that is asked for, and the last.
    pub range: Option<usize>,
    pub to: Option<usize>,
}

/// `org/tiny`, which is also found as `org/old`, and the data set `org/tiny` with the same files.
pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<Behaviour>>,
}

impl Server {
    pub fn new(files: Files) -> Server {
        let state = Arc::new(Mutex::new(Behaviour { files, ..Behaviour::default() }));
        let cdn = serve("cdn", state.clone(), String::new());
        Server { endpoint: serve("hub", state.clone(), cdn), state }
    }

    pub fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.lock().unwrap());
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

fn serve(host: &'static str, state: Arc<Mutex<Behaviour>>, cdn: String) -> String {
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

fn answer(host: &'static str, mut stream: TcpStream, state: &Mutex<Behaviour>, cdn: &str) -> std::io::Result<()> {
    let request = read_request(host, &stream)?;
    let state = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        state.clone()
    };
    if state.endless_headers {
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            stream.write_all(b"X-A: b\r\n")?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    if host == "hub" {
        return hub(&request, &mut stream, &state, cdn);
    }
    let file = decoded(request.path.strip_prefix("/signed/").unwrap());
    let converted = state.converted.iter().find_map(|files| files.get(&file));
    let bytes = state.bodies.get(&file).or(state.files.get(&file)).or(converted).unwrap();
    let from = request.range.filter(|_| !state.no_ranges).unwrap_or(0);
    if from >= bytes.len() {
        return send(&mut stream, &request, 416, &[], b"", 0);
    }
    let to = request.to.filter(|_| !state.no_ranges).map_or(bytes.len(), |to| bytes.len().min(to + 1));
    let mut body = bytes[from..to].to_vec();
    if state.altered {
        body[0] ^= 1;
    }
    let length = body.len();
    body.truncate(state.cut_after.unwrap_or(length));
    let range = format!("bytes {from}-{}/{}", to - 1, bytes.len());
    let (status, headers) =
        if from > 0 || to < bytes.len() { (206, vec![("Content-Range", &*range)]) } else { (200, vec![]) };
    match state.drip.as_ref().filter(|(dripping, _)| *dripping == file) {
        Some((_, pause)) => drip(&mut stream, &body, *pause),
        None => send(&mut stream, &request, status, &headers, &body, length),
    }
}

fn read_request(host: &'static str, stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap().into(), words.next().unwrap().into());
    let mut request = Request { host, method, path, token: false, range: None, to: None };
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        request.token |= line == format!("authorization: bearer {}", TOKEN.to_ascii_lowercase());
        if let Some(range) = line.strip_prefix("range: bytes=") {
            let (from, to) = range.split_once('-').unwrap();
            (request.range, request.to) = (from.parse().ok(), to.parse().ok());
        }
    }
    Ok(request)
}

fn send(
    stream: &mut TcpStream,
    request: &Request,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
    length: usize,
) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method == "GET" { stream.write_all(body) } else { Ok(()) }
}

fn drip(stream: &mut TcpStream, body: &[u8], pause: Duration) -> std::io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes())?;
    for byte in body {
        stream.write_all(&[*byte])?;
        std::thread::sleep(pause);
    }
    Ok(())
}

fn hub(request: &Request, stream: &mut TcpStream, state: &Behaviour, cdn: &str) -> std::io::Result<()> {
    let mut send = |status: u16, headers: &[(&str, &str)], body: &[u8], length: usize| {
        send(stream, request, status, headers, body, length)
    };
    if let Some((status, code)) = state.refuse {
        return send(status, &[("X-Error-Code", code)], b"no", 2);
    }
    if let Some(rest) = request.path.strip_prefix("/api/models/org/tiny/revision/") {
        let revision = rest.split('?').next().unwrap();
        if !["main", "refs%2Fpr%2F1", "v1.0", COMMIT].contains(&revision) {
            return send(404, &[("X-Error-Code", "RevisionNotFound")], b"", 0);
        }
        let body = state.list.clone().unwrap_or_else(|| list(state, &state.files, COMMIT));
        return send(200, &[], &body, body.len());
    }
    if let Some(rest) = request.path.strip_prefix(&format!("/api/models/org/tiny/tree/{COMMIT}?recursive=true")) {
        let Some(size) = state.tree_page else { return send(404, &[], b"", 0) };
        let from = rest.strip_prefix("&cursor=").map_or(0, |at| at.parse().unwrap());
        let body = tree(state, from, size);
        let next = format!("<{}&cursor={}>; rel=\"next\"", request.path.split('&').next().unwrap(), from + size);
        let headers = [("Link", &*next)];
        return send(200, if from + size < state.files.len() { &headers } else { &[] }, &body, body.len());
    }
    if let Some(rest) = request.path.strip_prefix("/api/datasets/org/tiny/revision/") {
        let body = match (rest.split('?').next().unwrap(), &state.converted) {
            ("main", _) => list(state, &state.files, COMMIT),
            ("refs%2Fconvert%2Fparquet", Some(files)) => list(state, files, CONVERTED),
            _ => return send(404, &[("X-Error-Code", "RevisionNotFound")], b"", 0),
        };
        return send(200, &[], &body, body.len());
    }
    if request.path.starts_with("/api/models/org/old/") {
        let location = request.path.replace("org/old", "org/tiny");
        return send(307, &[("Location", &location)], b"", 0);
    }
    let path = decoded(&request.path);
    let at = |commit: &str| path.split_once(&format!("/resolve/{commit}/")).map(|(_, file)| file);
    let of_converted = at(CONVERTED).and_then(|file| Some((file, state.converted.as_ref()?.get(file)?, CONVERTED)));
    let found = of_converted.or_else(|| at(COMMIT).and_then(|file| Some((file, state.files.get(file)?, COMMIT))));
    let Some((file, bytes, commit)) = found else {
        return send(404, &[("X-Error-Code", "RepoNotFound")], b"", 0);
    };
    if let Some((status, code)) = state.refuse_files {
        return send(status, &[("X-Error-Code", code)], b"", 0);
    }
    let commit = if state.other_commit { "f".repeat(40) } else { commit.to_owned() };
    if is_large(file) {
        let (location, linked) = (format!("{cdn}/signed/{file}"), format!("\"{}\"", sha256(bytes)));
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
    let body = state.bodies.get(file).unwrap_or(bytes);
    if let Some((_, pause)) = state.drip.as_ref().filter(|(dripping, _)| dripping == file && request.method == "GET") {
        return drip(stream, body, *pause);
    }
    let etag = if state.no_etags { "\"x\"".to_owned() } else { format!("W/\"{}\"", git_sha1(bytes)) };
    send(200, &[("ETag", &etag), ("X-Repo-Commit", &commit)], body, body.len())
}

/// Whether the hub keeps it as a large file.
fn is_large(file: &str) -> bool {
    [".safetensors", ".onnx", ".parquet"].iter().any(|end| file.ends_with(end))
}

fn list(state: &Behaviour, files: &Files, commit: &str) -> Vec<u8> {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        if state.names_only {
            return serde_json::json!({"rfilename": name});
        }
        let size = state.sizes.get(name).copied().unwrap_or(bytes.len() as u64);
        let mut sibling = serde_json::json!({"rfilename": name, "size": size, "blobId": git_sha1(bytes)});
        if is_large(name) {
            sibling["lfs"] = serde_json::json!({"sha256": sha256(bytes), "size": size, "pointerSize": 130});
            sibling["blobId"] = "9".repeat(40).into();
        }
        sibling
    };
    let siblings: Vec<_> = files.iter().map(sibling).collect();
    serde_json::json!({"id": "org/tiny", "sha": commit, "siblings": siblings}).to_string().into_bytes()
}

/// A page of the tree: folders are in it as well.
fn tree(state: &Behaviour, from: usize, size: usize) -> Vec<u8> {
    let entry = |(name, bytes): (&String, &Vec<u8>)| {
        let size = state.sizes.get(name).copied().unwrap_or(bytes.len() as u64);
        let mut entry = serde_json::json!({"type": "file", "path": name, "size": size, "oid": git_sha1(bytes)});
        if is_large(name) {
            entry["lfs"] = serde_json::json!({"oid": sha256(bytes), "size": size, "pointerSize": 130});
        }
        entry
    };
    let mut entries: Vec<_> = state.files.iter().skip(from).take(size).map(entry).collect();
    entries.push(serde_json::json!({"type": "directory", "path": "folder", "size": 0, "oid": "8".repeat(40)}));
    serde_json::Value::from(entries).to_string().into_bytes()
}

/// With `%20` and the like undone.
fn decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8().unwrap().into_owned()
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

pub fn git_sha1(bytes: &[u8]) -> String {
    hex(&sha1::Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
