//! Rotary position embeddings (Su et al. 2021) and how they are stretched to longer texts.

use crate::checkpoint::config::Reader;
use crate::error::Result;
use std::f64::consts::TAU;

/// θ when a config does not give it.
const DEFAULT_THETA: f64 = 10_000.0;

/// What a config says of its rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are changed.
    pub scaling: Scaling,
}

/// How the frequencies are changed to reach further than the model was trained for.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    Default,
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, those between blended.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Wavelengths longer than original/this are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than original/this are kept.
        high_freq_factor: f64,
        /// Positions the model was first trained on.
        original_max_position_embeddings: f64,
    },
}

/// A rotary embedding for heads of one width.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    settings: Settings,
    /// Channels that are rotated: the first of each head.
    dim: usize,
}

/// Cosines and sines of every position, row-major (positions, dim / 2): channel i and i + dim/2 turn together.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// cos(position · frequency).
    pub cos: Vec<f64>,
    /// sin(position · frequency).
    pub sin: Vec<f64>,
    /// Channels that are rotated.
    pub dim: usize,
}

/// Reads `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
///
/// # Errors
/// A type of scaling that is not known, or one of its parameters is missing.
pub fn settings(c: &Reader) -> Result<Settings> {
    let outer_theta = c.f64_opt("rope_theta")?;
    let old = c.object_opt("rope_scaling")?;
    let new = c.object_opt("rope_parameters")?;
    let Some(r) = new.or(old) else {
        return Ok(Settings { theta: outer_theta.unwrap_or(DEFAULT_THETA), scaling: Scaling::Default });
    };
    let theta = r.f64_opt("rope_theta")?.or(outer_theta).unwrap_or(DEFAULT_THETA);
    let new_name = r.str_opt("rope_type")?;
    let old_name = r.str_opt("type")?;
    let scaling = match new_name.or(old_name) {
        None | Some("default") => Scaling::Default,
        Some("llama3") => Scaling::Llama3 {
            factor: r.f64("factor")?,
            low_freq_factor: r.f64("low_freq_factor")?,
            high_freq_factor: r.f64("high_freq_factor")?,
            original_max_position_embeddings: r.f64("original_max_position_embeddings")?,
        },
        Some(_) => return Err(r.wrong("rope_type", "default or llama3")),
    };
    match r.unused().first() {
        None => Ok(Settings { theta, scaling }),
        Some(key) => Err(r.wrong(key, "no such key for this rope_type")),
    }
}

impl Rope {
    /// A rotary embedding of the first `dim` channels of each head.
    pub fn new(settings: Settings, dim: usize) -> Rope {
        Rope { settings, dim }
    }

    /// Cosines and sines of `positions` positions. With `double`, everything is f64; else the frequencies and angles
    /// are rounded to f32 where the models' authors compute in f32.
    pub fn table(&self, positions: usize, double: bool) -> Table {
        let round = |x: f64| if double { x } else { x as f32 as f64 };
        let frequencies: Vec<f64> = self.frequencies(&round);
        let angles = (0..positions).flat_map(|t| frequencies.iter().map(move |f| round(t as f64 * f)));
        let (cos, sin) = angles.map(|a| (round(a.cos()), round(a.sin()))).unzip();
        Table { cos, sin, dim: self.dim }
    }

    /// Radians per position of each pair of channels.
    fn frequencies(&self, round: &impl Fn(f64) -> f64) -> Vec<f64> {
        let Settings { theta, scaling } = &self.settings;
        let half = self.dim / 2;
        let plain = (0..half).map(|i| round(1.0 / round(theta.powf(round(2.0 * i as f64 / self.dim as f64)))));
        match *scaling {
            Scaling::Default => plain.collect(),
            // Llama 3.1's own code, as in transformers' modeling_rope_utils.
            Scaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => plain
                .map(|f| {
                    let wavelength = TAU / f;
                    let scaled = if wavelength > original / low_freq_factor {
                        f / factor
                    } else if wavelength < original / high_freq_factor {
                        f
                    } else {
                        let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    };
                    round(scaled)
                })
                .collect(),
        }
    }
}
