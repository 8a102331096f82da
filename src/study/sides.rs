//! Outputs of `down_proj` against its inputs, and the single weights where both meet (super weights, Yu et al. 2024, arXiv
//! 2411.07191).

use super::outcome::{Outcome, Table, row};
use super::{Context, Study};
use crate::compute::{Hook, NoHook, Row};
use crate::error::Result;
use crate::evaluate::metrics;
use crate::locate::{SearchSettings, SiteSelection};
use crate::neuron::{Intervention, ModulePath, Neuron, Side, Site};
use candle_core::{D, Tensor};

pub(super) const STUDY: Study = Study {
    name: "sides",
    paper: "ours",
    about: "Critical outputs (rows) of down_proj, critical inputs (columns), and the weights where the first of both meet",
    uses: &[],
    run,
};

/// First neurons of either side whose meeting points are tried.
const FIRST: usize = 8;

fn run(context: &Context) -> Result<Outcome> {
    let mut sides = Table::new(
        "sides",
        "The critical set among outputs and among inputs of down_proj",
        &["side", "prefix", "critical set", "neurons", "damage"],
    );
    let mut first = Vec::new();
    for side in [Side::Out, Side::In] {
        let search = SearchSettings { side, sites: SiteSelection::DownProj, ..context.search.clone() };
        let found = context.locate(&search)?.report.result;
        let set = found.critical_set.as_ref().map(|set| &set.neurons);
        let names = set.map(|set| set.iter().map(Neuron::short).collect::<Vec<_>>().join(" "));
        let prefix = found.prefix.collapsed.then_some(found.prefix.n);
        let damage = found.critical_set.as_ref().map(|set| set.damage);
        sides.rows.push(row![side.as_str(), prefix, set.map(Vec::len), names, damage]);
        first.push(found.ranking.into_iter().take(FIRST).map(|ranked| ranked.neuron).collect::<Vec<_>>());
    }
    let mut weights = Table::new(
        "weights",
        format!(
            "One weight of down_proj zeroed: of the first {FIRST} rows and the first {FIRST} columns, where both are of one module"
        ),
        &["module", "row", "column", "damage", "damage of the row", "damage of the column"],
    );
    let mut found: Vec<(f64, String)> = Vec::new();
    for out in &first[0] {
        for input in first[1].iter().filter(|input| input.site.module == out.site.module) {
            let [weight, row, column] = damages(context, out, input)?;
            let module = out.site.module.short();
            found.push((weight, format!("{module}[{}, {}]", out.channel, input.channel)));
            weights.rows.push(row![module, out.channel, input.channel, weight, row, column]);
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let collapse = found.iter().filter(|(damage, _)| *damage >= context.search.epsilon).count();
    let findings = vec![match found.first() {
        None => "The first of both sides are in different modules: they meet in no weight.".into(),
        Some((damage, name)) => format!(
            "Of {} weights in which the first of both sides meet, {collapse} alone collapse the model; the most damage does \
             {name} (Δ = {damage:.2}). The paper masks outputs alone.",
            found.len()
        ),
    }];
    Ok(Outcome { tables: vec![sides, weights], charts: Vec::new(), findings })
}

/// The damage of zeroing the weight in which an output meets an input, of the whole row, and of the whole column.
fn damages(context: &Context, out: &Neuron, input: &Neuron) -> Result<[f64; 3]> {
    let model = context.model();
    let with = |masked: &Neuron| Row::with(context.subject.text.ids.clone(), vec![Intervention::zero(masked.clone())]);
    let rows = [Row::clean(context.subject.text.ids.clone()), with(input), with(input), with(out)];
    let mut hook = OneOutput { module: out.site.module.clone(), output: out.channel, clean: None };
    context.progress.begin("single weights", (rows.len() * (model.recipe().layers.len() + 1)) as u64, "rows × layers");
    // Of the second row the hook lets one output alone feel that the input is gone: its product with the weight.
    let narrowed = model.target_log_probs(&rows[..2], &mut hook, context.progress)?;
    let whole = model.target_log_probs(&rows[2..], &mut NoHook, context.progress)?;
    context.progress.end();
    let base = metrics::nll_nats(&narrowed[0]);
    Ok([&narrowed[1], &whole[1], &whole[0]].map(|of| metrics::damage(metrics::nll_nats(of), base)))
}

/// Of a module's outputs, gives every row but the first those of the first, but for one.
struct OneOutput {
    module: ModulePath,
    output: usize,
    clean: Option<Tensor>,
}

impl Hook for OneOutput {
    fn wants(&self, site: &Site) -> bool {
        site.side == Side::Out && site.module == self.module
    }

    fn on(&mut self, _: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        let mut groups = Vec::with_capacity(rows.len());
        for (group, rows) in rows.iter().enumerate() {
            let own = x.narrow(0, group, 1)?;
            if rows.contains(&0) {
                self.clean = Some(own.clone());
            }
            groups.push(match &self.clean {
                Some(clean) if !rows.contains(&0) => {
                    let (at, channels) = (self.output, own.dim(D::Minus1)?);
                    let before = clean.narrow(D::Minus1, 0, at)?;
                    let after = clean.narrow(D::Minus1, at + 1, channels - at - 1)?;
                    Tensor::cat(&[&before, &own.narrow(D::Minus1, at, 1)?, &after], D::Minus1)?
                }
                _ => own,
            });
        }
        Ok(Some(Tensor::cat(&groups, 0)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{Arithmetic, fixture};
    use crate::progress::Silent;
    use std::sync::Arc;

    /// All inputs of a module gone for one output alone is that output gone.
    #[test]
    fn the_weights_of_a_row_add_up_to_it() {
        let model = fixture::model("llama", Arithmetic::F64, None);
        let tokens: Arc<[u32]> = (0..12).map(|at| at * 7 % 90).collect();
        let out: Neuron = "L1.mlp.down_proj:out:3".parse().unwrap();
        let site = Site { side: Side::In, ..out.site.clone() };
        let inputs = model.site(&site).unwrap().1.channels;
        let all = (0..inputs).map(|channel| Intervention::zero(Neuron { site: site.clone(), channel }));
        let rows = [Row::clean(tokens.clone()), Row::with(tokens.clone(), all.collect())];
        let mut hook = OneOutput { module: out.site.module.clone(), output: out.channel, clean: None };
        let found = model.target_log_probs(&rows, &mut hook, &Silent).unwrap();
        let masked = Row::with(tokens, vec![Intervention::zero(out)]);
        let expected = model.target_log_probs(&[rows[0].clone(), masked], &mut NoHook, &Silent).unwrap();
        assert_eq!(found[0], expected[0]);
        assert!(found[1].iter().zip(&expected[1]).all(|(a, b)| (a - b).abs() < 1e-12));
        assert!(found[1].iter().zip(&found[0]).any(|(a, b)| (a - b).abs() > 1e-6));
    }
}
