//! Masking in one component at a time, by importance and at random (the paper's Tables 3, 12 to 15).

use super::context::TEXT;
use super::outcome::{Chart, Outcome, Table, row};
use super::spread::masked_first;
use super::{Context, Study, Use};
use crate::error::Result;
use crate::locate::{Ranking, SearchSettings, SiteSelection};

pub(super) const STUDY: Study = Study {
    name: "components",
    paper: "Tables 3, 12 to 15",
    about: "Perplexity with 10, 100 and 1,000 of up_proj, gate_proj, attention or down_proj masked, the first and at random",
    uses: &[Use::Corpora, Use::Draws],
    run,
};

const COUNTS: [usize; 4] = [0, 10, 100, 1000];

/// Chosen by the noise ranking, whatever the search ranks by.
const BY_IMPORTANCE: &str = "by importance";

const COMPONENTS: [SiteSelection; 4] =
    [SiteSelection::UpProj, SiteSelection::GateProj, SiteSelection::Attention, SiteSelection::DownProj];

fn run(context: &Context) -> Result<Outcome> {
    let mut table = Table::new(
        "components",
        "With n of a component masked: the first by noise importance, or drawn at random (the mean perplexity and its deviation, and the damage of the mean NLL)",
        &["corpus", "component", "chosen", "n", "perplexity", "deviation", "damage"],
    );
    let (mut collapsed, mut without) = (Vec::new(), Vec::new());
    for component in COMPONENTS {
        if component.of(context.model().recipe(), context.model().sites(), context.search.side).is_err() {
            without.push(component.to_string());
            continue;
        }
        for (chosen, ranking) in [(BY_IMPORTANCE, Ranking::Noise), ("at random", Ranking::Random)] {
            let search = SearchSettings { ranking, sites: component.clone(), ..context.search.clone() };
            for of in masked_first(context, &search, &COUNTS)? {
                if of.corpus == TEXT && of.damage >= context.search.epsilon {
                    collapsed.push(format!("{} of {component} {chosen} (Δ = {:.2})", of.n, of.damage));
                }
                let name = component.to_string();
                table.rows.push(row![of.corpus, name, chosen, of.n, of.perplexity, of.deviation, of.damage]);
            }
        }
    }
    let told = if collapsed.is_empty() { "nothing".into() } else { collapsed.join(", ") };
    let mut findings = vec![format!(
        "What collapses the model: {told}. The paper multiplies perplexity by 2.4 (Qwen2.5-0.5B), 17 (Llama-3.2-1B) and 37 \
         (3B) with the first 1,000 of up_proj and gate_proj, by 1.1 to 6 with 1,000 of attention, and by 1.05 to 6.3 with \
         1,000 at random."
    )];
    if !without.is_empty() {
        findings.push(format!("The model has no module of its own for {}.", without.join(" and ")));
    }
    let title = "Perplexity of the text with the first n of a component masked";
    let chart = Chart::lines("components", title, &table, "n", "perplexity").by("component");
    let chart = chart.only("corpus", TEXT).only("chosen", BY_IMPORTANCE).log_x().log_y();
    Ok(Outcome { charts: vec![chart], tables: vec![table], findings })
}
