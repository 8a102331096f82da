//! Scaling instead of masking (the paper's Table 11), and replacing by the mean (arXiv 2503.22329).

use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Measured, Study, Use};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::neuron::{Action, Intervention};

pub(super) const STUDY: Study = Study {
    name: "beta",
    paper: "Table 11",
    about: "Perplexity with the critical set multiplied by β, and with each member set to its mean",
    uses: &[Use::Critical, Use::Betas, Use::Corpora],
    run,
};

/// The β that are tried unless others are given: the paper's.
pub const BETAS: [f64; 8] = [1.0, 0.0, -5.0, -1.0, 0.3, 0.5, 0.8, 5.0];

fn run(context: &Context) -> Result<Outcome> {
    let set = context.set()?;
    let all = |action: &dyn Fn(usize) -> Action| -> Vec<Intervention> {
        let one = |(at, neuron): (usize, &_)| Intervention { neuron: Clone::clone(neuron), action: action(at) };
        set.iter().enumerate().map(one).collect()
    };
    let means = metrics::means(context.model(), &context.subject.text.ids, set, context.progress)?;
    let betas = &context.options.betas;
    let mut sets: Vec<Vec<Intervention>> = vec![Vec::new()];
    sets.extend(betas.iter().map(|beta| all(&|_| if *beta == 0.0 { Action::Zero } else { Action::Scale(*beta) })));
    sets.push(all(&|at| Action::Set(means[at])));
    let names: Vec<String> = betas.iter().map(f64::to_string).chain(["mean".into()]).collect();

    let mut table = Table::new(
        "beta",
        "The critical set multiplied by β, or each member set to its mean over the reference text",
        &["corpus", "intervention", "perplexity", "damage"],
    );
    let measured = context.perplexities(&sets)?;
    for Measured { corpus, nlls } in &measured {
        for (name, nll) in names.iter().zip(&nlls[1..]) {
            let damage = metrics::damage(*nll, nlls[0]);
            table.rows.push(row![corpus.as_str(), name.as_str(), metrics::perplexity(*nll), damage]);
        }
    }
    let chart = Chart::lines("beta", "Perplexity against β", &table, "intervention", "perplexity").by("corpus").log_y();
    let damages: Vec<(&str, f64)> = names.iter().map(String::as_str).zip(measured[0].damages()).collect();
    let findings = findings(&damages);
    Ok(Outcome { tables: vec![table], charts: vec![chart.bars()], findings })
}

/// Of the damages to the text.
fn findings(damages: &[(&str, f64)]) -> Vec<String> {
    let of = |name: &str| damages.iter().find(|(n, _)| *n == name).map(|(_, damage)| *damage);
    let mut findings = Vec::new();
    if let Some(zero) = of("0") {
        let others = damages.len() - 1;
        let worse: Vec<&str> = damages.iter().filter(|(_, damage)| *damage > zero).map(|(name, _)| *name).collect();
        findings.push(match worse.as_slice() {
            [] => format!("Of {others} others none does more damage than masking (Δ = {zero:.2}), as in the paper."),
            worse => format!(
                "More damage than masking (Δ = {zero:.2}) is done by {}; in the paper nothing does more.",
                worse.join(", ")
            ),
        });
    }
    if let (Some(minus_one), Some(minus_five)) = (of("-1"), of("-5")) {
        let (order, told) = match minus_five < minus_one {
            true => ("less", "unlike in both models of the paper"),
            false => ("more", "as in both models of the paper"),
        };
        findings
            .push(format!("β = -5 does {order} damage (Δ = {minus_five:.2}) than β = -1 ({minus_one:.2}), {told}."));
    }
    if let Some(mean) = of("mean") {
        let told = if mean < 0.1 { "harmless" } else { "not harmless" };
        findings.push(format!("Set to its mean each member is {told} (Δ = {mean:.3}); the paper does not try that."));
    }
    findings
}
