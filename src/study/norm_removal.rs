//! The critical set masked with each layer's norms removed in turn (the paper's Table 18).

use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Study, Use};
use crate::architecture::module::Role;
use crate::compute::{Hook, Model};
use crate::error::Result;
use crate::evaluate::corpus_nll::{CorpusHook, PassRow};
use crate::evaluate::metrics;
use crate::neuron::{Intervention, ModulePath, Side, Site};
use candle_core::Tensor;
use std::collections::BTreeMap;

pub(super) const STUDY: Study = Study {
    name: "norm-removal",
    paper: "Table 18",
    about: "Perplexity with the critical set masked while one layer's norms pass their input on",
    uses: &[Use::Critical, Use::Corpora],
    run,
};

fn run(context: &Context) -> Result<Outcome> {
    let set: Vec<Intervention> = context.set()?.iter().cloned().map(Intervention::zero).collect();
    let sets = [Vec::new(), set];
    let mut table = Table::new(
        "norm-removal",
        "With one layer's norms removed; damage is that of masking the critical set then",
        &["corpus", "layer", "perplexity", "perplexity, masked", "damage"],
    );
    let (mut broken, mut sound) = (0, Vec::new());
    let whole = context.perplexities(&sets)?;
    let layers = context.model().recipe().layers.len();
    let of_norms: Vec<&ModulePath> = sets[1].iter().map(|masked| &masked.neuron.site.module).collect();
    for layer in std::iter::once(None).chain((0..layers).map(Some)) {
        let measured = match layer {
            None => whole.clone(),
            Some(layer) => {
                context.perplexities_under(&sets, Some(&mut Removal::of(context.model(), layer, &of_norms)))?
            }
        };
        for (at, of) in measured.into_iter().enumerate() {
            let damage = of.damage(1);
            let (clean, masked) = (metrics::perplexity(of.nlls[0]), metrics::perplexity(of.nlls[1]));
            if layer.is_some() && at == 0 {
                match metrics::damage(of.nlls[0], whole[at].nlls[0]) >= context.search.epsilon {
                    true => broken += 1,
                    false => sound.extend(damage),
                }
            }
            table.rows.push(row![of.corpus, layer, clean, masked, damage]);
        }
    }
    let mut findings = Vec::new();
    if broken > 0 {
        findings.push(format!(
            "Without its norms one layer is enough to break the model, nothing masked, in {broken} of {layers} layers \
             (Δ ≥ {}): perplexity with the mask says nothing of the critical set there. The paper gives that perplexity alone.",
            context.search.epsilon
        ));
    }
    if !sound.is_empty() {
        let collapse = sound.iter().filter(|damage| **damage >= context.search.epsilon).count();
        findings.push(format!(
            "In {} of the other {} layers the mask still collapses the model without the norms; in the paper in all 16.",
            collapse,
            sound.len()
        ));
    }
    let chart = Chart::lines(
        "norm-removal",
        "Perplexity, masked, without one layer's norms",
        &table,
        "layer",
        "perplexity, masked",
    );
    Ok(Outcome { tables: vec![table], charts: vec![chart.by("corpus").log_y()], findings })
}

/// Lets a layer's norms of the residual stream pass on what comes in.
struct Removal {
    norms: Vec<ModulePath>,
    came_in: BTreeMap<ModulePath, Tensor>,
}

impl Removal {
    /// But for norms of which a neuron is masked: what it puts out would go.
    fn of(model: &Model, layer: usize, but: &[&ModulePath]) -> Removal {
        let is_norm = |role: Role| matches!(role, Role::NormBefore(_) | Role::NormAfter(_));
        let infos = model.sites().iter().filter(|info| info.site.module.layer() == Some(layer));
        let infos = infos.filter(|info| is_norm(info.module.role) && !but.contains(&&info.site.module));
        let norms = infos.map(|info| info.site.module.clone()).collect();
        Removal { norms, came_in: BTreeMap::new() }
    }
}

impl Hook for Removal {
    fn wants(&self, site: &Site) -> bool {
        self.norms.contains(&site.module)
    }

    fn on(&mut self, site: &Site, _: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        match site.side {
            Side::In => {
                self.came_in.insert(site.module.clone(), x.clone());
                Ok(None)
            }
            Side::Out => Ok(self.came_in.remove(&site.module)),
        }
    }
}

impl CorpusHook for Removal {
    fn pass(&mut self, _: &[PassRow]) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{Arithmetic, fixture};
    use candle_core::{DType, Device};

    #[test]
    fn a_norm_passes_on_what_comes_in_unless_a_neuron_of_it_is_masked() {
        let model = fixture::model("llama", Arithmetic::F32, None);
        let norms = |removal: &Removal| {
            let names = removal.norms.iter().map(|norm| norm.to_string());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let mut removal = Removal::of(&model, 1, &[]);
        let (first, second) = ("model.layers.1.input_layernorm", "model.layers.1.post_attention_layernorm");
        assert_eq!(norms(&removal), [first, second].map(str::to_owned).into());
        let masked = removal.norms.iter().find(|norm| norm.to_string() == first).unwrap().clone();
        assert_eq!(norms(&Removal::of(&model, 1, &[&masked])), [second.to_owned()].into());

        let site = |side| Site { module: masked.clone(), side };
        let x = |value: f64| (Tensor::ones((1, 2, 3), DType::F32, &Device::Cpu).unwrap() * value).unwrap();
        let sum = |x: Tensor| x.sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(removal.wants(&site(Side::Out)));
        assert!(removal.on(&site(Side::In), &[vec![0]], &x(5.0)).unwrap().is_none());
        assert_eq!(sum(removal.on(&site(Side::Out), &[vec![0]], &x(1.0)).unwrap().unwrap()), 30.0);
    }
}
