//! The hub over HTTP: what a repository holds, and its files.
//!
//! hf-hub 0.5 is not used: its download sends the token on to the host of a redirect, knows no timeout, cannot be
//! stopped, and neither checks the length of what arrives nor its hash.

mod range;

pub(super) use range::Asked;

use super::cache::Blobs;
use super::content::ContentName;
use super::id::is_commit;
use super::listing::{LARGEST_LISTING, Listed, Listing};
use super::part::Part;
use super::patience::{Pace, deadline};
use super::{HubId, HubSettings};
use crate::error::{Bytes, Error, Result};
use crate::progress::Progress;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use range::ContentRange;
use std::io::Read;
use std::time::{Duration, Instant};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(20);
/// How often a request is tried without a byte of progress.
const ATTEMPTS: u32 = 3;
const REDIRECTS: u32 = 5;
/// Pages of a tree that are asked for at most: the hub gives a thousand files on each.
const PAGES: usize = 50;
/// What to do where a file of which a part is there does not come to its end.
const KEPT: &str = "what has arrived is kept: run it again to go on";
/// What a path in a URL holds as it is.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// What a file has to be.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) content: ContentName,
    pub(super) size: u64,
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
    patience: Duration,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Method {
    Head,
    /// Up to and with the byte `to`, or to the end.
    Get {
        from: u64,
        to: Option<u64>,
    },
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
        Ok(Remote { agent: config.build().into(), id, endpoint, token, patience: settings.patience })
    }

    pub(super) fn id(&self) -> &HubId {
        self.id
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// That it cannot be reached, what the cache lacks (or nothing), and what to do.
    pub(super) fn unreachable(&self, reason: &str, lack: &str) -> String {
        let advice = "check HF_ENDPOINT or the network, or set HF_HUB_OFFLINE=1 to use the cache";
        format!("cannot reach {} ({reason}); {lack}{advice}", self.endpoint)
    }

    /// By when so many files of so many bytes in all have to be there.
    pub(super) fn deadline(&self, files: usize, bytes: u64) -> Instant {
        deadline(self.patience, files, bytes)
    }

    /// Resolves the revision to a commit and lists its files.
    pub(super) fn listing(&self) -> std::result::Result<Listing, Failure> {
        let revision = self.id.revision().replace('/', "%2F");
        let (kind, repo) = (self.id.kind().plural(), self.id.repo());
        let url = format!("{}/api/{kind}/{repo}/revision/{revision}?blobs=true", self.endpoint);
        let response = self.send(Method::Get { from: 0, to: None }, &url, "", self.deadline(0, 0))?;
        let listing = Listing::parse(&self.page(response)?).map_err(|what| self.odd(&what))?;
        if is_commit(self.id.revision()) && listing.commit != self.id.revision() {
            return Err(self.odd(&format!("it names commit {}", listing.commit)));
        }
        Ok(listing)
    }

    /// As [`Remote::listing`], and where that does not tell all, by the pages of the commit's tree.
    pub(super) fn whole_listing(&self) -> std::result::Result<Listing, Failure> {
        let listing = self.listing()?;
        if listing.is_whole() {
            return Ok(listing);
        }
        let (kind, repo) = (self.id.kind().plural(), self.id.repo());
        let mut url = format!("{}/api/{kind}/{repo}/tree/{}?recursive=true", self.endpoint, listing.commit);
        let until = self.deadline(PAGES, 0);
        let mut pages = Vec::new();
        loop {
            let response = self.send(Method::Get { from: 0, to: None }, &url, "", until)?;
            let link = response.headers().get("link").and_then(|value| value.to_str().ok());
            let next = link.and_then(next_page).map(str::to_owned);
            pages.push(self.page(response)?);
            let Some(next) = next else { break };
            // Pages are the hub's own: with its token, and nowhere else.
            let next = join(&url, &next).filter(|next| origin(next) == origin(&self.endpoint));
            url = next.ok_or_else(|| self.odd("the next page of its files is elsewhere"))?;
            if pages.len() == PAGES {
                return Err(self.odd(&format!("its list of files has more than {PAGES} pages")));
            }
        }
        listing.completed(&pages).map_err(|what| self.odd(&what))
    }

    /// An answer that lists files, whole.
    fn page(&self, response: Response<Body>) -> std::result::Result<Vec<u8>, Failure> {
        let mut text = Vec::new();
        let body = response.into_body().into_reader();
        let read = body.take(LARGEST_LISTING + 1).read_to_end(&mut text);
        read.map_err(|e| Failure::Unreachable(e.to_string()))?;
        if text.len() as u64 > LARGEST_LISTING {
            return Err(self.odd(&format!("its list of files is longer than {}", Bytes(LARGEST_LISTING))));
        }
        Ok(text)
    }

    fn odd(&self, what: &str) -> Failure {
        let problem = format!("{} does not answer as a hub does ({what}); check HF_ENDPOINT", self.endpoint);
        Failure::Refused(self.id.error(problem))
    }

    /// Asks for a file's size and digest, and holds what the list says of it against them.
    pub(super) fn head(
        &self,
        commit: &str,
        file: &str,
        listed: &Listed,
        until: Instant,
        progress: &dyn Progress,
    ) -> Result<Expected> {
        let url = self.url(commit, file);
        let until = until.min(self.deadline(1, 0));
        let mut failures = 0;
        let response = loop {
            match self.send(Method::Head, &url, file, until) {
                Ok(response) => break response,
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Unreachable(reason)) => {
                    failures += 1;
                    progress.advance(0)?;
                    self.pause(failures, file, &reason, until, KEPT)?;
                }
            }
        };
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let odd = |what: &str| self.odd_file(file, what);
        let linked = header("x-linked-etag");
        let length = match (linked, response.status().is_redirection()) {
            (Some(_), _) => header("x-linked-size"),
            (None, false) => header("content-length"),
            // That is the length of the redirect itself.
            (None, true) => None,
        };
        let length = length.and_then(|text| text.parse().ok());
        if let (Some(listed), Some(found)) = (listed.size, length)
            && listed != found
        {
            return Err(odd(&format!("the endpoint lists it with {listed} bytes but offers {found}")));
        }
        let size = listed.size.or(length).ok_or_else(|| odd("the endpoint does not say how many bytes it has"))?;
        let etag = linked.or(header("etag")).unwrap_or_default().trim_start_matches("W/").trim_matches('"');
        let content = listed.content.clone().or_else(|| ContentName::parse(etag));
        let content =
            content.ok_or_else(|| odd("the endpoint gives no digest (git SHA-1 or SHA-256) to check it against"))?;
        Ok(Expected { content, size })
    }

    pub(super) fn odd_file(&self, file: &str, what: &str) -> Error {
        self.id.error(format!("{file}: {what}; check HF_ENDPOINT"))
    }

    /// Brings a file into the blobs, whole and checked, or not at all.
    pub(super) fn download(
        &self,
        commit: &str,
        file: &str,
        expected: &Expected,
        blobs: &Blobs,
        until: Instant,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Expected { content, size } = expected;
        let url = self.url(commit, file);
        let mut part = Part::claim(blobs, content, *size)?;
        progress.advance(part.bytes)?;
        let until = until.min(self.deadline(1, size.saturating_sub(part.bytes)));
        let mut pace = Pace::new(self.patience, part.bytes);
        let (mut failures, mut most) = (0, part.bytes);
        while part.bytes != *size {
            match self.append(&url, file, *size, &mut part, (until, &mut pace), progress) {
                Ok(()) => break,
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Unreachable(reason)) => {
                    failures = if part.bytes > most { 1 } else { failures + 1 };
                    most = most.max(part.bytes);
                    progress.advance(0)?;
                    self.pause(failures, file, &reason, until, KEPT)?;
                }
            }
        }
        let found = part.name();
        if found != *content {
            part.restart()?;
            let problem = format!(
                "{file}: the hub names {content}, but what arrived has {}; it was damaged or altered on the way and is \
                 not kept: try again",
                found.as_str()
            );
            return Err(self.id.error(problem));
        }
        part.finish()
    }

    /// Asks for what is missing of `part` and appends it.
    fn append(
        &self,
        url: &str,
        file: &str,
        size: u64,
        part: &mut Part,
        (until, pace): (Instant, &mut Pace),
        progress: &dyn Progress,
    ) -> std::result::Result<(), Failure> {
        let response = self.send(Method::Get { from: part.bytes, to: None }, url, file, until)?;
        // 200 to a range: this server cannot resume. 416: what is there does not fit.
        if part.bytes > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            part.restart().map_err(Failure::Refused)?;
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
                return Err(Failure::Unreachable("the range asked for is not there".into()));
            }
        }
        if part.bytes > 0 && ContentRange::of(&response).is_some_and(|range| range.from != part.bytes) {
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
            if part.bytes + read as u64 > size {
                part.restart().map_err(Failure::Refused)?;
                let problem = format!("{file}: more arrives than its {size} bytes; it is not kept; check HF_ENDPOINT");
                return Err(Failure::Refused(self.id.error(problem)));
            }
            part.append(&buffer[..read]).map_err(Failure::Refused)?;
            progress.advance(read as u64).map_err(Failure::Refused)?;
            if !pace.is_kept(part.bytes) || Instant::now() > until {
                return Err(Failure::Refused(self.late(
                    file,
                    &format!("{} of {size} bytes are there", part.bytes),
                    KEPT,
                )));
            }
        }
        match part.bytes < size {
            true => Err(Failure::Unreachable(format!("the connection ended after {} of {size} bytes", part.bytes))),
            false => Ok(()),
        }
    }

    fn late(&self, file: &str, reason: &str, again: &str) -> Error {
        self.id.error(format!("{file} arrives too slowly ({reason}); {again}"))
    }

    /// Waits before another attempt, or gives up.
    pub(super) fn pause(&self, failures: u32, file: &str, reason: &str, until: Instant, again: &str) -> Result<()> {
        if Instant::now() > until {
            return Err(self.late(file, reason, again));
        }
        if failures >= ATTEMPTS {
            return Err(self.id.error(format!("{file} does not arrive ({reason}); {again}")));
        }
        tracing::debug!("hub {}: {file}: {reason}; trying again", self.id);
        std::thread::sleep(Duration::from_millis(300 * u64::from(failures)));
        Ok(())
    }

    /// Sends a request and follows redirects, as long as they are of the commit that is asked for, with the token only where the origin is the endpoint's. A HEAD stops at
    /// the redirect that tells of the file.
    pub(super) fn send(
        &self,
        method: Method,
        url: &str,
        file: &str,
        until: Instant,
    ) -> std::result::Result<Response<Body>, Failure> {
        let commit = url.split_once("/resolve/").and_then(|(_, file)| file.split('/').next());
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let home = origin(&url) == origin(&self.endpoint);
            let mut request = if method == Method::Head { self.agent.head(&url) } else { self.agent.get(&url) };
            match method {
                Method::Get { from, to: Some(to) } => request = request.header("range", format!("bytes={from}-{to}")),
                Method::Get { from: from @ 1.., to: None } => {
                    request = request.header("range", format!("bytes={from}-"));
                }
                _ => {}
            }
            if let (true, Some(token)) = (home, self.token) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let request = request.config().timeout_global(Some(left)).build();
            let host = if home { String::new() } else { format!("{}: ", origin(&url)) };
            let response = request.call().map_err(|e| Failure::Unreachable(format!("{host}{e}")))?;
            let said = response.headers().get("x-repo-commit").and_then(|v| v.to_str().ok());
            if home && commit.is_some() && said.is_some() && said != commit {
                let problem = "the endpoint answers with another commit than the one asked for";
                return Err(Failure::Refused(self.odd_file(file, problem)));
            }
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
        let (page, revision) = (format!("{}/{}", self.endpoint, self.id.path()), self.id.revision());
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

    pub(super) fn url(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.id.path(), utf8_percent_encode(file, IN_PATHS))
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

/// Where `Link: <URL>; rel="next"` says that a list goes on.
fn next_page(link: &str) -> Option<&str> {
    let is_next = |parameters: &str| parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
    let mut rest = link;
    while let Some((url, after)) = rest.split_once('<').and_then(|(_, from)| from.split_once('>')) {
        let (parameters, further) = after.split_once(",").unwrap_or((after, ""));
        if is_next(parameters) {
            return Some(url);
        }
        rest = further;
    }
    None
}
