//! How much processor time and memory the child may take, in proportion to what it was given.

use super::{Failure, MALFORMED, Request};
use std::process::ExitStatus;
use std::time::Duration;

/// What requests so far may take together. Both sides count it: the child to be held by it, the parent to tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    cpu_s: f64,
    bytes: u64,
    /// Of them for the longest chat: there is one at a time.
    chat: u64,
}

/// For any input; a process that does nothing takes a hundredth of either.
const LEAST: Allowance = Allowance { cpu_s: 1.0, bytes: 64 << 20, chat: 0 };
/// Of a file up to this long there is no more processor time, and memory enough for every kind of tokenizer published
/// at that size.
const SMALL_FILE: u64 = 5 << 20;
const BYTES_PER_FILE_BYTE: u64 = 24;
/// Beyond it some five times what published tokenizers take: vocabularies of 200,000 entries as BPE or Unigram.
const CPU_S_PER_BYTE_BEYOND: f64 = 0.5e-6;
const BYTES_PER_BYTE_BEYOND: u64 = 128;
/// Some ten times what text takes.
const CPU_S_PER_TEXT_BYTE: f64 = 4e-6;
const BYTES_PER_TEXT_BYTE: u64 = 512;
const CPU_S_PER_REQUEST: f64 = 1e-3;
/// For the list of a Parquet file's pages, and one of them as it is and as it unpacks: writers make them of a megabyte.
const BYTES_OF_PARQUET: u64 = 512 << 20;
const CPU_S_OF_PARQUET: f64 = 5.0;
/// For a megabyte of texts, unpacked and written.
const CPU_S_PER_TEXTS: f64 = 0.5;

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
        let of_text = text * BYTES_PER_TEXT_BYTE;
        self.bytes += of_file;
        match request {
            Request::Parquet { .. } => {
                self.cpu_s += CPU_S_OF_PARQUET;
                self.bytes += BYTES_OF_PARQUET;
            }
            Request::NextTexts => self.cpu_s += CPU_S_PER_TEXTS,
            Request::Render(_) => {
                self.bytes += of_text.saturating_sub(self.chat);
                self.chat = self.chat.max(of_text);
            }
            _ => self.bytes += of_text,
        }
    }

    /// How long an answer may take by the clock, on a machine that has much else to do.
    pub fn wall(&self) -> Duration {
        Duration::from_secs_f64(30.0 + 10.0 * self.cpu_s)
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

    /// Lets this process have memory for a request, which the parent makes and not the checkpoint.
    #[cfg(unix)]
    pub fn lift() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Data).maximum;
        let _ = setrlimit(Resource::Data, Rlimit { current: maximum, maximum });
    }

    /// There is nothing that holds it.
    #[cfg(not(unix))]
    pub fn lift() {}
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
                let problem =
                    format!("takes more than the {} MiB of memory that its size warrants", allowance.bytes >> 20);
                return Failure::Problem(problem.into());
            }
            Some(Signal::INT | Signal::TERM | Signal::HUP | Signal::QUIT) => return Failure::Interrupted,
            // As the kernel does where the whole machine runs out of memory.
            Some(Signal::KILL) => return Failure::Ended("the process that runs it was ended (SIGKILL)".into()),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What whole processes took on one slow core: vocabularies of 49,000, 128,000 and 200,000 tokens as BPE and of
    /// 250,000 as Unigram, and a megabyte of text.
    #[test]
    fn published_tokenizers_and_long_texts_have_room() {
        const MIB: u64 = 1 << 20;
        for (file, text, cpu_s, needed) in [
            (3_522_657, 480, 0.08, 60 * MIB),
            (6_445_035, 480, 0.31, 160 * MIB),
            (10_689_949, 480, 0.54, 240 * MIB),
            (8_758_229, 480, 1.1, 480 * MIB),
            (3_522_657, 1_000_000, 0.56, 180 * MIB),
        ] {
            let mut allowance = Allowance::default();
            allowance.extend(&Request::Tokenizer(" ".repeat(file).into()));
            allowance.extend(&Request::Ids { text: " ".repeat(text).into(), add_special_tokens: true });
            assert!(
                allowance.cpu_s.round() > 1.5 * cpu_s && allowance.bytes > needed * 11 / 10,
                "{file}: {allowance:?}"
            );
            assert!(file > 5_000_000 || text > 1000 || (allowance.cpu_s < 1.5 && allowance.bytes < 190 * MIB));
        }
    }
}
