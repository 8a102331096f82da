//! Products with weights.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor};

/// x Wᵀ of a weight [out, in], whose backward pass gives the gradient of x alone: candle's own would take that of the
/// weight as well, which doubles the work and keeps a copy of every weight.
struct TimesWeight(Tensor);

impl TimesWeight {
    fn forward<S: BackendStorage>(&self, x: &S, layout: &Layout, weight: &S, of: &Layout) -> Result<(S, Shape)> {
        let ((rows, inputs), (outputs, _)) = (layout.shape().dims2()?, of.shape().dims2()?);
        let product = x.matmul(weight, (1, rows, outputs, inputs), layout, &of.transpose(0, 1)?)?;
        Ok((product, (rows, outputs).into()))
    }

    fn elsewhere<T>(&self) -> Result<T> {
        candle_core::bail!("{}: the weight is on another device", self.name())
    }
}

impl CustomOp1 for TimesWeight {
    fn name(&self) -> &'static str {
        "times-weight"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (weight, of) = self.0.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else { return self.elsewhere() };
        self.forward(x, layout, weight, of)
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (weight, of) = self.0.storage_and_layout();
        let Storage::Cuda(weight) = &*weight else { return self.elsewhere() };
        self.forward(x, layout, weight, of)
    }

    fn metal_fwd(&self, x: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        let (weight, of) = self.0.storage_and_layout();
        let Storage::Metal(weight) = &*weight else { return self.elsewhere() };
        self.forward(x, layout, weight, of)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.matmul(&self.0).map(Some)
    }
}

/// x Wᵀ: (rows, in) and a weight [out, in] to (rows, out).
pub(crate) fn times(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    match x.track_op() {
        true => x.apply_op1(TimesWeight(weight.clone())),
        false => x.matmul(&weight.t()?),
    }
}
