//! Changes what checkpoints say of themselves and reads it: no reader may panic, hang or allocate without measure.
//!
//! `ACHILLES_FUZZ_SECONDS` is how long it goes on, all readers together; `ACHILLES_FUZZ_SEED` (a number far from 42)
//! makes other changes; `ACHILLES_FUZZ_READERS` are the readers, by name with commas between, if not all. `coverage/`
//! does the same with coverage to guide it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod change;
mod readers;

use achilles_audit::worker;
use change::{Change, changes};
use peak_alloc::PeakAlloc;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use readers::{READERS, Reader, USUAL, packed_model};
use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// An input that takes longer counts as one that never ends.
const LONGEST: Duration = Duration::from_secs(10);

/// What a run has come to.
#[derive(Default)]
struct Figures {
    runs: Cell<u64>,
    slowest: Cell<Duration>,
    most_bytes: Cell<usize>,
    /// Of inputs of at least 4 KiB, where fixed costs no longer count: allocated over length.
    worst_factor: Cell<f64>,
}

/// The one test of this binary: what another allocated meanwhile would be counted.
#[test]
fn readers_survive_changed_input() {
    worker::start_from(env!("CARGO_BIN_EXE_achilles-audit"));
    measuring_finds_what_allocates_too_much();
    the_seeds_are_sound();
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |value| value.parse().expect(name));
    let seconds = number("ACHILLES_FUZZ_SECONDS", 15);
    let seed = number("ACHILLES_FUZZ_SEED", 42);
    let chosen = std::env::var("ACHILLES_FUZZ_READERS").ok();
    let is_chosen = |reader: &&Reader| chosen.as_ref().is_none_or(|names| names.split(',').any(|n| n == reader.name));
    let readers: Vec<&Reader> = READERS.iter().filter(is_chosen).collect();
    assert!(!readers.is_empty(), "ACHILLES_FUZZ_READERS names none");
    let each = Duration::from_secs(seconds).div_f64(readers.len() as f64);
    for reader in readers {
        let figures = Figures::default();
        for seed in reader.seeds {
            measure(reader, seed, &figures).unwrap();
        }
        let begin = Instant::now();
        for batch in (seed..).take_while(|_| begin.elapsed() < each) {
            let rng_seed = RngSeed::Fixed(batch);
            let config = Config { cases: 256, failure_persistence: None, rng_seed, ..Config::default() };
            let mut runner = TestRunner::new(config);
            let outcome =
                runner.run(&changes(reader.seeds), |change| measure(reader, &change.apply(reader.seeds), &figures));
            match outcome {
                Ok(()) => {}
                Err(TestError::Fail(reason, change)) => fail(reader, &reason.to_string(), &change),
                Err(TestError::Abort(reason)) => panic!("{}: {reason}", reader.name),
            }
        }
        println!(
            "{:16} {:>10} runs, {:>7.0} a second; the slowest took {:?}; at most {} KiB and {:.1} times the input",
            reader.name,
            figures.runs.get(),
            figures.runs.get() as f64 / begin.elapsed().as_secs_f64(),
            figures.slowest.get(),
            figures.most_bytes.get() >> 10,
            figures.worst_factor.get(),
        );
    }
}

/// Reads once, and fails where that takes too much time or memory. Panics are the runner's to catch.
fn measure(reader: &Reader, input: &[u8], figures: &Figures) -> Result<(), TestCaseError> {
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let begin = Instant::now();
    (reader.read)(input);
    let took = begin.elapsed();
    let bytes = ALLOCATED.peak_usage().saturating_sub(before);
    figures.runs.set(figures.runs.get() + 1);
    figures.slowest.set(figures.slowest.get().max(took));
    figures.most_bytes.set(figures.most_bytes.get().max(bytes));
    if input.len() >= 4096 {
        let factor = bytes as f64 / input.len() as f64;
        figures.worst_factor.set(figures.worst_factor.get().max(factor));
    }
    if bytes > 2 * input.len() + reader.allowance {
        return Err(TestCaseError::fail(format!("allocated {bytes} bytes for an input of {}", input.len())));
    }
    if took > LONGEST {
        return Err(TestCaseError::fail(format!("took {took:?} for an input of {} bytes", input.len())));
    }
    Ok(())
}

fn fail(reader: &Reader, reason: &str, change: &Change) -> ! {
    let input = change.apply(reader.seeds);
    let shown = String::from_utf8_lossy(&input[..input.len().min(2_000)]).into_owned();
    panic!("{}: {reason}\n{change:?}\n{} bytes: {shown:?}", reader.name, input.len());
}

/// Changes of what is refused at once would show nothing.
fn the_seeds_are_sound() {
    use achilles_audit::{checkpoint::Checkpoint, evaluate::text::Tokenizer, patch::Receipt, probe::ChatTemplate};
    let of = |name: &str| READERS.iter().find(|reader| reader.name == name).unwrap().seeds;
    for seed in of("tokenizer") {
        let text = std::str::from_utf8(seed).unwrap();
        Tokenizer::parse(Path::new("tokenizer.json"), text).unwrap().ids("hello").unwrap();
    }
    for seed in of("chat-template") {
        let text = String::from_utf8(seed.to_vec()).unwrap();
        ChatTemplate::new("chat_template.jinja".into(), text, [].into()).render("hello").unwrap();
    }
    Receipt::parse(Path::new("receipt.json"), of("receipt")[0]).unwrap();
    for seed in of("packed") {
        let checkpoint = Checkpoint::of(&packed_model(seed).unwrap()).unwrap();
        let [(_, Ok(weight))] = &checkpoint.tensors().packed().collect::<Vec<_>>()[..] else { panic!("not packed") };
        weight.all().unwrap();
    }
}

/// The allowance is one that a reader can exceed.
fn measuring_finds_what_allocates_too_much() {
    fn greedy(bytes: &[u8]) {
        let claimed = usize::from_le_bytes(bytes[..8].try_into().unwrap());
        std::hint::black_box(Vec::<u8>::with_capacity(claimed));
    }
    let reader = Reader { name: "greedy", read: greedy, seeds: &[], allowance: USUAL };
    let figures = Figures::default();
    assert!(measure(&reader, &(1usize << 20).to_le_bytes(), &figures).is_ok());
    assert!(measure(&reader, &(1usize << 26).to_le_bytes(), &figures).is_err());
}
