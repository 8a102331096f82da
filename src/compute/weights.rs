//! Weights on the device: widened from the map, kept (resident) or fetched a layer at a time (streamed).

use super::ops::{NormWeight, times, wide_dtype};
use crate::architecture::module::{Module, ModuleKind, Role, Stack};
use crate::architecture::{Recipe, tensors_of};
use crate::checkpoint::Tensors;
use crate::checkpoint::number::Real;
use crate::checkpoint::packing::{Rows, Weight};
use crate::error::{Error, Figure, Result};
use crate::neuron::ModulePath;
use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::ops::Range;

/// Whether weights stay on the device between passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// All layers are kept: the fastest where they fit.
    Resident,
    /// A pass reads each layer from the map as it comes to it, the next one while this one computes.
    Streamed,
}

impl Residency {
    /// `resident` or `stream`.
    pub fn as_str(self) -> &'static str {
        match self {
            Residency::Resident => "resident",
            Residency::Streamed => "stream",
        }
    }
}

/// A module of a layer, ready to compute.
#[derive(Debug)]
pub(crate) struct LoadedModule {
    pub path: ModulePath,
    pub inputs: usize,
    pub outputs: usize,
    weights: ModuleWeights,
}

/// The weights of one module.
#[derive(Debug)]
enum ModuleWeights {
    /// [out, in] and [out]; or [out, in + BIAS_COLUMNS], see [`with_bias`].
    Linear { weight: Tensor, bias: Bias },
    /// [channels].
    Norm(NormWeight),
    /// What each position that it sees is multiplied by, the earliest first, each (channels); and [channels]. In f32 or
    /// wider.
    Convolution { taps: Vec<Tensor>, bias: Option<Tensor> },
    /// [channels].
    Vector(Tensor),
    /// An activation's or a dropout's.
    None,
}

/// The bias of a linear module.
#[derive(Debug)]
enum Bias {
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

/// The modules of one layer, with their weights.
#[derive(Debug, Default)]
pub(crate) struct LayerWeights(BTreeMap<Role, LoadedModule>);

impl LayerWeights {
    /// Whether the layer has such a module.
    pub fn has(&self, role: Role) -> bool {
        self.0.contains_key(&role)
    }

    /// The module that does `role`.
    pub fn module(&self, role: Role) -> Result<&LoadedModule> {
        self.0.get(&role).ok_or_else(|| Error::Compute(format!("the recipe has no module for {role:?}")))
    }

    /// The modules of one expert.
    pub fn of_expert(&self, expert: usize) -> impl Iterator<Item = &LoadedModule> {
        self.0.iter().filter(move |(role, _)| role.expert() == Some(expert)).map(|(_, module)| module)
    }
}

impl LoadedModule {
    /// y = W x + b over (groups, positions, in).
    pub fn linear(&self, x: &Tensor) -> Result<Tensor> {
        let ModuleWeights::Linear { weight, bias } = &self.weights else { return Err(self.is_not("linear")) };
        let (groups, positions, inputs) = x.dims3()?;
        let x = x.reshape((groups * positions, inputs))?;
        let y = match bias {
            Bias::None => times(&x, weight)?,
            Bias::Added(bias) => times(&x, weight)?.broadcast_add(bias)?,
            Bias::InWeight => {
                let ones = Tensor::ones((groups * positions, BIAS_COLUMNS), x.dtype(), x.device())?;
                times(&Tensor::cat(&[&x, &ones], 1)?, weight)?
            }
        };
        Ok(y.reshape((groups, positions, ()))?)
    }

    /// The weight of a norm.
    pub fn norm(&self) -> Result<&NormWeight> {
        match &self.weights {
            ModuleWeights::Norm(weight) => Ok(weight),
            _ => Err(self.is_not("a norm")),
        }
    }

    /// What a convolution multiplies and adds, in f32 or wider.
    pub fn convolution(&self) -> Result<(&[Tensor], Option<&Tensor>)> {
        match &self.weights {
            ModuleWeights::Convolution { taps, bias } => Ok((taps, bias.as_ref())),
            _ => Err(self.is_not("a convolution")),
        }
    }

    /// The numbers of a vector.
    pub fn vector(&self) -> Result<&Tensor> {
        match &self.weights {
            ModuleWeights::Vector(vector) => Ok(vector),
            _ => Err(self.is_not("a vector")),
        }
    }

    fn is_not(&self, what: &str) -> Error {
        Error::Compute(format!("{} is not {what}", self.path))
    }
}

/// Reads weights from a checkpoint onto a device.
#[derive(Debug)]
pub(crate) struct Loader<'a> {
    pub tensors: &'a Tensors,
    pub dtype: DType,
    pub device: &'a Device,
}

impl Loader<'_> {
    /// The modules of layer `layer`.
    pub fn layer(&self, recipe: &Recipe, layer: usize) -> Result<LayerWeights> {
        let wide_router = recipe.layers[layer].channel_mixer.experts().is_some_and(|experts| experts.routing.wide);
        let wide = Loader { dtype: wide_dtype(self.dtype), ..*self };
        let load = |module: Module| {
            let is_wide = wide_router && matches!(module.role, Role::Router | Role::RouterCorrection);
            let loader = if is_wide { &wide } else { self };
            let (path, weights) = (module.path.parse()?, loader.weights(&module)?);
            Ok((module.role, LoadedModule { path, inputs: module.inputs, outputs: module.outputs, weights }))
        };
        recipe.layer_modules(layer).into_iter().map(load).collect::<Result<_>>().map(LayerWeights)
    }

    fn weights(&self, module: &Module) -> Result<ModuleWeights> {
        let path = &module.path;
        Ok(match module.kind {
            ModuleKind::Linear { bias } => {
                let stack = module.stack.as_ref().filter(|stack| self.tensors.holds(&stack.tensor));
                let weight = match stack {
                    Some(stack) => self.matrix_of(stack, module)?,
                    None => self.tensor(&module.weight())?,
                };
                if !bias {
                    return Ok(ModuleWeights::Linear { weight, bias: Bias::None });
                }
                let bias = match stack {
                    Some(stack) => {
                        let all = self.rows(&stack.bias(), stack.expert..stack.expert + 1)?;
                        outputs_of(stack, &all.t()?, module.outputs)?.squeeze(1)?
                    }
                    None => self.tensor(&module.bias())?,
                };
                match self.dtype {
                    DType::F16 | DType::BF16 => {
                        ModuleWeights::Linear { weight: with_bias(&weight, &bias)?, bias: Bias::InWeight }
                    }
                    _ => ModuleWeights::Linear { weight, bias: Bias::Added(bias) },
                }
            }
            ModuleKind::Norm { .. } => ModuleWeights::Norm(self.norm(path)?),
            ModuleKind::Convolution { kernel, bias } => {
                let wide = |name: String| Ok::<_, Error>(self.tensor(&name)?.to_dtype(wide_dtype(self.dtype))?);
                let weight = wide(module.weight())?;
                let taps = (0..kernel).map(|at| weight.narrow(2, at, 1)?.flatten_all());
                let bias = bias.then(|| wide(module.bias())).transpose()?;
                ModuleWeights::Convolution { taps: taps.collect::<candle_core::Result<_>>()?, bias }
            }
            ModuleKind::Vector => ModuleWeights::Vector(self.tensor(path)?),
            ModuleKind::Function | ModuleKind::Embedding => ModuleWeights::None,
        })
    }

    /// The weight of a module that lies in a tensor of all experts, [out, in].
    fn matrix_of(&self, stack: &Stack, module: &Module) -> Result<Tensor> {
        let weight = self.tensors.weight(&stack.tensor)?;
        let (shape, is_transposed) = stack.shape(module.inputs, weight.shape(), weight.is_packed());
        let all = self.rows(&stack.tensor, stack.expert * shape[1]..(stack.expert + 1) * shape[1])?;
        let all = if is_transposed { all.t()? } else { all };
        Ok(outputs_of(stack, &all, module.outputs)?)
    }

    /// The weight of a norm, rounded to the arithmetic's dtype.
    pub fn norm(&self, path: &str) -> Result<NormWeight> {
        let tensor = self.tensor(&format!("{path}.weight"))?;
        let host = tensor.to_dtype(DType::F64)?.to_vec1()?;
        Ok(NormWeight { host, tensor })
    }

    /// A whole weight, decoded to the arithmetic's type, on the device.
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

/// The rows of a matrix [all outputs, …] that are a module's.
fn outputs_of(stack: &Stack, all: &Tensor, count: usize) -> candle_core::Result<Tensor> {
    let rows: Vec<u32> = (0..count).map(|channel| stack.output(channel) as u32).collect();
    all.contiguous()?.index_select(&Tensor::new(rows, all.device())?, 0)
}

/// The first weight that makes arithmetic fail, NaN, infinite or beyond all reason: its tensor and place, by the file's
/// names. None where there is none or one cannot be read.
pub(crate) fn not_finite(recipe: &Recipe, tensors: &Tensors) -> Option<String> {
    tensors_of(recipe, tensors).iter().find_map(|(name, shape)| {
        let weight = tensors.weight(name).ok().filter(Weight::is_float)?;
        let values: Vec<f64> = weight.all().ok()?.into_values();
        // Sound weights are far below a million; the square of this is beyond f32.
        let at = values.iter().position(|value| !value.is_finite() || value.abs() > 1e19)?;
        let place = match shape.as_slice() {
            [.., columns] if shape.len() > 1 => format!("row {}, column {}", at / columns, at % columns),
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
