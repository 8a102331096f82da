//! How the prefix depends on the noise: its strength α and the number of samples K (the paper's Figure 4).

use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Study};
use crate::error::Result;
use crate::locate::{Ranking, Samples, SearchSettings};

pub(super) const STUDY: Study = Study {
    name: "sampling",
    paper: "Figure 4",
    about: "The length of the prefix and the size of the critical set against α and against K",
    uses: &[],
    run,
};

const ALPHAS: [f64; 8] = [0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0];
const SAMPLES: [usize; 8] = [1, 2, 5, 10, 20, 40, 80, 100];

fn run(context: &Context) -> Result<Outcome> {
    let usual = SearchSettings { ranking: Ranking::Noise, ..context.search.clone() };
    let columns = |varied| [varied, "prefix", "critical set", "same set as usual"];
    let mut by_alpha = Table::new("alpha", "Against α, the standard deviation of the noise", &columns("alpha"));
    let mut by_samples = Table::new("samples", "Against K, the number of samples", &columns("samples"));
    let expected = context.locate(&usual)?.report.result.critical_set.map(|set| set.neurons);
    let measure = |search: SearchSettings, table: &mut Table, varied: super::Cell| -> Result<Option<usize>> {
        let found = context.locate(&search)?.report.result;
        let set = found.critical_set.map(|set| set.neurons);
        let prefix = found.prefix.collapsed.then_some(found.prefix.n);
        let same = set.as_ref().map(|set| if Some(set) == expected.as_ref() { "yes" } else { "no" });
        table.rows.push(row![varied, prefix, set.map(|set| set.len()), same]);
        Ok(prefix)
    };
    let mut alphas = Vec::new();
    for alpha in ALPHAS {
        alphas.push(measure(SearchSettings { alpha, ..usual.clone() }, &mut by_alpha, alpha.into())?);
    }
    let mut samples = Vec::new();
    for k in SAMPLES {
        let search = SearchSettings { samples: Samples::Exactly(k), ..usual.clone() };
        samples.push(measure(search, &mut by_samples, k.into())?);
    }
    let settled = |varied: &[String], prefixes: &[Option<usize>]| {
        let last = prefixes.last()?;
        let from = prefixes.iter().rposition(|prefix| prefix != last).map_or(0, |at| at + 1);
        let n = last.map_or("no prefix collapses".into(), |n| format!("n is {n}"));
        Some(format!("{n} from {} on", varied[from]))
    };
    let names = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>();
    let counts = SAMPLES.map(|k| k as f64);
    let findings = [
        settled(&names(&ALPHAS), &alphas)
            .map(|told| format!("Of α: {told}; in the paper n varies below α = 5 and is 7 from there.")),
        settled(&names(&counts), &samples).map(|told| format!("Of K: {told}; in the paper n is 7 from K = 80 on.")),
    ];
    let charts = vec![
        Chart::lines("alpha", "The prefix against α", &by_alpha, "alpha", "prefix").log_x(),
        Chart::lines("samples", "The prefix against K", &by_samples, "samples", "prefix").log_x(),
    ];
    Ok(Outcome { tables: vec![by_alpha, by_samples], charts, findings: findings.into_iter().flatten().collect() })
}
