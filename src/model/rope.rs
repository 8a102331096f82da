//! Rotary position embeddings (Su et al. 2021) and how they are stretched to longer texts, as transformers'
//! modeling_rope_utils computes them.

use crate::checkpoint::config::Reader;
use crate::error::Result;
use std::f64::consts::{PI, TAU};

/// What a config says of a rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// θ, the base of the frequencies.
    pub theta: f64,
    /// How they are changed.
    pub scaling: Scaling,
}

/// How the frequencies are changed to reach further than the model was trained for.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    Default,
    /// All divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// θ grows with the text once that is longer than the model was trained for.
    Dynamic {
        /// How much.
        factor: f64,
        /// Positions the model was trained on.
        max_position_embeddings: f64,
    },
    /// YaRN (Peng et al. 2023): low frequencies divided, high ones kept, a ramp between; cos and sin scaled.
    Yarn {
        /// The divisor.
        factor: f64,
        /// Positions the model was first trained on.
        original_max_position_embeddings: f64,
        /// Turns within the original positions above which a frequency is kept.
        beta_fast: f64,
        /// Turns below which it is divided.
        beta_slow: f64,
        /// The ramp begins and ends at whole channels.
        truncate: bool,
        /// cos and sin are multiplied by this.
        attention_factor: f64,
    },
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
    /// LongRoPE (Ding et al. 2024): a divisor for each frequency, other ones for long texts; cos and sin scaled.
    LongRope {
        /// For texts up to the original length.
        short_factor: Vec<f64>,
        /// For longer ones.
        long_factor: Vec<f64>,
        /// The original length.
        original_max_position_embeddings: f64,
        /// cos and sin are multiplied by this.
        attention_factor: f64,
    },
}

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    settings: Settings,
    /// Channels of each head that are rotated: the first.
    dim: usize,
    /// Queries and keys are turned in at least f32 and rounded once (OLMo 2), instead of after each operation.
    pub turns_wide: bool,
}

/// Cosines and sines of every position, row-major (positions, dim / 2): channel i and i + dim/2 turn together.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// cos(position · frequency), times the attention factor.
    pub cos: Vec<f64>,
    /// sin(position · frequency), times the attention factor.
    pub sin: Vec<f64>,
    /// Channels that are rotated.
    pub dim: usize,
    /// As in [`Rope`].
    pub turns_wide: bool,
}

/// Channels of a head that are rotated: all, or `partial_rotary_factor` of them where the family knows that key.
///
/// # Errors
/// The factor is not one, or they are not even.
pub fn rotated_channels(c: &Reader, head_dim: usize, partial: bool) -> Result<usize> {
    if !head_dim.is_multiple_of(2) {
        return Err(c.wrong("head_dim", "an even number, as rotary embeddings need"));
    }
    if !partial {
        return Ok(head_dim);
    }
    let inner = c.object_opt("rope_parameters")?;
    let inner = inner.map(|r| r.f64_opt("partial_rotary_factor")).transpose()?.flatten();
    let factor = inner.or(c.f64_opt("partial_rotary_factor")?).unwrap_or(1.0);
    let channels = (head_dim as f64 * factor) as usize;
    if !(factor > 0.0 && factor <= 1.0) || channels == 0 || !channels.is_multiple_of(2) {
        let expected = format!("a factor above 0 and up to 1 that gives an even share of the {head_dim} channels");
        return Err(c.wrong("partial_rotary_factor", &expected));
    }
    Ok(channels)
}

/// Reads `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
///
/// # Errors
/// A type of scaling that is not known, or one of its parameters is missing or not known.
pub fn settings(c: &Reader, default_theta: f64, partial: bool) -> Result<Settings> {
    let outer_theta = c.f64_opt("rope_theta")?;
    let old = c.object_opt("rope_scaling")?;
    let new = c.object_opt("rope_parameters")?;
    match new.or(old) {
        Some(r) => scaled(c, &r, outer_theta.unwrap_or(default_theta), partial),
        None => Ok(Settings { theta: outer_theta.unwrap_or(default_theta), scaling: Scaling::Default }),
    }
}

/// Reads the two rotary embeddings of a model that has one for its full and one for its sliding layers: nested
/// `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` for the full ones and `rope_local_base_freq`
/// for the sliding ones (transformers 4).
///
/// # Errors
/// As [`settings`].
pub fn settings_of_both(c: &Reader, full_theta: f64, sliding_theta: f64) -> Result<(Settings, Settings)> {
    let local = c.f64_opt("rope_local_base_freq")?;
    let Some(new) = c.object_opt("rope_parameters")? else {
        let sliding = Settings { theta: local.unwrap_or(sliding_theta), scaling: Scaling::Default };
        return Ok((settings(c, full_theta, false)?, sliding));
    };
    let of = |kind: &str, theta: f64| match new.object_opt(kind)? {
        Some(r) => scaled(c, &r, theta, false),
        None => Err(new.wrong(kind, "the rope parameters of these layers")),
    };
    let both = (of("full_attention", full_theta)?, of("sliding_attention", local.unwrap_or(sliding_theta))?);
    match new.unused().first() {
        None => Ok(both),
        Some(key) => Err(new.wrong(key, "only full_attention and sliding_attention")),
    }
}

/// Reads one object of rope parameters; `c` is the config around it.
fn scaled(c: &Reader, r: &Reader, theta: f64, partial: bool) -> Result<Settings> {
    let theta = r.f64_opt("rope_theta")?.unwrap_or(theta);
    if theta <= 0.0 {
        return Err(r.wrong("rope_theta", "a number above 0"));
    }
    let max_position = || c.f64("max_position_embeddings");
    // A top-level key wins over the one inside, as transformers has it.
    let outer_original = c.f64_opt("original_max_position_embeddings")?;
    let original = || match outer_original.or(r.f64_opt("original_max_position_embeddings")?) {
        Some(original) => Ok(original),
        None => max_position(),
    };
    let new_name = r.str_opt("rope_type")?;
    let old_name = r.str_opt("type")?;
    // rotated_channels reads it where the family knows it; elsewhere a factor of 1 changes nothing.
    if r.f64_opt("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) && !partial {
        return Err(r.wrong("partial_rotary_factor", "no such key, or 1, for this architecture"));
    }
    let scaling = match new_name.or(old_name) {
        None | Some("default") => Scaling::Default,
        Some("linear") => Scaling::Linear { factor: r.f64("factor")? },
        Some("dynamic") => Scaling::Dynamic { factor: r.f64("factor")?, max_position_embeddings: max_position()? },
        Some("llama3") => Scaling::Llama3 {
            factor: r.f64("factor")?,
            low_freq_factor: r.f64("low_freq_factor")?,
            high_freq_factor: r.f64("high_freq_factor")?,
            original_max_position_embeddings: original()?,
        },
        Some("yarn") => {
            let factor = r.f64("factor")?;
            let mscale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
            let given = r.f64_opt("attention_factor")?;
            let attention_factor = match (given, r.f64_opt("mscale")?, r.f64_opt("mscale_all_dim")?) {
                (Some(given), _, _) => given,
                (None, Some(m), Some(all)) if m != 0.0 && all != 0.0 => mscale(m) / mscale(all),
                _ => mscale(1.0),
            };
            Scaling::Yarn {
                factor,
                original_max_position_embeddings: original()?,
                beta_fast: r.f64_opt("beta_fast")?.unwrap_or(32.0),
                beta_slow: r.f64_opt("beta_slow")?.unwrap_or(1.0),
                truncate: r.bool_or("truncate", true)?,
                attention_factor,
            }
        }
        Some("longrope" | "su") => {
            let factors = |key| r.f64s_opt(key)?.ok_or_else(|| r.wrong(key, "a list of numbers"));
            let original = original()?;
            let factor = match r.f64_opt("factor")? {
                Some(factor) => factor,
                None => max_position()? / original,
            };
            let derived = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
            Scaling::LongRope {
                short_factor: factors("short_factor")?,
                long_factor: factors("long_factor")?,
                original_max_position_embeddings: original,
                attention_factor: r.f64_opt("attention_factor")?.unwrap_or(derived),
            }
        }
        Some(_) => {
            let key = if new_name.is_some() { "rope_type" } else { "type" };
            return Err(r.wrong(key, "default, linear, dynamic, yarn, llama3 or longrope"));
        }
    };
    match r.unused().first() {
        // Old converters left it beside types that do not use it.
        None | Some(&"original_max_position_embeddings") => Ok(Settings { theta, scaling }),
        Some(key) => Err(r.wrong(key, "no such key for this rope_type")),
    }
}

impl Rope {
    /// Channels of each head that are rotated.
    pub fn rotated(&self) -> usize {
        self.dim
    }

    /// A rotary embedding of the first `dim` channels of each head.
    pub fn new(settings: Settings, dim: usize) -> Rope {
        Rope { settings, dim, turns_wide: false }
    }

    /// Whether every list of factors has one for each frequency.
    pub(super) fn is_sound(&self) -> bool {
        match &self.settings.scaling {
            Scaling::LongRope { short_factor, long_factor, .. } => {
                short_factor.len() == self.dim / 2 && long_factor.len() == self.dim / 2
            }
            _ => true,
        }
    }

    /// Cosines and sines of `positions` positions. With `double`, everything is f64; else the frequencies and angles
    /// are rounded to f32 where the models' authors compute in f32.
    pub fn table(&self, positions: usize, double: bool) -> Table {
        let round = |x: f64| if double { x } else { x as f32 as f64 };
        let frequencies = self.frequencies(positions, &round);
        let factor = round(match self.settings.scaling {
            Scaling::Yarn { attention_factor, .. } | Scaling::LongRope { attention_factor, .. } => attention_factor,
            _ => 1.0,
        });
        let angles = (0..positions).flat_map(|t| frequencies.iter().map(move |f| round(t as f64 * f)));
        let (cos, sin) = angles.map(|a| (round(round(a.cos()) * factor), round(round(a.sin()) * factor))).unzip();
        Table { cos, sin, dim: self.dim, turns_wide: self.turns_wide }
    }

    /// Whether a text of `positions` turns otherwise than one of `earlier` positions: with dynamic and longrope, positions
    /// that both have do not compute the same in both.
    pub(super) fn changes_between(&self, earlier: usize, positions: usize) -> bool {
        let frequencies = |positions| self.frequencies(positions, &|x| x);
        frequencies(earlier) != frequencies(positions)
    }

    /// Radians per position of each pair of channels, in a text of `positions` positions.
    fn frequencies(&self, positions: usize, round: &impl Fn(f64) -> f64) -> Vec<f64> {
        let Settings { theta, scaling } = &self.settings;
        let dim = self.dim as f64;
        let powers = |theta: f64| (0..self.dim / 2).map(move |i| round(theta.powf(round(2.0 * i as f64 / dim))));
        let plain = |theta: f64| powers(theta).map(|p| round(1.0 / p));
        match scaling {
            Scaling::Default => plain(*theta).collect(),
            Scaling::Linear { factor } => plain(*theta).map(|f| round(f / factor)).collect(),
            Scaling::Dynamic { factor, max_position_embeddings: trained } => {
                let length = (positions as f64).max(*trained);
                let grown = round(factor * length / trained) - (factor - 1.0);
                plain(round(theta * round(grown.powf(dim / (dim - 2.0))))).collect()
            }
            Scaling::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, .. } => {
                let channel =
                    |turns: f64| dim * (original_max_position_embeddings / (turns * TAU)).ln() / (2.0 * theta.ln());
                let (mut low, mut high) = (channel(*beta_fast), channel(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let ramp = |i: usize| round(((i as f64 - low) / (high - low)).clamp(0.0, 1.0));
                let mixed = |(i, f): (usize, f64)| round(round(f / factor * ramp(i)) + round(f * (1.0 - ramp(i))));
                plain(*theta).enumerate().map(mixed).collect()
            }
            Scaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original,
            } => {
                let scale = |f: f64| {
                    let wavelength = 2.0 * PI / f;
                    if wavelength > original / low {
                        f / factor
                    } else if wavelength < original / high {
                        f
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                plain(*theta).map(|f| round(scale(f))).collect()
            }
            Scaling::LongRope { short_factor, long_factor, original_max_position_embeddings: original, .. } => {
                let factors = if positions as f64 > *original { long_factor } else { short_factor };
                powers(*theta).zip(factors).map(|(p, factor)| round(1.0 / round(round(*factor) * p))).collect()
            }
        }
    }
}
