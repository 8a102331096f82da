//! Rotary position embeddings (Su et al. 2021) and how they are stretched to longer texts, as transformers'
//! modeling_rope_utils computes them. `rope_config` reads them from a config.

use std::f64::consts::{PI, TAU};
use std::fmt;

/// What a config says of a rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeSettings {
    /// θ, the base of the frequencies.
    pub theta: f64,
    /// How they are changed.
    pub scaling: Scaling,
    /// The share of each head's channels that is rotated: the first.
    pub partial_rotary_factor: f64,
}

/// How the frequencies are changed to reach further than the model was trained for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Scaling {
    /// They are θ^(−2i/d), unchanged.
    Default,
    /// All divided by a factor.
    Linear {
        /// Frequencies are divided by this.
        factor: f64,
    },
    /// θ grows with the text once that is longer than the model was trained for.
    Dynamic {
        /// The factor by which the context grows.
        factor: f64,
        /// Positions the model was trained on.
        max_position_embeddings: f64,
    },
    /// As many of the first frequencies of whole heads as the share says, divided by a factor; the others are 0
    /// (Gemma 4).
    Proportional {
        /// Frequencies are divided by this.
        factor: f64,
    },
    /// YaRN (Peng et al. 2023): low frequencies divided, high ones kept, a ramp between; cos and sin scaled.
    Yarn {
        /// Frequencies are divided by this.
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
        /// Frequencies are divided by this.
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
        /// What each frequency is divided by in texts longer than the original length.
        long_factor: Vec<f64>,
        /// Tokens that the model was trained on at first.
        original_max_position_embeddings: f64,
        /// cos and sin are multiplied by this.
        attention_factor: f64,
    },
}

/// Its type and what marks it out, for messages.
impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scaling::Default => f.write_str("default"),
            Scaling::Linear { factor } => write!(f, "linear by {factor}"),
            Scaling::Proportional { factor } => write!(f, "proportional by {factor}"),
            Scaling::Dynamic { factor, .. } => write!(f, "dynamic by {factor}"),
            Scaling::Yarn { factor, original_max_position_embeddings: original, .. } => {
                write!(f, "yarn by {factor} from {original} positions")
            }
            Scaling::Llama3 { factor, original_max_position_embeddings: original, .. } => {
                write!(f, "llama3 by {factor} from {original} positions")
            }
            Scaling::LongRope { original_max_position_embeddings: original, .. } => {
                write!(f, "longrope from {original} positions")
            }
        }
    }
}

/// A rotary embedding: which channels of a head are turned, and by how much a position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    settings: RopeSettings,
    /// Channels of each head that are rotated: the first.
    dim: usize,
    /// Queries and keys are turned in at least f32 and rounded once (OLMo 2), instead of after each operation.
    pub turns_wide: bool,
    /// Each channel turns with its neighbour, not with the one half the turned channels further.
    pub turns_neighbours: bool,
}

/// Cosines and sines of every position, row-major (positions, dim / 2).
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// cos(position · frequency), times the attention factor.
    pub cos: Vec<f64>,
    /// sin(position · frequency), times the attention factor.
    pub sin: Vec<f64>,
    /// How many channels of a head are rotated, the first ones.
    pub dim: usize,
    /// As in [`Rope`].
    pub turns_wide: bool,
    /// As in [`Rope`].
    pub turns_neighbours: bool,
}

impl Table {
    /// The two channels that turn together as pair `i`.
    pub(crate) fn pair(&self, i: usize) -> (usize, usize) {
        if self.turns_neighbours { (2 * i, 2 * i + 1) } else { (i, i + self.dim / 2) }
    }
}

/// Queries are multiplied by 1 + β ln(1 + ⌊position / original⌋) (Llama 4, Ministral 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryGrowth {
    /// β.
    pub beta: f64,
    /// Positions that the model was first trained on: below it the factor is 1.
    pub original: f64,
}

impl QueryGrowth {
    /// The factor of a position, from 0.
    pub fn factor(&self, position: usize) -> f64 {
        1.0 + self.beta * (1.0 + (position as f64 / self.original).floor()).ln()
    }
}

impl Rope {
    /// Channels of each head that are rotated.
    pub fn rotated(&self) -> usize {
        self.dim
    }

    /// What the config says of it.
    pub fn settings(&self) -> &RopeSettings {
        &self.settings
    }

    /// The frequencies that old versions of transformers may have saved: as they are before they are stretched, and
    /// stretched for short and for long texts.
    pub fn saved_frequencies(&self) -> [Vec<f64>; 3] {
        let plain =
            Rope { settings: RopeSettings { scaling: Scaling::Default, ..self.settings.clone() }, ..self.clone() };
        let long = match &self.settings.scaling {
            Scaling::LongRope { original_max_position_embeddings: original, .. } => {
                (*original as usize).saturating_add(1)
            }
            _ => 1,
        };
        [(&plain, 1), (self, 1), (self, long)].map(|(rope, positions)| rope.frequencies(positions, &|x| x))
    }

    /// A rotary embedding of heads of `head_dim` channels.
    pub fn new(settings: RopeSettings, head_dim: usize) -> Rope {
        let dim = match settings.scaling {
            Scaling::Proportional { .. } => head_dim,
            _ => (head_dim as f64 * settings.partial_rotary_factor) as usize,
        };
        Rope { settings, dim, turns_wide: false, turns_neighbours: false }
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
        let Rope { dim, turns_wide, turns_neighbours, .. } = *self;
        Table { cos, sin, dim, turns_wide, turns_neighbours }
    }

    /// Whether a text of `positions` turns otherwise than one of `earlier` positions: with dynamic and longrope,
    /// positions that both have do not compute the same in both.
    pub(crate) fn changes_between(&self, earlier: usize, positions: usize) -> bool {
        let frequencies = |positions| self.frequencies(positions, &|x| x);
        frequencies(earlier) != frequencies(positions)
    }

    /// Radians per position of each pair of channels, in a text of `positions` positions.
    fn frequencies(&self, positions: usize, round: &impl Fn(f64) -> f64) -> Vec<f64> {
        let RopeSettings { theta, scaling, partial_rotary_factor } = &self.settings;
        let dim = self.dim as f64;
        let powers = |theta: f64| (0..self.dim / 2).map(move |i| round(theta.powf(round(2.0 * i as f64 / dim))));
        let plain = |theta: f64| powers(theta).map(|p| round(1.0 / p));
        match scaling {
            Scaling::Default => plain(*theta).collect(),
            Scaling::Linear { factor } => plain(*theta).map(|f| round(f / factor)).collect(),
            Scaling::Proportional { factor } => {
                let turned = (partial_rotary_factor * dim / 2.0).floor() as usize;
                let kept = |(i, f)| if i < turned { round(f / factor) } else { 0.0 };
                plain(*theta).enumerate().map(kept).collect()
            }
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
