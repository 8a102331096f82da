//! What is read off one position at one site.

use crate::compute::Hook;
use crate::error::Result;
use crate::neuron::Site;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::collections::HashMap;

/// The norms of one position at one site.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The Euclidean norm over channels.
    pub l2: f64,
    /// The largest |x| over channels.
    pub max_abs: f64,
    /// The first channel that has it.
    pub channel: usize,
    /// Channels that are NaN. Where there are such or infinite ones, the norms mean nothing.
    pub nan: u64,
    /// Channels that are infinite.
    pub inf: u64,
}

impl Reading {
    /// Reads the channels of one position.
    pub fn of(x: &[f64]) -> Reading {
        let mut reading = Reading { l2: 0.0, max_abs: 0.0, channel: 0, nan: 0, inf: 0 };
        let mut squares = 0.0;
        for (channel, value) in x.iter().enumerate() {
            let size = value.abs();
            squares += size * size;
            if size > reading.max_abs {
                (reading.max_abs, reading.channel) = (size, channel);
            }
            reading.nan += u64::from(value.is_nan());
            reading.inf += u64::from(value.is_infinite());
        }
        reading.l2 = squares.sqrt();
        if reading.nan == 0 && reading.l2.is_infinite() {
            reading.inf = reading.inf.max(1);
        }
        reading
    }

    /// Whether the norms mean something.
    pub fn is_finite(&self) -> bool {
        self.nan == 0 && self.inf == 0
    }
}

/// A hook that reads some sites and tells of every row, site (by its place in `sites`) and position.
pub(super) struct Reader<'a> {
    /// The sites.
    pub sites: &'a HashMap<Site, usize>,
    /// Told (row, site, position, reading).
    pub tell: &'a mut dyn FnMut(usize, usize, usize, &Reading),
}

impl Hook for Reader<'_> {
    fn wants(&self, site: &Site) -> bool {
        self.sites.contains_key(site)
    }

    fn on(&mut self, site: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        let Some(&at) = self.sites.get(site) else { return Ok(None) };
        let (_, positions, channels) = x.dims3()?;
        let values = x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let readings: Vec<Reading> = values.par_chunks(channels.max(1)).map(Reading::of).collect();
        for (rows, readings) in rows.iter().zip(readings.chunks(positions.max(1))) {
            for &row in rows {
                readings.iter().enumerate().for_each(|(position, reading)| (self.tell)(row, at, position, reading));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read() {
        let reading = Reading::of(&[3.0, -4.0, 0.0, 4.0]);
        assert_eq!(reading, Reading { l2: 41f64.sqrt(), max_abs: 4.0, channel: 1, nan: 0, inf: 0 });
        let broken = Reading::of(&[f64::NAN, 1.0, f64::INFINITY, f64::NEG_INFINITY]);
        assert_eq!((broken.nan, broken.inf, broken.is_finite()), (1, 2, false));
        assert!(!Reading::of(&[1e200, 1e200]).is_finite(), "the norm overflows");
    }
}
