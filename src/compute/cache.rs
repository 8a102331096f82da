//! What token mixers keep of the positions of a growing text.

use crate::error::Result;
use candle_core::Tensor;

/// What every layer has kept of the first positions of the text.
#[derive(Debug)]
pub(super) struct Cache {
    pub positions: usize,
    pub layers: Vec<Kept>,
}

impl Cache {
    pub fn empty(layers: usize) -> Cache {
        Cache { positions: 0, layers: vec![Kept::default(); layers] }
    }
}

/// What the token mixer of one layer keeps, whatever its kind needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    /// Keys, turned, and values, each (key heads, positions, width).
    keys_values: Option<(Tensor, Tensor)>,
    /// What went into a convolution last, (1, positions that it sees beside a new one, channels).
    pub inputs: Option<Tensor>,
    /// What a delta net's heads hold, (1, value heads, key width, value width).
    pub memory: Option<Tensor>,
}

impl Kept {
    /// Takes keys and values of further positions and gives those of all.
    pub fn extend(&mut self, keys: Tensor, values: Tensor) -> Result<(Tensor, Tensor)> {
        let (keys, values) = match self.keys_values.take() {
            Some((k, v)) => (Tensor::cat(&[k, keys], 1)?, Tensor::cat(&[v, values], 1)?),
            None => (keys, values),
        };
        self.keys_values = Some((keys.clone(), values.clone()));
        Ok((keys, values))
    }
}
