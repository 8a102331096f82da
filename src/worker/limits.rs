//! How much processor time and memory the child may take, in proportion to what it was given.

use super::{Failure, MALFORMED, Request};
use std::process::ExitStatus;

/// What requests so far may take together. Both sides count it: the child to be held by it, the parent to tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    cpu_s: f64,
    bytes: u64,
}

/// For any input; a process that does nothing takes a hundredth of either.
const LEAST: Allowance = Allowance { cpu_s: 1.0, bytes: 64 << 20 };
/// Of a file up to this long there is no more processor time, and memory enough for every kind of tokenizer published
/// at that size.
const SMALL_FILE: u64 = 5 << 20;
const BYTES_PER_FILE_BYTE: u64 = 24;
/// Beyond it some five times what published tokenizers take: vocabularies of 200,000 entries as BPE or Unigram.
const CPU_S_PER_BYTE_BEYOND: f64 = 0.3e-6;
const BYTES_PER_BYTE_BEYOND: u64 = 96;
/// Some ten times what text takes.
const CPU_S_PER_TEXT_BYTE: f64 = 4e-6;
const BYTES_PER_TEXT_BYTE: u64 = 512;
const CPU_S_PER_REQUEST: f64 = 1e-3;

impl Default for Allowance {
    fn default() -> Allowance {
        LEAST
    }
}

impl Allowance {
    /// Adds what `request` may take.
    pub fn extend(&mut self, request: &Request<'_>) {
        let (file, text) = request.bytes();
        let beyond = file.saturating_sub(SMALL_FILE);
        self.cpu_s += beyond as f64 * CPU_S_PER_BYTE_BEYOND + text as f64 * CPU_S_PER_TEXT_BYTE + CPU_S_PER_REQUEST;
        let of_file = (file - beyond) * BYTES_PER_FILE_BYTE + beyond * BYTES_PER_BYTE_BEYOND;
        self.bytes += of_file + text * BYTES_PER_TEXT_BYTE;
    }

    /// Holds this process to it.
    #[cfg(unix)]
    pub fn apply(&self) {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = |resource, most: u64| {
            let maximum = getrlimit(resource).maximum;
            let current = Some(maximum.map_or(most, |maximum| most.min(maximum)));
            // Whoever set a lower one meant it.
            let _ = setrlimit(resource, Rlimit { current, maximum });
        };
        // The kernel counts whole seconds.
        limit(Resource::Cpu, self.cpu_s.round() as u64);
        limit(Resource::Data, self.bytes);
        limit(Resource::Core, 0);
    }

    /// There is nothing to hold it with.
    #[cfg(not(unix))]
    pub fn apply(&self) {}
}

/// Why a child has ended without an answer.
pub(super) fn reason(status: ExitStatus, allowance: &Allowance) -> Failure {
    #[cfg(unix)]
    {
        use rustix::process::Signal;
        use std::os::unix::process::ExitStatusExt;
        let seconds = allowance.cpu_s.round();
        match status.signal().and_then(Signal::from_named_raw) {
            Some(Signal::XCPU) => {
                let problem = format!("takes more than the {seconds} s of processor time that its size warrants");
                return Failure::Problem(problem.into());
            }
            // Also what a stack without end comes to.
            Some(Signal::ABORT | Signal::SEGV | Signal::BUS) => {
                let problem = format!("takes more than the {} MiB of memory that its size warrants", allowance.bytes >> 20);
                return Failure::Problem(problem.into());
            }
            Some(Signal::INT | Signal::TERM | Signal::HUP | Signal::QUIT) => return Failure::Interrupted,
            _ => {}
        }
    }
    // A panic, which is what a library makes of a contradiction.
    if status.code() == Some(101) {
        return Failure::Problem(MALFORMED.into());
    }
    let _ = allowance;
    Failure::Problem(format!("ends the process that runs it ({status})").into())
}
