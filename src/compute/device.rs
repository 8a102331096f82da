//! Where and in what precision to compute, and whether memory suffices.

use super::weights::Residency;
use crate::architecture::Recipe;
use crate::error::{Error, Result};
use candle_core::{DType, Device};
use std::fmt;
use std::str::FromStr;

/// How a model computes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComputeSettings {
    /// The arithmetic's precision.
    pub arithmetic: Arithmetic,
    /// Where it computes.
    pub device: DeviceChoice,
    /// Whether weights stay on the device; by default where they take less than half of what is free.
    pub residency: Option<Residency>,
}

/// The precision of the arithmetic; weights of other dtypes are widened or rounded to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// 32-bit floats.
    #[default]
    F32,
    /// 64-bit floats.
    F64,
    /// 16-bit floats; sums and norms in f32.
    F16,
    /// bfloat16; sums and norms in f32.
    Bf16,
}

impl Arithmetic {
    /// `f32`, `f64`, `f16` or `bf16`.
    pub fn as_str(self) -> &'static str {
        match self {
            Arithmetic::F32 => "f32",
            Arithmetic::F64 => "f64",
            Arithmetic::F16 => "f16",
            Arithmetic::Bf16 => "bf16",
        }
    }

    pub(crate) fn dtype(self) -> DType {
        match self {
            Arithmetic::F32 => DType::F32,
            Arithmetic::F64 => DType::F64,
            Arithmetic::F16 => DType::F16,
            Arithmetic::Bf16 => DType::BF16,
        }
    }
}

impl FromStr for Arithmetic {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Arithmetic::F32, Arithmetic::F64, Arithmetic::F16, Arithmetic::Bf16];
        all.into_iter()
            .find(|a| a.as_str() == text)
            .ok_or_else(|| Error::input(format!("dtype {text:?}: expected f32, f64, f16 or bf16")))
    }
}

/// Which device to compute on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU this build can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA GPU by its number.
    Cuda(usize),
    /// The Metal GPU.
    Metal,
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(number) => write!(f, "cuda:{number}"),
            DeviceChoice::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let cuda = || text.strip_prefix("cuda:")?.parse().ok().map(DeviceChoice::Cuda);
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "metal" => Ok(DeviceChoice::Metal),
            _ => cuda().ok_or_else(|| Error::input(format!("device {text:?}: expected auto, cpu, cuda:N or metal"))),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    pub(crate) fn open(self) -> Result<Device> {
        let failed = |built: bool, feature: &str, e: candle_core::Error| {
            let why = if built {
                e.to_string().lines().next().unwrap_or_default().to_owned()
            } else {
                format!("this binary was built without it; build with --features {feature}")
            };
            Error::input(format!("device {self}: {why}"))
        };
        let (cuda, metal) = (cfg!(feature = "cuda"), cfg!(feature = "metal"));
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda(number) => Device::new_cuda(number).map_err(|e| failed(cuda, "cuda", e)),
            DeviceChoice::Metal => Device::new_metal(0).map_err(|e| failed(metal, "metal", e)),
            DeviceChoice::Auto => {
                let gpu = if cuda { Device::new_cuda(0).ok() } else { None };
                let gpu = gpu.or_else(|| if metal { Device::new_metal(0).ok() } else { None });
                Ok(gpu.unwrap_or(Device::Cpu))
            }
        }
    }
}

/// What an opened device is called on the command line.
pub(crate) fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { .. } => "metal".into(),
    }
}

/// Bytes of host memory that can be had, within the limits of the container.
fn available_bytes() -> u64 {
    let Ok(mut system) = sysinfo::System::new() else { return u64::MAX };
    system.refresh_memory();
    match system.cgroup_limits() {
        // Not its free memory: that counts the page cache, and so the mapped weights, as used.
        Some(limits) => limits.total_memory.saturating_sub(limits.rss).min(system.available_memory()),
        None => system.available_memory(),
    }
}

/// Decides whether weights stay on the device, and refuses where even streaming them would not fit. Device memory is
/// not judged here: the driver does that.
pub(crate) fn residency(
    recipe: &Recipe,
    settings: &ComputeSettings,
    dtype: DType,
    device: &Device,
) -> Result<Residency> {
    let size = dtype.size_in_bytes() as u64;
    let bytes = |tensors: Vec<(String, Vec<usize>)>| -> u64 {
        tensors.iter().map(|(_, shape)| shape.iter().map(|d| *d as u64).product::<u64>()).sum::<u64>() * size
    };
    let layer = |index| bytes(recipe.layer_modules(index).iter().flat_map(|m| m.tensors()).collect());
    let layers: Vec<u64> = (0..recipe.layers.len()).map(layer).collect();
    let head = recipe.vocab_size as u64 * recipe.hidden_size as u64 * size;
    let resident = layers.iter().sum::<u64>() + head;
    let streamed = 3 * layers.iter().max().copied().unwrap_or(0) + head;
    let available = available_bytes();
    if !device.is_cpu() {
        return Ok(settings.residency.unwrap_or(Residency::Resident));
    }
    let residency =
        settings.residency.unwrap_or(if resident <= available / 2 { Residency::Resident } else { Residency::Streamed });
    let needed = if residency == Residency::Resident { resident } else { streamed };
    if needed > available {
        return Err(Error::Memory {
            what: format!("computing with this model's weights in {dtype:?}").to_lowercase(),
            needed,
            available,
            advice: "free some, or use a narrower --dtype or a larger machine",
        });
    }
    Ok(residency)
}

/// Groups that fit a chunk of `budget` bytes of activations.
pub(crate) fn chunk_rows(recipe: &Recipe, positions: usize, dtype: DType, budget: u64) -> usize {
    (budget / group_bytes(recipe, positions, dtype)).max(1) as usize
}

/// Bytes of activations that one group takes at the widest point of a layer.
fn group_bytes(recipe: &Recipe, positions: usize, dtype: DType) -> u64 {
    let wide = recipe.layers.iter().map(|l| l.channel_mixer.width()).max().unwrap_or(0);
    let attention = recipe.layers.iter().map(|l| l.token_mixer.width(positions)).max().unwrap_or(0);
    let channels = 4 * recipe.hidden_size + attention.max(4 * wide);
    positions as u64 * channels as u64 * dtype.size_in_bytes() as u64
}

/// Refuses a pass whose activations would not fit.
pub(crate) fn check_activations(
    recipe: &Recipe,
    rows: usize,
    chunk_rows: usize,
    positions: usize,
    dtype: DType,
    device: &Device,
) -> Result<()> {
    let kept = rows as u64 * positions as u64 * recipe.carried_width() as u64 * dtype.size_in_bytes() as u64;
    let needed = kept + chunk_rows.min(rows) as u64 * group_bytes(recipe, positions, dtype);
    if !device.is_cpu() {
        return Ok(());
    }
    check_memory(&format!("computing {rows} rows of {positions} tokens"), needed)
}

/// Refuses what would need more host memory than there is.
pub(crate) fn check_memory(what: &str, needed: u64) -> Result<()> {
    let available = available_bytes();
    if needed <= available {
        return Ok(());
    }
    let advice = "use a shorter text, fewer sites or fewer rows at once";
    Err(Error::Memory { what: what.into(), needed, available, advice })
}
