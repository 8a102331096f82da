//! From logits to log-probabilities.

use super::kernel::{Element, contiguous, wide_dtype};
use candle_core::{CpuStorage, D, DType, Device, Result, Tensor};
use num_traits::Float;
use rayon::prelude::*;

/// ln P(target) of some rows, from logits that come in blocks of the vocabulary; taken in f32 or wider, summed in f64.
pub(crate) struct LogProbs {
    targets: Vec<u32>,
    seen: Vec<Seen>,
}

/// What is known of a row from the blocks that it has had.
#[derive(Clone, Copy)]
struct Seen {
    /// The largest logit.
    max: f64,
    /// Of exp(logit − max).
    sum: f64,
    /// The target's logit; NaN where its block has not come.
    chosen: f64,
}

impl LogProbs {
    pub fn of(targets: Vec<u32>) -> LogProbs {
        let seen = vec![Seen { max: f64::NEG_INFINITY, sum: 0.0, chosen: f64::NAN }; targets.len()];
        LogProbs { targets, seen }
    }

    /// Takes the logits (targets, tokens) of the tokens from `first` on.
    pub fn add(&mut self, first: usize, logits: &Tensor) -> Result<()> {
        // A target before the block wraps around beyond it.
        let targets: Vec<usize> = self.targets.iter().map(|target| (*target as usize).wrapping_sub(first)).collect();
        let block = block_of(logits, &targets)?;
        for (seen, block) in self.seen.iter_mut().zip(block) {
            let max = seen.max.max(block.max);
            let before = if seen.sum == 0.0 { 0.0 } else { seen.sum * (seen.max - max).exp() };
            let chosen = if block.chosen.is_nan() { seen.chosen } else { block.chosen };
            *seen = Seen { max, sum: before + block.sum * (block.max - max).exp(), chosen };
        }
        Ok(())
    }

    /// P(token) of the tokens from `first` on, less 1 for the target, once all blocks have come: the gradient of −ln P
    /// by these logits (targets, tokens).
    pub fn gradient(&self, first: usize, logits: &Tensor) -> Result<Tensor> {
        let (device, rows, tokens) = (logits.device(), self.targets.len(), logits.dim(D::Minus1)?);
        let wide = logits.to_dtype(wide_dtype(logits.dtype()))?;
        let column = |values: Vec<f64>| {
            Tensor::from_vec(values, (rows, 1), &Device::Cpu)?.to_dtype(wide.dtype())?.to_device(device)
        };
        let all = column(self.seen.iter().map(|seen| seen.max + seen.sum.ln()).collect())?;
        let at: Vec<usize> = self.targets.iter().map(|target| (*target as usize).wrapping_sub(first)).collect();
        let less = column(at.iter().map(|at| if *at < tokens { -1.0 } else { 0.0 }).collect())?;
        let at: Vec<u32> = at.iter().map(|at| (*at).min(tokens - 1) as u32).collect();
        let shares = wide.broadcast_sub(&all)?.exp()?;
        shares.scatter_add(&Tensor::new(at, device)?.unsqueeze(1)?, &less, D::Minus1)?.to_dtype(logits.dtype())
    }

    /// ln P of each target, once all blocks have come; NaN where it is in none.
    pub fn finish(self) -> Vec<f64> {
        self.seen.into_iter().map(|Seen { max, sum, chosen }| chosen - max - sum.ln()).collect()
    }
}

/// Of one block; targets count from its first token.
fn block_of(logits: &Tensor, targets: &[usize]) -> Result<Vec<Seen>> {
    let wide = logits.to_dtype(wide_dtype(logits.dtype()))?;
    if !wide.device().is_cpu() {
        return composed(&wide, targets);
    }
    let wide = wide.contiguous()?;
    let (storage, layout) = wide.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { candle_core::bail!("expected a tensor on the CPU") };
    let tokens = logits.dim(D::Minus1)?;
    match storage {
        CpuStorage::F64(_) => Ok(fused(contiguous::<f64>(storage, layout)?, tokens, targets)),
        _ => Ok(fused(contiguous::<f32>(storage, layout)?, tokens, targets)),
    }
}

fn composed(wide: &Tensor, targets: &[usize]) -> Result<Vec<Seen>> {
    let tokens = wide.dim(D::Minus1)?;
    let max = wide.max_keepdim(D::Minus1)?;
    let sum = wide.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    let within: Vec<u32> = targets.iter().map(|target| (*target).min(tokens - 1) as u32).collect();
    let chosen = wide.gather(&Tensor::new(within, wide.device())?.unsqueeze(1)?, D::Minus1)?;
    let told: Vec<Vec<f64>> = Tensor::cat(&[max, sum, chosen], 1)?.to_dtype(DType::F64)?.to_vec2()?;
    let seen = |(of, target): (Vec<f64>, &usize)| Seen {
        max: of[0],
        sum: of[1],
        chosen: if *target < tokens { of[2] } else { f64::NAN },
    };
    Ok(told.into_iter().zip(targets).map(seen).collect())
}

fn fused<T: Element>(logits: &[T], tokens: usize, targets: &[usize]) -> Vec<Seen> {
    let rows = logits.par_chunks(tokens).zip(targets);
    rows.map(|(logits, &target)| {
        let max = logits.iter().fold(T::Wide::neg_infinity(), |m, v| if m >= v.widen() { m } else { v.widen() });
        let sum: f64 = logits.iter().map(|v| Into::<f64>::into((v.widen() - max).exp())).sum();
        let chosen = logits.get(target).map_or(f64::NAN, |v| v.widen().into());
        Seen { max: max.into(), sum, chosen }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::closeness::{DTYPES, assert_close, random};
    use super::*;

    fn in_blocks(logits: &Tensor, targets: &[u32], tokens: usize) -> Vec<f64> {
        let mut log_probs = LogProbs::of(targets.to_vec());
        let all = logits.dim(1).unwrap();
        for from in (0..all).step_by(tokens) {
            log_probs.add(from, &logits.narrow(1, from, tokens.min(all - from)).unwrap()).unwrap();
        }
        log_probs.finish()
    }

    #[test]
    fn composed_log_probabilities_are_the_fused_ones() {
        for dtype in DTYPES {
            let logits = random(7, &[9, 101], 4.0, dtype);
            let targets: Vec<usize> = (0..9).map(|t| (t * 37) % 120).collect();
            let wide = logits.to_dtype(wide_dtype(dtype)).unwrap();
            let (fused, composed) = (block_of(&logits, &targets).unwrap(), composed(&wide, &targets).unwrap());
            for of in [
                |seen: &Seen| seen.max,
                |seen: &Seen| seen.sum,
                |seen: &Seen| if seen.chosen.is_nan() { 9e9 } else { seen.chosen },
            ] {
                let tensor = |seen: &[Seen]| {
                    let values: Vec<f64> = seen.iter().map(of).collect();
                    Tensor::new(values, &Device::Cpu).unwrap().to_dtype(wide.dtype()).unwrap()
                };
                assert_close("of a block", &tensor(&fused), &tensor(&composed));
            }
        }
    }

    /// The block of the largest logit is first, in the middle or last, and targets are in any.
    #[test]
    fn blocks_come_to_what_the_whole_does() {
        for dtype in DTYPES {
            let logits = random(7, &[30, 101], 40.0, dtype);
            let targets: Vec<u32> = (0..30).map(|t| (t * 37) % 101).collect();
            let whole = in_blocks(&logits, &targets, 101);
            let by_hand: Vec<Vec<f64>> = logits.to_dtype(DType::F64).unwrap().to_vec2().unwrap();
            for tokens in [1, 10, 50, 100] {
                let allowed = if dtype == DType::F64 { 1e-12 } else { 1e-5 };
                for (at, log_prob) in in_blocks(&logits, &targets, tokens).into_iter().enumerate() {
                    let sum: f64 = by_hand[at].iter().map(|v| (v - by_hand[at][0]).exp()).sum();
                    let expected = by_hand[at][targets[at] as usize] - by_hand[at][0] - sum.ln();
                    for expected in [whole[at], expected] {
                        assert!((log_prob - expected).abs() <= allowed * expected.abs().max(1.0), "{dtype:?} {tokens}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_none() {
        for (value, at) in [(f64::NAN, 2), (f64::INFINITY, 2), (f64::NAN, 0), (f64::INFINITY, 5)] {
            let mut logits = vec![0.5; 6];
            logits[at] = value;
            let logits = Tensor::from_vec(logits, (1, 6), &Device::Cpu).unwrap();
            for tokens in [1, 2, 6] {
                assert!(in_blocks(&logits, &[3], tokens)[0].is_nan(), "{value} at {at}, {tokens}");
            }
        }
    }
}
