//! What GPUs compute, composed of tensor operations, is what the fused passes compute: checked on the CPU.

use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

pub const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

/// `spread` times normal noise, rounded to `dtype`.
pub fn random(seed: u64, shape: &[usize], spread: f64, dtype: DType) -> Tensor {
    let normal = StandardNormal.sample_iter(ChaCha20Rng::seed_from_u64(seed));
    let values: Vec<f64> = normal.take(shape.iter().product()).map(|v: f64| spread * v).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// The step between neighbouring values in f16 and bf16, as a part of the value; for wider dtypes what sums in
/// another order may differ.
fn step(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-13,
        DType::F32 => 1e-6,
        DType::F16 => 2f64.powi(-10),
        _ => 2f64.powi(-7),
    }
}

/// Every value within `step` of itself; in f32 and f64 of at least 1, since sums can cancel; in f16 of at least the
/// smallest normal number.
pub fn assert_close(what: &str, fused: &Tensor, composed: &Tensor) {
    assert_eq!((fused.dtype(), fused.shape()), (composed.dtype(), composed.shape()), "{what}");
    let values = |t: &Tensor| -> Vec<f64> { t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap() };
    let (step, least) = match fused.dtype() {
        dtype @ (DType::F32 | DType::F64) => (step(dtype), 1.0),
        dtype => (step(dtype), 2f64.powi(-14)),
    };
    let mut steps = 0f64;
    for (a, b) in values(fused).into_iter().zip(values(composed)) {
        let off = (a - b).abs() / (step * a.abs().max(b.abs()).max(least));
        assert!(off.is_finite(), "{what}: {a} and {b}");
        steps = steps.max(off);
    }
    println!("{what} {:?}: {steps:.3} steps", fused.dtype());
    assert!(steps <= 1.0, "{what} {:?}: off by {steps} rounding steps", fused.dtype());
}
