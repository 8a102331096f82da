//! From logits to log-probabilities.

use super::kernel::{Element, contiguous, wide_dtype};
use candle_core::{CpuStorage, D, DType, Result, Tensor};
use num_traits::Float;
use rayon::prelude::*;

/// ln P(target) of each row of `logits` (targets, vocabulary), taken in f32 or wider.
pub(crate) fn log_probs_of(logits: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
    let wide = logits.to_dtype(wide_dtype(logits.dtype()))?;
    if !wide.device().is_cpu() {
        return log_probs_composed(&wide, targets);
    }
    let wide = wide.contiguous()?;
    let (storage, layout) = wide.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { candle_core::bail!("expected a tensor on the CPU") };
    let vocabulary = logits.dim(D::Minus1)?;
    match storage {
        CpuStorage::F64(_) => Ok(log_probs_in(contiguous::<f64>(storage, layout)?, vocabulary, targets)),
        _ => Ok(log_probs_in(contiguous::<f32>(storage, layout)?, vocabulary, targets)),
    }
}

fn log_probs_composed(wide: &Tensor, targets: &[u32]) -> Result<Vec<f64>> {
    let max = wide.max_keepdim(D::Minus1)?;
    let sum = wide.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
    let chosen = wide.gather(&Tensor::new(targets, wide.device())?.unsqueeze(1)?, D::Minus1)?;
    let ln = chosen.broadcast_sub(&max)?.broadcast_sub(&sum.log()?)?;
    ln.squeeze(1)?.to_dtype(DType::F64)?.to_vec1()
}

fn log_probs_in<T: Element>(logits: &[T], vocabulary: usize, targets: &[u32]) -> Vec<f64> {
    let rows = logits.par_chunks(vocabulary).zip(targets);
    rows.map(|(logits, &target)| {
        let max = logits.iter().fold(T::Wide::neg_infinity(), |m, v| if m >= v.widen() { m } else { v.widen() });
        let sum: f64 = logits.iter().map(|v| Into::<f64>::into((v.widen() - max).exp())).sum();
        let chosen = logits.get(target as usize).map_or(f64::NAN, |v| (v.widen() - max).into());
        chosen - sum.ln()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::closeness::{DTYPES, assert_close, random};
    use super::*;
    use candle_core::Device;

    #[test]
    fn composed_log_probabilities_are_the_fused_ones() {
        for dtype in DTYPES {
            let logits = random(7, &[9, 101], 4.0, dtype);
            let targets: Vec<u32> = (0..9).map(|t| (t * 37) % 101).collect();
            let wide = logits.to_dtype(wide_dtype(dtype)).unwrap();
            let tensor = |v: Vec<f64>| Tensor::new(v, &Device::Cpu).unwrap().to_dtype(wide.dtype()).unwrap();
            let fused = tensor(log_probs_of(&logits, &targets).unwrap());
            assert_close("ln P", &fused, &tensor(log_probs_composed(&wide, &targets).unwrap()));
        }
    }
}
