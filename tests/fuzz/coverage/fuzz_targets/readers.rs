//! Each input's first byte chooses the reader, the rest is what it reads.
//!
//! ```sh
//! cargo install cargo-fuzz
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz/coverage readers --sanitizer none -- -max_total_time=3600 -rss_limit_mb=512 -timeout=10
//! ```
//!
//! Tokenizers and chat templates run in a child process, as they do in the binary: `ACHILLES_AUDIT` names one that is
//! built from the same sources. The sanitizer finds nothing in safe code and costs half the speed. The seeds of
//! `tests/fuzz/readers.rs` are written into the corpus by the first run.

#![no_main]

#[path = "../../readers.rs"]
mod readers;

use libfuzzer_sys::{Corpus, fuzz_target};
use readers::READERS;

fuzz_target!(init: seed_corpus(), |input: &[u8]| -> Corpus {
    let Some((choice, input)) = input.split_first() else { return Corpus::Reject };
    let Some(reader) = READERS.get(*choice as usize) else { return Corpus::Reject };
    (reader.read)(input);
    Corpus::Keep
});

/// libFuzzer starts from the files of the corpus, where there are any.
fn seed_corpus() {
    let binary = std::env::var_os("ACHILLES_AUDIT").expect("ACHILLES_AUDIT, the binary that tokenizers run in");
    achilles_audit::worker::start_from(binary);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/readers");
    std::fs::create_dir_all(folder).expect(folder);
    for (choice, reader) in READERS.iter().enumerate() {
        for (number, seed) in reader.seeds.iter().enumerate() {
            let file = format!("{folder}/{}-{number}", reader.name);
            std::fs::write(&file, [&[choice as u8], *seed].concat()).expect(&file);
        }
    }
}
