use super::*;
use crate::compute::{DeviceChoice, fixture};
use crate::evaluate::text::Encoded;
use crate::locate::{Subject, locate};
use crate::progress::Silent;

const PLENTY: usize = 1 << 20;

fn exactly(passes: usize, rows: usize) -> Need {
    Need { passes, rows }
}

#[test]
fn importance_takes_the_rows_of_its_samples() {
    let of = |ranking, samples, most_rows, keeps| {
        let settings = SearchSettings { ranking, samples, ..SearchSettings::default() };
        let Span { least, most } = importance(&settings, most_rows, keeps);
        (least, most)
    };
    let one = exactly(1, 1);
    assert_eq!(of(Ranking::Magnitude, Samples::Auto, PLENTY, true), (one, one));
    assert_eq!(of(Ranking::SuperWeight, Samples::Auto, PLENTY, true), (one, one));
    assert_eq!(of(Ranking::MagnitudeSigned, Samples::Auto, PLENTY, true), (one, one));
    assert_eq!(of(Ranking::Random, Samples::Auto, PLENTY, true), (exactly(0, 0), exactly(0, 0)));
    assert_eq!(of(Ranking::Weights, Samples::Auto, PLENTY, true), (exactly(1, 0), exactly(1, 0)));
    let and_back = exactly(2, 3);
    assert_eq!(of(Ranking::Gradient, Samples::Auto, PLENTY, true), (and_back, and_back));
    let all = exactly(1, 101);
    assert_eq!(of(Ranking::Noise, Samples::Exactly(100), PLENTY, true), (all, all));
    let in_three = exactly(3, 101);
    assert_eq!(of(Ranking::Noise, Samples::Exactly(100), 40, true), (in_three, in_three));
    // 8, 12, 16, 24, 32, 48, 64 and 100 samples, and a clean row; without sums the hundred are drawn anew after 16.
    assert_eq!(of(Ranking::Noise, Samples::Auto, PLENTY, true), (exactly(1, 9), exactly(8, 101)));
    assert_eq!(of(Ranking::Noise, Samples::Auto, PLENTY, false), (exactly(1, 9), exactly(4, 118)));
}

#[test]
fn the_search_takes_at_most_all_prefixes() {
    let settings = SearchSettings::default();
    // 1, 2, 4, 8, 16 and then 32 at once: 5 + 5 passes to 191, and one for the rest. The clean text is a row.
    let Span { least, most } = searched(200, &settings, 1, PLENTY).unwrap();
    assert_eq!((least, most), (exactly(1, 2), exactly(11, 201)));
    // Where a pass pays for 64: 64, 64, 64 and 8.
    let Span { least, most } = searched(200, &settings, 64, PLENTY).unwrap();
    assert_eq!((least, most), (exactly(1, 65), exactly(4, 201)));
    // Memory for 10 rows makes four passes of 32.
    assert!(searched(200, &settings, 1, 10).unwrap().most.passes > 20);
}

#[test]
fn the_minimization_takes_what_damage_that_grows_asks_for() {
    let settings = SearchSettings::default();
    let Span { least, most } = minimized(40, &settings, 1, PLENTY).unwrap();
    assert_eq!(least, exactly(0, 0));
    // The proof alone is a row a member.
    assert!((40..200).contains(&most.rows) && (2..60).contains(&most.passes), "{most:?}");
    let paid = minimized(40, &settings, 8, PLENTY).unwrap().most;
    assert!(paid.passes < most.passes && paid.rows >= most.rows, "{paid:?} {most:?}");
    let further = SearchSettings { smallest: Some(100), ..settings };
    assert!(minimized(40, &further, 1, PLENTY).unwrap().most.rows <= most.rows + 100);
}

/// Long prefixes are counted up to where counting would take longer than half a second.
#[test]
fn prefixes_that_are_too_long_to_count_grow_from_those_that_are_not() {
    let rows = |longest| Ok(Span { least: Need::default(), most: Need { passes: 3, rows: longest } });
    let Span { least, most } = counted(100_000, rows).unwrap();
    assert_eq!((least, most), (exactly(0, 0), exactly(3 * 100_000 / MOST_COUNTED, 100_000)));
    assert_eq!(counted(200, rows).unwrap().most, exactly(3, 200));
    assert_eq!(counted(0, rows).unwrap().most, exactly(3, 0));
}

fn opened(positions: usize) -> OpenedSubject {
    let (checkpoint, recipe) = fixture::opened("llama");
    let ids = (0..positions).map(|at| at as u32 * 7 % 90).collect();
    let text = Encoded { ids, sha256: String::new() };
    OpenedSubject { checkpoint, recipe, text, seconds: 0.0 }
}

fn on_cpu(residency: Option<Residency>) -> ComputeSettings {
    ComputeSettings { device: DeviceChoice::Cpu, residency, ..ComputeSettings::default() }
}

#[test]
fn what_is_estimated_is_what_is_taken() {
    let settings = SearchSettings { max_neurons: 8, samples: Samples::Exactly(5), ..SearchSettings::default() };
    for (residency, weights) in [(Residency::Resident, "resident"), (Residency::Streamed, "stream")] {
        let compute = on_cpu(Some(residency));
        let estimate = opened(20).estimate(&settings, &compute).unwrap();
        let Estimate { memory, pass, stages, seconds, .. } = &estimate.result;
        assert_eq!((memory.weights, &memory.problem), (weights, &None));
        assert!(memory.resident_bytes > 0 && pass.first_rows >= 1 && pass.most_rows >= pass.first_rows);
        let by_name = |name| stages.iter().find(|stage| stage.stage == name).unwrap();
        assert_eq!(by_name("importance").rows, Span { least: 6, most: 6 });
        assert_eq!(by_name("load").passes.most, usize::from(residency == Residency::Resident));
        assert!(seconds.least <= seconds.most && seconds.most.is_finite());
        let subject: Subject = opened(20).load(&compute, &Silent).unwrap();
        let located = locate(&subject, &settings, &Silent).unwrap();
        assert!(located.report.result.prefix.n <= by_name("search").rows.most);
    }
}

#[test]
fn what_memory_does_not_suffice_for_is_told_before_the_start() {
    let settings = SearchSettings::default();
    let compute = ComputeSettings { memory: Some(Bytes(1 << 10)), ..on_cpu(None) };
    let problem = opened(20).check_memory(&settings, &compute).unwrap_err().to_string();
    assert!(problem.contains("weights") && problem.contains("--memory"), "{problem}");
    let told = opened(20).estimate(&settings, &compute).unwrap().result.memory.problem;
    assert_eq!(told, Some(problem));
    opened(20).check_memory(&settings, &on_cpu(None)).unwrap();
}
