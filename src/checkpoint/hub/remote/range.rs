//! Some bytes of a file on the hub.

use super::{Failure, Method, Remote};
use crate::error::Result;
use crate::progress::Progress;
use std::io::Read;
use std::ops::Range;
use std::time::Instant;
use ureq::Body;
use ureq::http::{Response, StatusCode};

/// What to do where they do not come.
const AGAIN: &str = "run it again";

/// A file of a commit, by its length.
pub(in super::super) struct Asked<'a> {
    pub(in super::super) commit: &'a str,
    pub(in super::super) file: &'a str,
    pub(in super::super) size: u64,
}

impl Remote<'_> {
    /// No digest tells of a part, so the bytes are as the hub sends them; the length that it names beside them has to be
    /// the one that it lists.
    ///
    /// # Errors
    /// They do not come, others do, or the job is stopped meanwhile.
    pub(in super::super) fn range(&self, asked: &Asked, bytes: Range<u64>, progress: &dyn Progress) -> Result<Vec<u8>> {
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        let until = self.deadline(1, bytes.end - bytes.start);
        let mut failures = 0;
        loop {
            progress.advance(0)?;
            match self.read_range(asked, bytes.clone(), until, progress) {
                Ok(read) => return Ok(read),
                Err(Failure::Refused(error)) => return Err(error),
                Err(Failure::Unreachable(reason)) => {
                    failures += 1;
                    progress.advance(0)?;
                    self.pause(failures, asked.file, &reason, until, AGAIN)?;
                }
            }
        }
    }

    fn read_range(
        &self,
        asked: &Asked,
        bytes: Range<u64>,
        until: Instant,
        progress: &dyn Progress,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let Asked { commit, file, size } = *asked;
        let method = Method::Get { from: bytes.start, to: Some(bytes.end - 1) };
        let response = self.send(method, &self.url(commit, file), file, until)?;
        let odd = |what: &str| Failure::Refused(self.odd_file(file, what));
        let range = ContentRange::of(&response);
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(odd(&format!("the endpoint lists it with {size} bytes but has none from {}", bytes.start)));
        }
        if let Some(found) = range.as_ref().and_then(|range| range.size)
            && found != size
        {
            return Err(odd(&format!("the endpoint lists it with {size} bytes but offers {found}")));
        }
        // A server that knows no ranges sends all from the beginning, of which the rest is not read.
        let starts_there = match response.status() {
            StatusCode::PARTIAL_CONTENT => range.is_none_or(|range| range.from == bytes.start),
            _ => bytes.start == 0,
        };
        if !starts_there {
            return Err(odd("another range arrives than was asked for; `lint --download` reads all of it"));
        }
        let wanted = bytes.end - bytes.start;
        let mut read = Vec::new();
        let mut body = response.into_body().into_reader().take(wanted);
        let mut buffer = vec![0; 64 << 10];
        loop {
            progress.advance(0).map_err(Failure::Refused)?;
            match body.read(&mut buffer).map_err(|e| Failure::Unreachable(e.to_string()))? {
                0 => break,
                more => read.extend_from_slice(&buffer[..more]),
            }
        }
        match read.len() as u64 == wanted {
            true => Ok(read),
            false => Err(Failure::Unreachable(format!("the connection ended after {} of {wanted} bytes", read.len()))),
        }
    }
}

/// `bytes FIRST-LAST/SIZE`, where SIZE may be `*`.
pub(super) struct ContentRange {
    pub(super) from: u64,
    pub(super) size: Option<u64>,
}

impl ContentRange {
    /// What a response says that it holds.
    pub(super) fn of(response: &Response<Body>) -> Option<ContentRange> {
        let said = response.headers().get("content-range")?.to_str().ok()?;
        let (range, size) = said.trim().strip_prefix("bytes ")?.split_once('/')?;
        let from = range.split_once('-')?.0.parse().ok()?;
        Some(ContentRange { from, size: size.parse().ok() })
    }
}
