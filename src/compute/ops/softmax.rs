//! From attention scores to weights, and the cap that some families put on scores and logits.

use super::kernel::{Element, RowKernel, Rows, in_wide, may_fuse, wide_dtype};
use candle_core::{D, DType, Device, Result, Tensor};
use num_traits::Float;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What turns attention scores into weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Softmax<'a> {
    /// Scores are multiplied by this first.
    pub scale: f64,
    /// They then become c · tanh(scores / c).
    pub softcap: Option<f64>,
    /// A query sees this many keys, the one at its own position included.
    pub window: Option<usize>,
    /// Each head's queries sit at this many last positions of the keys.
    pub positions: usize,
    /// One a head, where there are any: a score that takes its share and brings nothing. Heads follow each other, each
    /// with all its queries.
    pub sinks: &'a [f64],
}

impl RowKernel for Softmax<'_> {
    const NAME: &'static str = "causal-softmax";

    fn row<T: Element>(&self, index: usize, x: &[T], out: &mut [T]) {
        let position = x.len() - self.positions + index % self.positions;
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let (x, out) = (&x[first..=position], &mut out[first..=position]);
        let score = |v: T| {
            let scaled = T::narrow(v.widen() * T::wide(self.scale));
            match self.softcap {
                Some(cap) => capped(scaled, cap).widen(),
                None => scaled.widen(),
            }
        };
        let sink = match self.sinks {
            [] => T::Wide::neg_infinity(),
            sinks => T::wide(sinks[index / self.positions % sinks.len()]),
        };
        let max = x.iter().fold(sink, |m, &v| if m >= score(v) { m } else { score(v) });
        let mut sum = if self.sinks.is_empty() { T::wide(0.0) } else { (sink - max).exp() };
        for (out, &v) in out.iter_mut().zip(x) {
            let weight = (score(v) - max).exp();
            sum = sum + weight;
            *out = T::narrow(weight);
        }
        if T::DTYPE == wide_dtype(T::DTYPE) {
            let inverse = sum.recip();
            out.iter_mut().for_each(|out| *out = T::narrow(out.widen() * inverse));
        } else {
            // A weight that was rounded already must not be rounded again.
            for (out, &v) in out.iter_mut().zip(x) {
                *out = T::narrow((score(v) - max).exp() / sum);
            }
        }
    }
}

/// c · tanh(x / c), rounded after each operation.
fn capped<T: Element>(x: T, cap: f64) -> T {
    let ratio = T::narrow(x.widen() / T::wide(cap));
    T::narrow(T::narrow(ratio.widen().tanh()).widen() * T::wide(cap))
}

struct Softcap(f64);

impl RowKernel for Softcap {
    const NAME: &'static str = "softcap";

    fn row<T: Element>(&self, _: usize, x: &[T], out: &mut [T]) {
        for (out, &v) in out.iter_mut().zip(x) {
            *out = capped(v, self.0);
        }
    }
}

/// c · tanh(x / c), element by element.
pub(crate) fn softcap(x: &Tensor, cap: f64) -> Result<Tensor> {
    if may_fuse(x) {
        return x.contiguous()?.apply_op1_no_bwd(&Rows(Softcap(cap)));
    }
    softcap_composed(x, cap)
}

fn softcap_composed(x: &Tensor, cap: f64) -> Result<Tensor> {
    let ratio = in_wide(x, |x| x / cap)?;
    in_wide(&in_wide(&ratio, Tensor::tanh)?, |x| x * cap)
}

/// Which mask: its positions, its keys, the window.
type Which = (usize, usize, Option<usize>);

/// The causal masks of a pass, on a device for which the softmax is composed: each is made once, there, when the first
/// layer asks for it.
#[derive(Debug, Default)]
pub(crate) struct Masks(Mutex<BTreeMap<Which, Tensor>>);

impl Masks {
    /// 0 where the query at the last but `positions` − 1 − q of the keys sees key k, −∞ elsewhere; (positions, keys).
    fn get(
        &self,
        positions: usize,
        keys: usize,
        window: Option<usize>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mask) = known.get(&(positions, keys, window)) {
            return Ok(mask.clone());
        }
        let query = Tensor::arange((keys - positions) as u32, keys as u32, device)?.unsqueeze(1)?;
        let key = Tensor::arange(0, keys as u32, device)?.unsqueeze(0)?;
        let mut sees = key.broadcast_le(&query)?;
        if let Some(window) = window {
            let last = key.broadcast_add(&Tensor::new(&[window.min(keys) as u32], device)?)?;
            sees = (sees * last.broadcast_gt(&query)?)?;
        }
        let shape = (positions, keys);
        let hidden = Tensor::full(f32::NEG_INFINITY, shape, device)?.to_dtype(dtype)?;
        let mask = sees.where_cond(&Tensor::zeros(shape, dtype, device)?, &hidden)?;
        known.insert((positions, keys, window), mask.clone());
        Ok(mask)
    }
}

/// Attention weights from scores (n, queries, keys), where `queries` is a multiple of [`Softmax::positions`], and query
/// q sits at the (q mod positions)-th of the last `positions` keys: it sees the keys up to its own, within the window.
pub(crate) fn causal_softmax(scores: &Tensor, softmax: Softmax<'_>, masks: &Masks) -> Result<Tensor> {
    if may_fuse(scores) {
        return scores.contiguous()?.apply_op1_no_bwd(&Rows(softmax));
    }
    causal_softmax_composed(scores, softmax, masks)
}

/// The softmax over the last dimension: in one pass, of which no gradient is known, or in several.
fn normalized(x: &Tensor) -> Result<Tensor> {
    if x.track_op() { candle_nn::ops::softmax(x, D::Minus1) } else { candle_nn::ops::softmax_last_dim(x) }
}

fn causal_softmax_composed(scores: &Tensor, softmax: Softmax<'_>, masks: &Masks) -> Result<Tensor> {
    let (planes, queries, keys) = scores.dims3()?;
    let wide = wide_dtype(scores.dtype());
    let mask = masks.get(softmax.positions, keys, softmax.window, wide, scores.device())?;
    let mut scaled = in_wide(scores, |x| x * softmax.scale)?;
    if let Some(cap) = softmax.softcap {
        scaled = softcap_composed(&scaled, cap)?;
    }
    let heads = (planes * queries / softmax.positions, softmax.positions, keys);
    let masked = scaled.to_dtype(wide)?.reshape(heads)?.broadcast_add(&mask)?.reshape((planes, queries, keys))?;
    if softmax.sinks.is_empty() {
        return normalized(&masked)?.to_dtype(scores.dtype());
    }
    let sink = |row: usize| softmax.sinks[row / softmax.positions % softmax.sinks.len()];
    let sinks: Vec<f64> = (0..planes * queries).map(sink).collect();
    let sinks =
        Tensor::from_vec(sinks, (planes, queries, 1), &Device::Cpu)?.to_dtype(wide)?.to_device(scores.device())?;
    let with_sinks = Tensor::cat(&[&masked, &sinks], 2)?;
    normalized(&with_sinks)?.narrow(2, 0, keys)?.to_dtype(scores.dtype())
}

#[cfg(test)]
mod tests {
    use super::super::closeness::{DTYPES, assert_close, random};
    use super::*;

    #[test]
    fn a_composed_softmax_is_the_fused_one() {
        for dtype in DTYPES {
            for (softcap, window) in [(None, None), (Some(3.7), None), (None, Some(4)), (Some(3.7), Some(1))] {
                for positions in [11, 4, 1] {
                    let scores = random(3, &[5, 3 * positions, 11], 9.0, dtype);
                    let masks = Masks::default();
                    for sinks in [&[][..], &[0.7, -1.5, 2.0]] {
                        let softmax = Softmax { scale: 1.0 / 13f64.sqrt(), softcap, window, positions, sinks };
                        let fused = causal_softmax(&scores, softmax, &masks).unwrap();
                        let composed = causal_softmax_composed(&scores, softmax, &masks).unwrap();
                        assert_close(&format!("{softmax:?}"), &fused, &composed);
                    }
                }
            }
        }
    }

    #[test]
    fn a_composed_softcap_is_the_fused_one() {
        for dtype in DTYPES {
            let x = random(5, &[7, 41], 9.0, dtype);
            assert_close("softcap", &softcap(&x, 6.7).unwrap(), &softcap_composed(&x, 6.7).unwrap());
        }
    }
}
