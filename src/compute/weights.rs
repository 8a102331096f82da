//! Weights on the device: widened from the map, kept (resident) or fetched a layer at a time (streamed).

use super::ops::NormWeight;
use crate::architecture::recipe::{Module, ModuleKind, Recipe};
use crate::checkpoint::Tensors;
use crate::checkpoint::tensors::Values;
use crate::error::{Error, Figure, Result};
use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use std::collections::HashMap;
use std::ops::Range;

/// Whether weights stay on the device between passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// All layers are kept: the fastest where they fit.
    Resident,
    /// A pass reads each layer from the map as it comes to it, the next one while this one computes.
    Streamed,
}

/// The weights of one module.
#[derive(Debug)]
pub(crate) enum ModuleWeights {
    /// [out, in] and [out]; or [out, in + BIAS_COLUMNS], see [`with_bias`].
    Linear { weight: Tensor, bias: Bias },
    /// [channels].
    Norm(NormWeight),
}

/// The bias of a linear module.
#[derive(Debug)]
pub(crate) enum Bias {
    None,
    /// [out], added to the product.
    Added(Tensor),
    /// More columns of the weight: 1s that are put after the inputs meet it there.
    InWeight,
}

/// Columns that a bias takes in a weight: itself and 0s, so that rows keep the alignment that GPU kernels want.
const BIAS_COLUMNS: usize = 8;

/// [W, b, 0 …], so that W x + b is one product and is rounded once, as the authors' code (addmm) rounds in half
/// precision. Rounding W x first and the sum again would be off by up to twice as much.
fn with_bias(weight: &Tensor, bias: &Tensor) -> candle_core::Result<Tensor> {
    let zeros = Tensor::zeros((weight.dim(0)?, BIAS_COLUMNS - 1), weight.dtype(), weight.device())?;
    Tensor::cat(&[weight, &bias.unsqueeze(1)?, &zeros], 1)
}

/// The weights of one layer by the module's name within it (`mlp.down_proj`).
#[derive(Debug, Default)]
pub(crate) struct LayerWeights(HashMap<String, ModuleWeights>);

impl LayerWeights {
    /// y = W x + b over (groups, positions, in).
    pub fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let Some(ModuleWeights::Linear { weight, bias }) = self.0.get(name) else { return Err(no_weights(name)) };
        let (groups, positions, inputs) = x.dims3()?;
        let x = x.reshape((groups * positions, inputs))?;
        let y = match bias {
            Bias::None => x.matmul(&weight.t()?)?,
            Bias::Added(bias) => x.matmul(&weight.t()?)?.broadcast_add(bias)?,
            Bias::InWeight => {
                let ones = Tensor::ones((groups * positions, BIAS_COLUMNS), x.dtype(), x.device())?;
                Tensor::cat(&[&x, &ones], 1)?.matmul(&weight.t()?)?
            }
        };
        Ok(y.reshape((groups, positions, ()))?)
    }

    /// The weight of a norm.
    pub fn norm(&self, name: &str) -> Result<&NormWeight> {
        match self.0.get(name) {
            Some(ModuleWeights::Norm(weight)) => Ok(weight),
            _ => Err(no_weights(name)),
        }
    }
}

fn no_weights(name: &str) -> Error {
    Error::Compute(format!("the recipe has no weights for {name}"))
}

/// Reads weights from a checkpoint onto a device.
#[derive(Debug)]
pub(crate) struct Loader<'a> {
    pub tensors: &'a Tensors,
    pub dtype: DType,
    pub device: &'a Device,
}

impl Loader<'_> {
    /// The weights of layer `layer`.
    pub fn layer(&self, recipe: &Recipe, layer: usize) -> Result<LayerWeights> {
        let prefix = format!("model.layers.{layer}.");
        let mut weights = HashMap::new();
        for module in recipe.layer_modules(layer) {
            let name = module.path.strip_prefix(&prefix).unwrap_or(&module.path).to_owned();
            if let Some(module) = self.module(&module)? {
                weights.insert(name, module);
            }
        }
        Ok(LayerWeights(weights))
    }

    fn module(&self, module: &Module) -> Result<Option<ModuleWeights>> {
        let path = &module.path;
        match module.kind {
            ModuleKind::Linear { bias } => {
                let weight = self.tensor(&format!("{path}.weight"))?;
                if !bias {
                    return Ok(Some(ModuleWeights::Linear { weight, bias: Bias::None }));
                }
                let bias = self.tensor(&format!("{path}.bias"))?;
                Ok(Some(match self.dtype {
                    DType::F16 | DType::BF16 => {
                        ModuleWeights::Linear { weight: with_bias(&weight, &bias)?, bias: Bias::InWeight }
                    }
                    _ => ModuleWeights::Linear { weight, bias: Bias::Added(bias) },
                }))
            }
            ModuleKind::Norm { .. } => Ok(Some(ModuleWeights::Norm(self.norm(path)?))),
            ModuleKind::Function | ModuleKind::Embedding => Ok(None),
        }
    }

    /// The weight of a norm, rounded to the arithmetic's dtype.
    pub fn norm(&self, path: &str) -> Result<NormWeight> {
        let tensor = self.tensor(&format!("{path}.weight"))?;
        let host = tensor.to_dtype(DType::F64)?.to_vec1()?;
        Ok(NormWeight { host, tensor })
    }

    /// A whole tensor.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let rows = self.tensors.get(name).and_then(|e| e.shape.first().copied()).unwrap_or(0);
        self.rows(name, 0..rows)
    }

    /// Some rows of a tensor.
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Tensor> {
        let mut shape = self.tensors.get(name).map(|e| e.shape.clone()).unwrap_or_default();
        if let Some(first) = shape.first_mut() {
            *first = rows.len();
        }
        let values = self.tensors.rows(name, rows)?;
        let unsupported = || {
            let found = self.tensors.get(name).map(|e| e.dtype.to_string()).unwrap_or_default();
            Error::tensor(self.tensors.root(), name, format!("has dtype {found}, expected F32, F16, BF16 or F64"))
        };
        let host = match self.dtype {
            DType::F32 => widen::<f32>(values, shape),
            DType::F64 => widen::<f64>(values, shape),
            DType::F16 => widen::<f16>(values, shape),
            _ => widen::<bf16>(values, shape),
        };
        Ok(host.ok_or_else(unsupported)??.to_device(self.device)?)
    }
}

/// The values as a tensor of another dtype on the host, rounded once where the dtype is narrower; none where they are
/// not floats.
fn widen<T: WithDType>(values: Values<'_>, shape: Vec<usize>) -> Option<candle_core::Result<Tensor>> {
    fn each<const N: usize, T: WithDType>(bytes: &[u8], read: impl Fn([u8; N]) -> f64 + Sync) -> Vec<T> {
        let (elements, _) = bytes.as_chunks::<N>();
        elements.par_iter().with_min_len(1 << 14).map(|b| T::from_f64(read(*b))).collect()
    }
    let data: Vec<T> = match values {
        Values::F32(values) => values.into_par_iter().with_min_len(1 << 14).map(|v| T::from_f64(v.into())).collect(),
        Values::Stored { dtype, bytes } => match dtype {
            Dtype::F32 => each(bytes, |b| f32::from_le_bytes(b).into()),
            Dtype::F64 => each(bytes, f64::from_le_bytes),
            Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).into()),
            Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).into()),
            _ => return None,
        },
    };
    Some(Tensor::from_vec(data, shape, &Device::Cpu))
}

/// The first weight that makes arithmetic fail, NaN, infinite or beyond all reason: its tensor and place, by the file's
/// names. None where there is none or one cannot be read.
pub(crate) fn not_finite(recipe: &Recipe, tensors: &Tensors) -> Option<String> {
    recipe.tensors().iter().find_map(|(name, shape)| {
        let rows = tensors.rows(name, 0..*shape.first()?).ok()?;
        let values = widen::<f64>(rows, vec![shape.iter().product()])?.ok()?.to_vec1::<f64>().ok()?;
        // Sound weights are far below a million; the square of this is beyond f32.
        let at = values.iter().position(|value| !value.is_finite() || value.abs() > 1e19)?;
        let place = match shape.as_slice() {
            &[_, columns] => format!("row {}, column {}", at / columns, at % columns),
            _ => format!("element {at}"),
        };
        let what = match values[at] {
            value if value.is_nan() => "NaN".to_owned(),
            value if value.is_infinite() => "an infinite value".to_owned(),
            value => Figure(value).to_string(),
        };
        Some(format!("{} holds {what}, at {place} first", tensors.stored_name(name)))
    })
}
