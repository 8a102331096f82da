//! Masking by other rankings than noise (the paper's Figure 3).

use super::context::TEXT;
use super::outcome::{Chart, Outcome, Table, row};
use super::spread::masked_first;
use super::{Context, Study, Use};
use crate::error::Result;
use crate::locate::Ranking;

pub(super) const STUDY: Study = Study {
    name: "rankings",
    paper: "Figure 3",
    about: "Perplexity with the first 0 to 1,000 of each ranking masked; of random ones mean and standard deviation",
    uses: &[Use::Corpora, Use::Draws],
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
        let figures = masked_first(context, &context.search_by(ranking), &COUNTS)?;
        let first = figures.iter().find(|of| of.corpus == TEXT && of.damage >= context.search.epsilon);
        reached.push((ranking, first.map(|of| of.n)));
        most = figures.iter().map(|of| of.n).fold(most, usize::max);
        let rows = figures
            .into_iter()
            .map(|of| row![of.corpus, ranking.as_str(), of.n, of.perplexity, of.deviation, of.damage]);
        table.rows.extend(rows);
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
    let chart = Chart::lines("rankings", "Perplexity of the text with the first n masked", &table, "n", "perplexity");
    let chart = chart.by("ranking").only("corpus", TEXT).log_x().log_y();
    Ok(Outcome { charts: vec![chart], tables: vec![table], findings })
}

fn or_none(list: String) -> String {
    if list.is_empty() { "none".into() } else { list }
}
