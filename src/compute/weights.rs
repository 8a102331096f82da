//! Weights on the device: widened from the map, kept (resident) or fetched a layer at a time (streamed).

use super::ops::NormWeight;
use crate::architecture::recipe::{Module, ModuleKind, Recipe};
use crate::checkpoint::Tensors;
use crate::checkpoint::packing::number::Real;
use crate::checkpoint::packing::{Rows, Weight};
use crate::error::{Error, Figure, Result};
use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
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
    Error::Compute(format!("the recipe has no weights for {name}").into())
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

    /// A whole weight.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let weight = self.tensors.weight(name)?;
        self.values(&weight, weight.all()?, weight.shape().to_vec())
    }

    /// Some rows of a matrix.
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Tensor> {
        let weight = self.tensors.weight(name)?;
        let shape = vec![rows.len(), weight.layout().columns];
        self.values(&weight, weight.rows(rows)?, shape)
    }

    /// Rounded once where the arithmetic's dtype is narrower.
    fn values(&self, weight: &Weight, rows: Rows, shape: Vec<usize>) -> Result<Tensor> {
        fn host<T: WithDType + Real>(rows: Rows, shape: Vec<usize>) -> candle_core::Result<Tensor> {
            Tensor::from_vec(rows.into_values::<T>(), shape, &Device::Cpu)
        }
        if !weight.is_float() {
            let problem = format!("has dtype {}, expected F32, F16, BF16 or F64", weight.dtypes());
            return Err(Error::tensor(self.tensors.root(), weight.name(), problem));
        }
        let host = match self.dtype {
            DType::F32 => host::<f32>(rows, shape),
            DType::F64 => host::<f64>(rows, shape),
            DType::F16 => host::<f16>(rows, shape),
            _ => host::<bf16>(rows, shape),
        };
        Ok(host?.to_device(self.device)?)
    }
}

/// The first weight that makes arithmetic fail, NaN, infinite or beyond all reason: its tensor and place, by the file's
/// names. None where there is none or one cannot be read.
pub(crate) fn not_finite(recipe: &Recipe, tensors: &Tensors) -> Option<String> {
    recipe.tensors().iter().find_map(|(name, shape)| {
        let weight = tensors.weight(name).ok().filter(Weight::is_float)?;
        let values: Vec<f64> = weight.all().ok()?.into_values();
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
