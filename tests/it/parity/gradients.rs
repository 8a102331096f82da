//! Gradients of every family against PyTorch's autograd through the authors' code (fixtures/rankings.py), and against
//! central differences of our own NLL.

use super::families::{Reference, difference, fixture, fixtures, model};
use achilles_audit::Result;
use achilles_audit::compute::{Arithmetic, GradientHook, Hook, NoHook, Noise, Residency, Row};
use achilles_audit::evaluate::metrics::nll_nats;
use achilles_audit::neuron::{Action, Intervention, Neuron, Site};
use achilles_audit::progress::{Progress, Silent};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// a · ∂NLL/∂a at every site, (positions, channels).
#[derive(Default)]
pub struct Effects(pub BTreeMap<String, Tensor>);

impl GradientHook for Effects {
    fn wants(&self, _: &Site) -> bool {
        true
    }

    fn on(&mut self, site: &Site, x: &Tensor, gradient: &Tensor) -> Result<()> {
        let effect = (x.to_dtype(DType::F64)? * gradient.to_dtype(DType::F64)?)?;
        assert!(self.0.insert(site.to_string(), effect).is_none(), "{site} was shown twice");
        Ok(())
    }
}

/// Takes activations for effects.
pub struct Activations<'a>(pub &'a mut Effects);

impl Hook for Activations<'_> {
    fn wants(&self, _: &Site) -> bool {
        true
    }

    fn on(&mut self, site: &Site, _: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        self.0.0.insert(site.to_string(), x.get(0)?);
        Ok(None)
    }
}

#[test]
fn effects_of_every_family_are_those_of_autograd_through_its_authors_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rankings.safetensors");
    let expected = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let mut failed = Vec::new();
    for folder in fixtures() {
        let family = folder.file_name().unwrap().to_str().unwrap();
        let reference = Reference::read(&folder);
        for (arithmetic, residency, allowed) in
            [(Arithmetic::F64, Residency::Streamed, 1e-12), (Arithmetic::F32, Residency::Resident, 1e-4)]
        {
            let model = model(&folder, "config.json", arithmetic, residency);
            let row = Row::clean(reference.tokens.clone());
            let mut effects = Effects::default();
            let nll = model.gradients(&row, &mut effects, &Silent).unwrap();
            let of_log_probs = nll_nats(&model.target_log_probs(&[row], &mut NoHook, &Silent).unwrap()[0]);
            assert!((nll - of_log_probs).abs() < 1e-5, "{family}: {nll} and {of_log_probs}");
            for info in model.sites() {
                let site = info.site.to_string();
                let effect = &effects.0[&site];
                // Of each channel over positions, then of each position over channels.
                let ours = Tensor::cat(&[effect.sum(0).unwrap(), effect.sum(1).unwrap()], 0).unwrap();
                let found = difference(&ours, &expected[&format!("gradient/{family}/{site}")]);
                // Not `found > allowed`: NaN fails.
                if found.is_nan() || found > allowed {
                    failed.push(format!("{family} {} {site}: {found:.2e}", arithmetic.as_str()));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Scaling a channel by β at all positions changes the NLL by Σ a · ∂NLL/∂a times the change of β: under another
/// intervention and noise, too.
#[test]
fn effects_are_the_slope_of_the_nll_where_a_channel_is_scaled() {
    const STEP: f64 = 1e-4;
    for folder in fixtures() {
        let family = folder.file_name().unwrap().to_str().unwrap();
        let model = model(&folder, "config.json", Arithmetic::F64, Residency::Resident);
        let tokens = Reference::read(&folder).tokens;
        let sites = model.sites();
        let other = sites.iter().rfind(|info| info.site.module.layer() == Some(0)).unwrap();
        let scaled = |site: &Site, beta| Intervention {
            neuron: Neuron { site: site.clone(), channel: 1 },
            action: Action::Scale(beta),
        };
        let noise = Some(Noise { alpha: 0.1, seed: 5, sample: 0 });
        let row = Row { noise, ..Row::with(tokens, vec![scaled(&other.site, 0.7)]) };
        let mut effects = Effects::default();
        model.gradients(&row, &mut effects, &Silent).unwrap();
        for info in sites.iter().step_by(5).filter(|info| info.site != other.site) {
            let beside = |beta| {
                let mut row = row.clone();
                row.interventions.push(scaled(&info.site, beta));
                row
            };
            let rows = [beside(1.0 + STEP), beside(1.0 - STEP)];
            let log_probs = model.target_log_probs(&rows, &mut NoHook, &Silent).unwrap();
            let slope = (nll_nats(&log_probs[0]) - nll_nats(&log_probs[1])) / (2.0 * STEP);
            let sums: Vec<f64> = effects.0[&info.site.to_string()].sum(0).unwrap().to_vec1().unwrap();
            assert!((sums[1] - slope).abs() < 1e-6, "{family} {}: {} and {slope}", info.site, sums[1]);
        }
    }
}

/// Layers that lie before all that is wanted are not followed back, which changes nothing of the rest.
#[test]
fn what_is_wanted_of_a_late_layer_is_what_it_is_among_all() {
    struct Of(Site, Option<Tensor>);
    impl GradientHook for Of {
        fn wants(&self, site: &Site) -> bool {
            *site == self.0
        }
        fn on(&mut self, _: &Site, _: &Tensor, gradient: &Tensor) -> Result<()> {
            self.1 = Some(gradient.clone());
            Ok(())
        }
    }
    struct Layers(AtomicU64);
    impl Progress for Layers {
        fn advance(&self, done: u64) -> Result<()> {
            self.0.fetch_add(done, Ordering::Relaxed);
            Ok(())
        }
    }
    let folder = fixture("gemma4");
    let model = model(&folder, "config.json", Arithmetic::F64, Residency::Streamed);
    let row = Row::clean(Reference::read(&folder).tokens);
    let mut all = Effects::default();
    model.gradients(&row, &mut all, &Silent).unwrap();
    let layers = model.recipe().layers.len();
    for (site, followed) in
        [("model.norm:in", 0), ("L1.mlp.down_proj:out", layers - 1), ("model.embed_tokens:out", layers)]
    {
        let (mut hook, progress) = (Of(site.parse().unwrap(), None), Layers(AtomicU64::new(0)));
        model.gradients(&row, &mut hook, &progress).unwrap();
        assert_eq!(progress.0.into_inner() as usize, layers + followed, "{site}");
        let gradient = hook.1.unwrap();
        let mut seen = Effects::default();
        model.trace(std::slice::from_ref(&row), &mut Activations(&mut seen), &Silent).unwrap();
        let effect = (&seen.0[&hook.0.to_string()] * gradient).unwrap();
        assert!(difference(&effect, &all.0[&hook.0.to_string()]) < 1e-12, "{site}");
    }
}

#[test]
fn f16_and_a_single_token_are_refused() {
    let folder = fixture("llama");
    let tokens = Reference::read(&folder).tokens;
    let error = |arithmetic, tokens: &[u32]| {
        let model = model(&folder, "config.json", arithmetic, Residency::Resident);
        let row = Row::clean(tokens.into());
        model.gradients(&row, &mut Effects::default(), &Silent).map_err(|e| e.to_string())
    };
    assert_eq!(
        error(Arithmetic::F16, &tokens),
        Err("gradients are too small for f16: use --dtype bf16, f32 or f64".to_owned())
    );
    assert_eq!(
        error(Arithmetic::F32, &tokens[..1]),
        Err("the text has one token, so there is none to predict: nothing has a gradient".to_owned())
    );
    assert!(error(Arithmetic::Bf16, &tokens).unwrap() > 0.0);
}
