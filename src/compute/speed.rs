//! How fast this machine multiplies matrices and reads weights.

use super::device::ComputeSettings;
use super::weights::Loader;
use super::work::stored_bytes;
use crate::architecture::{Recipe, tensors_of};
use crate::checkpoint::{Checkpoint, Tensors};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use std::time::{Duration, Instant};

/// How long each of the two is measured.
const MEASURED: Duration = Duration::from_millis(250);
/// Rows of the matrix that is multiplied to measure, at most; and columns of either.
const MOST_ROWS: usize = 1024;
const MOST_COLUMNS: usize = 16384;
/// Elements that are read at once to measure, and in all at most.
const READ_AT_ONCE: usize = 4 << 20;
const MOST_READ: usize = 64 << 20;

/// Floating-point operations a second of matrix products of the model's widths and so many rows.
///
/// # Errors
/// There is no such device, or it fails.
pub fn flops(recipe: &Recipe, settings: &ComputeSettings, rows: usize) -> Result<f64> {
    let (device, dtype) = (settings.device.open()?, settings.arithmetic.dtype());
    let wide = recipe.layers.iter().map(|layer| layer.channel_mixer.width()).max().unwrap_or(1);
    let [inner, columns] = [recipe.hidden_size, wide].map(|columns| columns.clamp(1, MOST_COLUMNS));
    product_rate(&device, dtype, rows.clamp(1, MOST_ROWS), [inner, columns])
}

/// Bytes of the model's files that are read and brought into the arithmetic's dtype in a second.
///
/// # Errors
/// There is no such device, it fails, or a weight cannot be read.
pub fn read_bytes(checkpoint: &Checkpoint, recipe: &Recipe, settings: &ComputeSettings) -> Result<f64> {
    reading_rate(checkpoint.tensors(), recipe, settings.arithmetic.dtype(), &settings.device.open()?)
}

fn product_rate(device: &Device, dtype: DType, rows: usize, [inner, columns]: [usize; 2]) -> Result<f64> {
    let x = Tensor::ones((rows, inner), dtype, device)?;
    let weight = Tensor::ones((columns, inner), dtype, device)?.t()?;
    let product = || {
        let product = x.matmul(&weight)?;
        device.synchronize().map(|()| product)
    };
    // The first makes threads and buffers.
    product()?;
    let (started, mut done) = (Instant::now(), 0u32);
    while started.elapsed() < MEASURED {
        product()?;
        done += 1;
    }
    Ok(f64::from(done) * 2.0 * (rows * inner * columns) as f64 / started.elapsed().as_secs_f64())
}

/// Reads the layers' weights, some rows at a time, until the time is over. They are kept meanwhile, as what a model
/// keeps takes fresh memory.
fn reading_rate(tensors: &Tensors, recipe: &Recipe, dtype: DType, device: &Device) -> Result<f64> {
    let loader = Loader { tensors, dtype, device };
    let (started, mut bytes, mut elements, mut kept) = (Instant::now(), 0.0, 0, Vec::new());
    let names = tensors_of(recipe, tensors).into_iter().map(|(name, _)| name);
    'time: for name in names.filter(|name| name.contains(".layers.")) {
        let weight = tensors.weight(&name)?;
        let (layout, stored) = (weight.layout(), stored_bytes(&weight) as f64);
        let (all, at_once) = (layout.all_rows(), (READ_AT_ONCE / layout.columns.max(1)).max(1));
        for from in (0..all).step_by(at_once) {
            let rows = from..(from + at_once).min(all);
            bytes += stored * rows.len() as f64 / all as f64;
            elements += rows.len() * layout.columns;
            kept.push(loader.rows(&name, rows)?);
            if started.elapsed() >= MEASURED || elements >= MOST_READ {
                break 'time;
            }
        }
    }
    Ok(bytes / started.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::fixture::opened;

    #[test]
    fn a_machine_does_something() {
        let (checkpoint, recipe) = opened("llama");
        let settings = ComputeSettings::default();
        assert!(flops(&recipe, &settings, 100).unwrap() > 1e6);
        assert!(read_bytes(&checkpoint, &recipe, &settings).unwrap() > 1e3);
    }
}
