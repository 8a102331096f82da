//! Every subset of the critical set (the paper's Table 5).

use super::outcome::{Outcome, Table, row};
use super::{Context, Measured, Study, Use};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::neuron::Neuron;

pub(super) const STUDY: Study = Study {
    name: "subsets",
    paper: "Table 5",
    about: "Perplexity with every subset of the critical set masked; of more than 12 members those of at most 2, or all but 2",
    uses: &[Use::Critical, Use::Corpora],
    run,
};

/// Sets of more members are looked at by their smallest and largest subsets alone.
const MOST_MEMBERS: usize = 12;

/// More subsets are measured on the reference text alone.
const MOST_ON_CORPORA: usize = 64;

fn run(context: &Context) -> Result<Outcome> {
    let set = context.set()?;
    let subsets = subsets(set.len());
    let sets: Vec<Vec<Neuron>> = std::iter::once(Vec::new())
        .chain(subsets.iter().map(|places| places.iter().map(|at| set[*at].clone()).collect()))
        .collect();
    let measured = match subsets.len() <= MOST_ON_CORPORA {
        true => context.masked(&sets)?,
        false => context.masked_on_text(&sets)?,
    };
    let mut members = Table::new("members", "What the numbers of subsets stand for", &["member", "neuron"]);
    members.rows = set.iter().enumerate().map(|(at, neuron)| row![at, neuron]).collect();
    let mut table = Table::new(
        "subsets",
        "With these members masked, the larger sets first",
        &["corpus", "members", "masked", "perplexity", "damage"],
    );
    for Measured { corpus, nlls } in &measured {
        for (places, nll) in subsets.iter().zip(&nlls[1..]) {
            let names: Vec<String> = places.iter().map(usize::to_string).collect();
            let (perplexity, damage) = (metrics::perplexity(*nll), metrics::damage(*nll, nlls[0]));
            table.rows.push(row![corpus.as_str(), places.len(), names.join(" "), perplexity, damage]);
        }
    }
    let findings = findings(&subsets, &measured[0], set.len(), context.search.epsilon);
    Ok(Outcome { tables: vec![members, table], charts: Vec::new(), findings })
}

/// The subsets of so many members, larger ones first; the empty one is left out.
fn subsets(members: usize) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = match members <= MOST_MEMBERS {
        true => (1u32..1 << members).map(|mask| (0..members).filter(|at| mask >> at & 1 == 1).collect()).collect(),
        false => {
            let ones = (0..members).map(|a| vec![a]);
            let few: Vec<Vec<usize>> = ones.chain((0..members).flat_map(|a| (0..a).map(move |b| vec![b, a]))).collect();
            let without = |out: &Vec<usize>| (0..members).filter(|at| !out.contains(at)).collect();
            let many: Vec<Vec<usize>> = few.iter().map(without).collect();
            few.into_iter().chain(many).chain([(0..members).collect()]).collect()
        }
    };
    all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    all
}

fn findings(subsets: &[Vec<usize>], measured: &Measured, members: usize, epsilon: f64) -> Vec<String> {
    let damages: Vec<f64> = measured.damages().collect();
    let collapsing = |size: usize| {
        let of_size = subsets.iter().zip(&damages).filter(|(places, _)| places.len() == size);
        let all = of_size.clone().count();
        (all, of_size.filter(|(_, damage)| **damage >= epsilon).count())
    };
    let mut findings = Vec::new();
    if members == 1 {
        findings.push(
            "The critical set is one neuron: there are no subsets to tell apart. In the paper's two models it takes all \
             four neurons."
                .into(),
        );
    } else {
        let (all, collapse) = collapsing(members - 1);
        findings.push(match collapse {
            0 => {
                format!(
                    "No subset that lacks one member collapses ({all} of them), which is what a located set is chosen for; \
                     the paper's four act together as well, which were not chosen so."
                )
            }
            n => format!("{n} of {all} subsets that lack one member collapse as well; in the paper none does."),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_all_of_few_members_and_the_ends_of_many() {
        assert_eq!(subsets(2), [vec![0, 1], vec![0], vec![1]]);
        assert_eq!(subsets(12).len(), (1 << 12) - 1);
        let many = subsets(13);
        assert_eq!(many.len(), 2 * (13 + 13 * 12 / 2) + 1);
        assert!(many.iter().all(|places| [1, 2, 11, 12, 13].contains(&places.len())));
        assert_eq!(many.iter().collect::<std::collections::HashSet<_>>().len(), many.len());
    }
}
