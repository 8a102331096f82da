//! The gated delta rule (Yang et al. 2025): a memory that each position decays, corrects and reads.

use candle_core::{DType, Result, Tensor, WithDType};
use num_traits::Float;
use rayon::prelude::*;

/// What each position brings, all in f32 or all in f64.
pub(crate) struct DeltaRule {
    /// (groups, positions, key heads, key width), scaled.
    pub queries: Tensor,
    /// (groups, positions, key heads, key width).
    pub keys: Tensor,
    /// (groups, positions, value heads, value width); each key head serves as many neighbouring value heads.
    pub values: Tensor,
    /// How much of a correction is made, (groups, positions, value heads).
    pub strengths: Tensor,
    /// How much of the memory is kept, (groups, positions, value heads).
    pub decays: Tensor,
}

impl DeltaRule {
    /// What is read, (groups, positions, value heads, value width), and the memory after the last position, (groups,
    /// value heads, key width, value width); it begins as `memory`, or as zeros.
    pub fn apply(&self, memory: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let (groups, _, heads, width) = self.values.dims4()?;
        let key_width = self.keys.dim(3)?;
        let memory = match memory {
            Some(memory) => memory.clone(),
            None => Tensor::zeros((groups, heads, key_width, width), self.values.dtype(), self.values.device())?,
        };
        match (self.values.device().is_cpu(), self.values.dtype()) {
            (true, DType::F64) => self.on_host::<f64>(&memory),
            (true, _) => self.on_host::<f32>(&memory),
            (false, _) => self.composed(memory),
        }
    }

    fn on_host<T: WithDType + Float>(&self, memory: &Tensor) -> Result<(Tensor, Tensor)> {
        let (groups, positions, heads, width) = self.values.dims4()?;
        let (key_heads, key_width) = (self.keys.dim(2)?, self.keys.dim(3)?);
        let host = |t: &Tensor| t.flatten_all()?.to_vec1::<T>();
        let (queries, keys, values) = (host(&self.queries)?, host(&self.keys)?, host(&self.values)?);
        let (strengths, decays) = (host(&self.strengths)?, host(&self.decays)?);
        let (mut memory, size) = (host(memory)?, key_width * width);
        let mut read = vec![T::zero(); groups * heads * positions * width];
        let planes = read.par_chunks_mut(positions * width).zip(memory.par_chunks_mut(size)).enumerate();
        planes.for_each(|(plane, (read, memory))| {
            let (group, head) = (plane / heads, plane % heads);
            let mut correction = vec![T::zero(); width];
            for (position, read) in read.chunks_exact_mut(width).enumerate() {
                let at = group * positions + position;
                let of_key = (at * key_heads + head * key_heads / heads) * key_width;
                let (query, key) = (&queries[of_key..][..key_width], &keys[of_key..][..key_width]);
                let value = &values[(at * heads + head) * width..][..width];
                let (strength, decay) = (strengths[at * heads + head], decays[at * heads + head]);
                correction.fill(T::zero());
                for (row, &k) in memory.chunks_exact_mut(width).zip(key) {
                    for (m, c) in row.iter_mut().zip(&mut correction) {
                        *m *= decay;
                        *c += *m * k;
                    }
                }
                correction.iter_mut().zip(value).for_each(|(c, &v)| *c = (v - *c) * strength);
                for ((row, &k), &q) in memory.chunks_exact_mut(width).zip(key).zip(query) {
                    for ((m, &c), r) in row.iter_mut().zip(&correction).zip(read.iter_mut()) {
                        *m += k * c;
                        *r += *m * q;
                    }
                }
            }
        });
        let device = self.values.device();
        let read = Tensor::from_vec(read, (groups, heads, positions, width), device)?.transpose(1, 2)?.contiguous()?;
        Ok((read, Tensor::from_vec(memory, (groups, heads, key_width, width), device)?))
    }

    fn composed(&self, mut memory: Tensor) -> Result<(Tensor, Tensor)> {
        let (groups, positions, heads, width) = self.values.dims4()?;
        let (key_heads, key_width) = (self.keys.dim(2)?, self.keys.dim(3)?);
        // One query and key for each value head.
        let repeated = |t: &Tensor| {
            let shape = (groups, positions, key_heads, heads / key_heads, key_width);
            t.unsqueeze(3)?.broadcast_as(shape)?.reshape((groups, positions, heads, key_width))
        };
        let (queries, keys) = (repeated(&self.queries)?, repeated(&self.keys)?);
        let mut read = Vec::with_capacity(positions);
        for position in 0..positions {
            let row = |t: &Tensor| t.narrow(1, position, 1)?.transpose(1, 2)?.contiguous();
            let number = |t: &Tensor| t.narrow(1, position, 1)?.reshape((groups, heads, 1, 1));
            let (query, key, value) = (row(&queries)?, row(&keys)?, row(&self.values)?);
            memory = memory.broadcast_mul(&number(&self.decays)?)?;
            let correction = (value - key.matmul(&memory)?)?.broadcast_mul(&number(&self.strengths)?)?;
            memory = (memory + key.t()?.contiguous()?.matmul(&correction)?)?;
            read.push(query.matmul(&memory)?);
        }
        Ok((Tensor::cat(&read, 2)?.transpose(1, 2)?.contiguous()?.reshape((groups, positions, heads, width))?, memory))
    }
}

/// x / sqrt(Σ x² + 1e-6) over the last dimension.
pub(crate) fn unit_length(x: &Tensor) -> Result<Tensor> {
    let length = (x.sqr()?.sum_keepdim(candle_core::D::Minus1)? + 1e-6)?.sqrt()?;
    x.broadcast_div(&length)
}

#[cfg(test)]
mod tests {
    use super::super::closeness::{assert_close, random};
    use super::*;

    #[test]
    fn a_composed_delta_rule_is_the_fused_one() {
        for dtype in [DType::F64, DType::F32] {
            let (groups, positions, key_heads, heads, key_width, width) = (2, 9, 2, 4, 5, 3);
            let part = |seed, shape: &[usize]| random(seed, shape, 0.5, dtype);
            let within = |seed| candle_nn::ops::sigmoid(&part(seed, &[groups, positions, heads])).unwrap();
            let rule = DeltaRule {
                queries: part(1, &[groups, positions, key_heads, key_width]),
                keys: unit_length(&part(2, &[groups, positions, key_heads, key_width])).unwrap(),
                values: part(3, &[groups, positions, heads, width]),
                strengths: within(4),
                decays: within(5),
            };
            let memory = part(6, &[groups, heads, key_width, width]);
            let (read, after) = rule.apply(Some(&memory)).unwrap();
            let (composed, composed_after) = rule.composed(memory).unwrap();
            assert_close("read", &read, &composed);
            assert_close("memory", &after, &composed_after);
        }
    }
}
