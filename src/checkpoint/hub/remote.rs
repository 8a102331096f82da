//! The hub over HTTP: what a repository holds, and its files.
//!
//! hf-hub 0.5 is not used: its download sends the token on to the host of a redirect, knows no timeout, cannot be
//! stopped, and neither checks the length of what arrives nor its hash.

use super::cache::{RepoCache, is_commit};
use super::{HubId, HubSettings, is_plain};
use crate::error::{Error, Result};
use crate::progress::Progress;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(30);
/// How often a request is tried without a byte of progress.
const ATTEMPTS: u32 = 3;
const REDIRECTS: u32 = 5;
const LARGEST_INFO_BYTES: u64 = 64 << 20;

/// What the hub says about a commit.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) commit: String,
    pub(super) files: BTreeMap<String, Expected>,
}

/// What is known of a file before it arrives.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    /// The blob's name in the cache.
    pub(super) etag: String,
    pub(super) size: Option<u64>,
    /// Lower-case hex, for large files only.
    pub(super) sha256: Option<String>,
}

/// Why a request brought nothing.
pub(super) enum Failure {
    /// No answer, or none that says anything about the repository: the cache may serve instead.
    Unreachable(String),
    /// Asking again would not help.
    Refused(Error),
}

pub(super) struct Remote<'a> {
    agent: Agent,
    id: &'a HubId,
    endpoint: String,
    token: Option<&'a str>,
}

#[derive(Clone, Copy, PartialEq)]
enum Method {
    Head,
    Get { from: u64 },
}

impl<'a> Remote<'a> {
    pub(super) fn new(id: &'a HubId, settings: &'a HubSettings) -> Result<Remote<'a>> {
        let endpoint = settings.endpoint.trim_end_matches('/').to_owned();
        let after = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let plain =
            |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic() && !b"@?#\\".contains(&b));
        if !after.is_some_and(plain) {
            // Not shown: it may hold a password.
            let problem = "HF_ENDPOINT: expected http(s)://host[:port][/path], without user name, `?` or `#`";
            return Err(Error::input(problem));
        }
        let token = settings.token.as_deref();
        if token.is_some_and(|t| t.is_empty() || !t.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::input("HF_TOKEN or the token file holds characters that no token has"));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .accept_encoding("identity")
            .user_agent(concat!("achilles-audit/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        if after.is_some_and(|rest| rest.starts_with("127.0.0.1") || rest.starts_with("localhost")) {
            config = config.proxy(None);
        }
        Ok(Remote { agent: config.build().into(), id, endpoint, token })
    }

    pub(super) fn id(&self) -> &HubId {
        self.id
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Resolves the revision to a commit and lists its files.
    pub(super) fn info(&self) -> std::result::Result<Info, Failure> {
        #[derive(serde::Deserialize)]
        struct Answer {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(serde::Deserialize)]
        struct Sibling {
            rfilename: String,
            size: Option<u64>,
            lfs: Option<Lfs>,
        }
        #[derive(serde::Deserialize)]
        struct Lfs {
            sha256: Option<String>,
        }
        let revision = self.id.revision().replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint, self.id.repo());
        let response = self.send(Method::Get { from: 0 }, &url, "")?;
        let text = response.into_body().with_config().limit(LARGEST_INFO_BYTES).read_to_vec();
        let text = text.map_err(|e| Failure::Unreachable(e.to_string()))?;
        let odd = |what: String| {
            let problem = format!("{} does not answer as a hub does ({what}); check HF_ENDPOINT", self.endpoint);
            Failure::Refused(self.id.error(problem))
        };
        let answer: Answer = serde_json::from_slice(&text).map_err(|e| odd(e.to_string()))?;
        if !is_commit(&answer.sha) {
            return Err(odd("the commit is not a Git object name".into()));
        }
        let expected = |s: Sibling| {
            let sha256 = s.lfs.and_then(|lfs| lfs.sha256).filter(|hex| hex.len() == 64);
            (s.rfilename, Expected { etag: String::new(), size: s.size, sha256 })
        };
        Ok(Info { commit: answer.sha, files: answer.siblings.into_iter().map(expected).collect() })
    }

    /// Asks for a file's etag and size, and completes `known` with them.
    pub(super) fn head(&self, commit: &str, file: &str, known: Expected) -> Result<Expected> {
        let url = self.url(commit, file);
        let mut failures = 0;
        let response = loop {
            match self.send(Method::Head, &url, file) {
                Ok(response) => break response,
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Unreachable(reason)) => {
                    failures += 1;
                    self.pause(failures, file, &reason)?;
                }
            }
        };
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let odd = |what: &str| Err(self.id.error(format!("{file}: {what}; check HF_ENDPOINT")));
        if header("x-repo-commit").is_some_and(|found| found != commit) {
            return odd("the endpoint answers with another commit than the one asked for");
        }
        let linked = header("x-linked-etag");
        let etag = linked.or(header("etag")).unwrap_or_default().trim_start_matches("W/").trim_matches('"');
        if !is_plain(etag) {
            return odd("the endpoint gives no ETag that could name it in the cache");
        }
        let length = if linked.is_some() { header("x-linked-size") } else { header("content-length") };
        let length = length.and_then(|text| text.parse().ok());
        if let (Some(listed), Some(found)) = (known.size, length)
            && listed != found
        {
            return odd(&format!("the endpoint lists it with {listed} bytes but offers {found}"));
        }
        // The linked etag of a large file is its SHA-256.
        let sha256 = known.sha256.or_else(|| linked.map(|_| etag.to_owned()).filter(|e| e.len() == 64 && is_commit(e)));
        Ok(Expected { etag: etag.to_owned(), size: known.size.or(length), sha256 })
    }

    /// Brings a file into the blobs, whole and checked, or not at all.
    pub(super) fn download(
        &self,
        commit: &str,
        file: &str,
        head: &Expected,
        cache: &RepoCache,
        progress: &dyn Progress,
    ) -> Result<()> {
        let url = self.url(commit, file);
        let mut part = Part::claim(&cache.blobs(), &head.etag)?;
        if head.size.is_some_and(|size| part.bytes > size) {
            part.restart()?;
        }
        progress.advance(part.bytes)?;
        let (mut failures, mut most) = (0, part.bytes);
        while head.size != Some(part.bytes) {
            match self.append(&url, file, head.size, &mut part, progress) {
                Ok(()) => break,
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Unreachable(reason)) => {
                    failures = if part.bytes > most { 1 } else { failures + 1 };
                    most = most.max(part.bytes);
                    self.pause(failures, file, &reason)?;
                }
            }
        }
        if let Some(expected) = &head.sha256 {
            let found: String = part.hash.clone().finalize().iter().map(|b| format!("{b:02x}")).collect();
            if !found.eq_ignore_ascii_case(expected) {
                part.restart()?;
                let problem = format!(
                    "{file}: the hub names SHA-256 {expected}, but what arrived has {found}; it was damaged or altered \
                     on the way and is not kept: try again"
                );
                return Err(self.id.error(problem));
            }
        }
        part.finish(&cache.blobs().join(&head.etag))
    }

    /// Asks for what is missing of `part` and appends it.
    fn append(
        &self,
        url: &str,
        file: &str,
        size: Option<u64>,
        part: &mut Part,
        progress: &dyn Progress,
    ) -> std::result::Result<(), Failure> {
        let response = self.send(Method::Get { from: part.bytes }, url, file)?;
        // 200 to a range: this server cannot resume. 416: what is there does not fit.
        if part.bytes > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            part.restart().map_err(Failure::Refused)?;
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                return Err(Failure::Unreachable("the range asked for is not there".into()));
            }
        }
        let from = response.headers().get("content-range").and_then(|v| v.to_str().ok()).and_then(range_start);
        if part.bytes > 0 && from.is_some_and(|from| from != part.bytes) {
            part.restart().map_err(Failure::Refused)?;
            return Err(Failure::Unreachable("another range arrives than was asked for".into()));
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = body.read(&mut buffer).map_err(|e| Failure::Unreachable(e.to_string()))?;
            if read == 0 {
                break;
            }
            if size.is_some_and(|size| part.bytes + read as u64 > size) {
                part.restart().map_err(Failure::Refused)?;
                return Err(Failure::Unreachable("more arrives than the file has".into()));
            }
            part.append(&buffer[..read]).map_err(Failure::Refused)?;
            progress.advance(read as u64).map_err(Failure::Refused)?;
        }
        match size {
            Some(size) if part.bytes < size => {
                Err(Failure::Unreachable(format!("the connection ended after {} of {size} bytes", part.bytes)))
            }
            _ => Ok(()),
        }
    }

    /// Waits before another attempt, or gives up.
    fn pause(&self, failures: u32, file: &str, reason: &str) -> Result<()> {
        if failures >= ATTEMPTS {
            let problem = format!("{file} does not arrive ({reason}); what has arrived is kept: run it again to go on");
            return Err(self.id.error(problem));
        }
        tracing::debug!("hub {}: {file}: {reason}; trying again", self.id);
        std::thread::sleep(Duration::from_millis(300 * u64::from(failures)));
        Ok(())
    }

    /// Sends a request and follows redirects, with the token only where the origin is the endpoint's. A HEAD stops at
    /// the redirect that tells of the file.
    fn send(&self, method: Method, url: &str, file: &str) -> std::result::Result<Response<Body>, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let home = origin(&url) == origin(&self.endpoint);
            let mut request = if method == Method::Head { self.agent.head(&url) } else { self.agent.get(&url) };
            if let Method::Get { from } = method
                && from > 0
            {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let (true, Some(token)) = (home, self.token) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let host = if home { String::new() } else { format!("{}: ", origin(&url)) };
            let response = request.call().map_err(|e| Failure::Unreachable(format!("{host}{e}")))?;
            let status = response.status();
            if !status.is_redirection() {
                let fits = status.is_success() || (status == StatusCode::RANGE_NOT_SATISFIABLE && !file.is_empty());
                return if fits { Ok(response) } else { Err(self.refusal(&response, &host, file)) };
            }
            let location = response.headers().get("location").and_then(|v| v.to_str().ok());
            let next = location.and_then(|l| join(&url, l)).ok_or_else(|| {
                let problem = format!("{}: redirects to nowhere, or from https to http", origin(&url));
                Failure::Refused(self.id.error(problem))
            })?;
            let tells = response.headers().contains_key("x-linked-etag") || origin(&next) != origin(&url);
            if method == Method::Head && tells {
                return Ok(response);
            }
            url = next;
        }
        Err(Failure::Refused(self.id.error(format!("{}: redirects in a circle", origin(&url)))))
    }

    /// What a status says about the repository and what to do.
    fn refusal(&self, response: &Response<Body>, host: &str, file: &str) -> Failure {
        let status = response.status().as_u16();
        if status == 429 || status >= 500 || !host.is_empty() {
            return Failure::Unreachable(format!("{host}it answers {status}"));
        }
        let code = response.headers().get("x-error-code").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (page, revision) = (format!("{}/{}", self.endpoint, self.id.repo()), self.id.revision());
        let problem = match (status, code, self.token.is_some()) {
            (401 | 403, "GatedRepo", false) => {
                format!("is gated ({status}); accept its terms at {page} and set HF_TOKEN")
            }
            (401 | 403, "GatedRepo", true) => {
                format!("is gated ({status}), and the owner of this HF_TOKEN has no access; ask for it at {page}")
            }
            (401, _, false) => {
                "needs HF_TOKEN (401): it is private or gated, or there is no such repository; check the name, \
                 or set HF_TOKEN"
                    .into()
            }
            (401, _, true) => format!(
                "this HF_TOKEN is not accepted (401), or there is no such repository; check both at {}",
                self.endpoint
            ),
            (403, _, false) => {
                format!("may not be read without a token (403); accept its terms at {page}, set HF_TOKEN")
            }
            (403, _, true) => format!("this HF_TOKEN may not read it (403); ask for access at {page}"),
            (404, "RevisionNotFound", _) => format!("no such revision {revision:?} (404); see {page}/tree/main"),
            (404, "RepoNotFound", _) => format!("no such repository (404); check the name at {page}"),
            (404, ..) if !file.is_empty() => format!("no such file {file} (404), though the repository lists it"),
            (404, ..) => {
                format!("no such repository, or no revision {revision:?} of it (404); check the name at {page}")
            }
            _ => format!("{} answers {status}; check HF_ENDPOINT", self.endpoint),
        };
        Failure::Refused(self.id.error(problem))
    }

    fn url(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{file}", self.endpoint, self.id.repo())
    }
}

/// `scheme://host:port`, all that may be shown of a signed URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// Where a redirect leads; nowhere from https to http.
fn join(url: &str, location: &str) -> Option<String> {
    let next = if location.starts_with("https://") || location.starts_with("http://") {
        location.to_owned()
    } else if location.starts_with('/') && !location.starts_with("//") {
        format!("{}{location}", origin(url))
    } else {
        return None;
    };
    (next.starts_with("https://") || url.starts_with("http://")).then_some(next)
}

/// The first byte of `bytes FIRST-LAST/SIZE`.
fn range_start(content_range: &str) -> Option<u64> {
    content_range.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// A download on its way. Dropped unfinished, it is kept under a name by which the next one finds it.
struct Part {
    own: PathBuf,
    kept: PathBuf,
    file: File,
    bytes: u64,
    hash: Sha256,
    finished: bool,
}

impl Part {
    /// Goes on with what an earlier download left. Renaming claims it: of two processes one gets it, and none writes
    /// into the other's.
    fn claim(blobs: &Path, etag: &str) -> Result<Part> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = blobs.join(format!("{etag}.{}-{number}.incomplete", std::process::id()));
        let kept = blobs.join(format!("{etag}.achilles.incomplete"));
        let _ = fs::rename(&kept, &own);
        let open = || {
            let mut file = File::options().create(true).read(true).append(true).open(&own)?;
            let (mut hash, mut bytes) = (Sha256::new(), 0);
            let mut reader = BufReader::new(&mut file);
            loop {
                let chunk = reader.fill_buf()?;
                if chunk.is_empty() {
                    return Ok((file, bytes, hash));
                }
                hash.update(chunk);
                let read = chunk.len();
                bytes += read as u64;
                reader.consume(read);
            }
        };
        let (file, bytes, hash) = open().map_err(Error::io(&own))?;
        Ok(Part { own, kept, file, bytes, hash, finished: false })
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::io(&self.own))?;
        (self.bytes, self.hash) = (0, Sha256::new());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.own))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self, blob: &Path) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.own))?;
        fs::rename(&self.own, blob).map_err(Error::io(blob))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            let _ = if self.bytes > 0 { fs::rename(&self.own, &self.kept) } else { fs::remove_file(&self.own) };
        }
    }
}
