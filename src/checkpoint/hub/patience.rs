//! How long a download may take: in proportion to its size, so that a server that drips is left.

use std::time::{Duration, Instant};

/// What has to arrive while one's patience lasts.
const BYTES: u64 = 1 << 20;
/// How many files can be asked for meanwhile.
const FILES: u64 = 30;

/// By when so many files of so many bytes in all have to be there.
pub(super) fn deadline(patience: Duration, files: usize, bytes: u64) -> Instant {
    let times = 1.0 + files as f64 / FILES as f64 + bytes as f64 / BYTES as f64;
    // A claimed size can be anything; nobody waits for a year.
    Instant::now() + patience.mul_f64(times.min(1e5)).min(Duration::from_secs(365 * 86_400))
}

/// Whether a file goes on arriving.
pub(super) struct Pace {
    patience: Duration,
    since: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(patience: Duration, bytes: u64) -> Pace {
        Pace { patience, since: Instant::now(), bytes }
    }

    /// `bytes` of it are there.
    pub(super) fn is_kept(&mut self, bytes: u64) -> bool {
        if bytes >= self.bytes.saturating_add(BYTES) {
            (self.since, self.bytes) = (Instant::now(), bytes);
        }
        self.since.elapsed() <= self.patience
    }
}
