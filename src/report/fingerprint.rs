//! What a fingerprint was taken of, for people.

use super::hub;
use crate::checkpoint::hex;
use crate::checkpoint::hub::Origin;
use crate::checkpoint::hub::published::Published;
use crate::error::{Bytes, Count};
use crate::integrity::fingerprint::Fingerprint;
use std::time::Duration;

/// How much a hub publishes.
pub fn published(published: &Published) -> String {
    let Published { repository, revision, commit, files } = published;
    let bytes = Bytes(files.iter().map(|file| file.bytes).fold(0, u64::saturating_add));
    format!("{}, {bytes} of {repository} {revision}, commit {commit}", Count(files.len(), "file", "files"))
}

/// How much it covers, what it took, and which commit of a hub repository that is.
pub fn summary(fingerprint: &Fingerprint, origin: Option<&Origin>, time: Duration) -> String {
    let Fingerprint { algorithm, files, tensors, .. } = fingerprint;
    let by = algorithm.name();
    let (bytes, seconds) = (files.iter().map(|f| f.bytes).sum(), time.as_secs_f64());
    let (speed, digest) = (Bytes((bytes as f64 / seconds) as u64), hex(&fingerprint.tensors_digest()));
    let (files, tensors, bytes) = (files.len(), tensors.len(), Bytes(bytes));
    let not_examined: Vec<String> = origin.iter().flat_map(|origin| origin.not_examined(&origin.not_fetched)).collect();
    format!("{files} files, {tensors} tensors, {bytes} in {seconds:.1} s ({speed}/s); tensors {by} {digest}\n")
        + &hub::lines(origin, &not_examined)
}
