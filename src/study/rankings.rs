//! Masking by other rankings than noise (the paper's Figure 3).

use super::outcome::{Chart, Outcome, Table, row};
use super::spread::masked_first;
use super::{Context, Study};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::locate::Ranking;

pub(super) const STUDY: Study = Study {
    name: "rankings",
    paper: "Figure 3",
    about: "Perplexity with the first 0 to 1,000 of each ranking masked; of random ones mean and standard deviation",
    run,
};

const COUNTS: [usize; 11] = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

const RANKINGS: [Ranking; 6] = [
    Ranking::Noise,
    Ranking::Magnitude,
    Ranking::MagnitudeSigned,
    Ranking::Gradient,
    Ranking::Weights,
    Ranking::Random,
];

fn run(context: &Context) -> Result<Outcome> {
    let mut table = Table::new(
        "rankings",
        "With the first n masked; of random draws the mean perplexity and its deviation, and the damage of the mean NLL",
        &["corpus", "ranking", "n", "perplexity", "deviation", "damage"],
    );
    let (mut reached, mut most) = (Vec::new(), 0);
    for ranking in RANKINGS {
        let spreads = masked_first(context, &context.search_by(ranking), &COUNTS)?;
        for (at, (corpus, of)) in spreads.iter().enumerate() {
            for (n, spread) in COUNTS.iter().zip(of) {
                most = most.max(*n);
                let damage = metrics::damage(spread.mean_nll(), of[0].mean_nll());
                table.rows.push(row![corpus.as_str(), ranking.as_str(), *n, spread.mean(), spread.deviation(), damage]);
            }
            if at == 0 {
                let damages = of.iter().map(|spread| metrics::damage(spread.mean_nll(), of[0].mean_nll()));
                let first = COUNTS.iter().zip(damages).find(|(_, damage)| *damage >= context.search.epsilon);
                reached.push((ranking, first.map(|(n, _)| *n)));
            }
        }
    }
    let of = |collapses: bool| {
        let of = reached.iter().filter(|(_, first)| first.is_some() == collapses);
        let told = |(ranking, first): &(Ranking, Option<usize>)| match first {
            Some(n) => format!("{} ({n})", ranking.as_str()),
            None => ranking.as_str().to_owned(),
        };
        of.map(told).collect::<Vec<_>>().join(", ")
    };
    let findings = vec![format!(
        "By these the model collapses (the first of the n tried): {}; by these it does not, up to {most}: {}. In the paper random, \
         signed magnitude and gradient stay far from collapse up to 1,000.",
        or_none(of(true)),
        or_none(of(false)),
    )];
    let mut on_text = table.clone();
    on_text.rows.retain(|row| row[0] == table.rows[0][0]);
    on_text.name = "rankings-on-text".into();
    on_text.title = "With the first n masked, the reference text alone".into();
    let chart = Chart::lines("rankings", "Perplexity of the text with the first n masked", &on_text, "n", "perplexity");
    Ok(Outcome { charts: vec![chart.by("ranking").log_x().log_y()], tables: vec![table, on_text], findings })
}

fn or_none(list: String) -> String {
    if list.is_empty() { "none".into() } else { list }
}
