//! Where and in what precision to compute.

use super::weights::Residency;
use crate::error::{Bytes, Error, Result};
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
    /// Whether weights stay on the device; by default where they take at most three quarters of the memory that there is.
    pub residency: Option<Residency>,
    /// Host memory that the process may take, what it has taken included and files that are mapped not; by default all
    /// that can be had.
    pub memory: Option<Bytes>,
    /// Memory of a CUDA device that weights and rows may take; by default what it has free, but a reserve. Refused where
    /// none computes.
    pub gpu_memory: Option<Bytes>,
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

/// Bytes that a CUDA device has free; none of what is no CUDA device.
pub(super) fn free_bytes(device: &Device) -> Result<Option<u64>> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return match cuda.cuda_stream().context().mem_get_info() {
            Ok((free, _)) => Ok(Some(free as u64)),
            Err(error) => Err(Error::input(format!("device {}: its free memory is not told: {error}", name(device)))),
        };
    }
    let _ = device;
    Ok(None)
}
