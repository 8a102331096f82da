//! The gated delta rule (Yang et al. 2025): a memory that each position decays, corrects and reads.

use super::delta_heads::Shape;
use super::kernel::{Element, contiguous};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Tensor, WithDType};
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
        let shape = self.shape()?;
        let memory = match memory {
            Some(memory) => memory.clone(),
            None => Tensor::zeros(shape.of_memory(), self.values.dtype(), self.values.device())?,
        };
        match (self.values.device().is_cpu(), self.values.dtype()) {
            (true, DType::F64) => self.on_host::<f64>(shape, &memory),
            (true, _) => self.on_host::<f32>(shape, &memory),
            (false, _) => self.composed(memory),
        }
    }

    /// What is read where the memory begins as zeros; its gradient can be followed. It is computed on the host: composed
    /// of operations, the memories of all positions would have to be kept.
    pub fn followed(&self) -> Result<Tensor> {
        let shape = self.shape()?;
        let read = self.brought()?.to_device(&Device::Cpu)?.apply_op1(shape)?;
        read.to_device(self.values.device())
    }

    fn shape(&self) -> Result<Shape> {
        let (groups, positions, heads, width) = self.values.dims4()?;
        let (key_heads, key_width) = (self.keys.dim(2)?, self.keys.dim(3)?);
        Ok(Shape { groups, positions, key_heads, heads, key_width, width })
    }

    /// What each position brings, one row, as [`Shape`] has it.
    fn brought(&self) -> Result<Tensor> {
        let parts = [&self.queries, &self.keys, &self.values, &self.strengths, &self.decays];
        let flat: Vec<Tensor> = parts.iter().map(|part| part.flatten_from(2)).collect::<Result<_>>()?;
        Tensor::cat(&flat, 2)?.contiguous()
    }

    fn on_host<T: WithDType + Float>(&self, shape: Shape, memory: &Tensor) -> Result<(Tensor, Tensor)> {
        let brought: Vec<T> = self.brought()?.flatten_all()?.to_vec1()?;
        let mut memory: Vec<T> = memory.flatten_all()?.to_vec1()?;
        let read = shape.read_all(&brought, &mut memory);
        let device = self.values.device();
        Ok((Tensor::from_vec(read, shape.of_read(), device)?, Tensor::from_vec(memory, shape.of_memory(), device)?))
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

impl Shape {
    fn of_read(&self) -> (usize, usize, usize, usize) {
        (self.groups, self.positions, self.heads, self.width)
    }

    fn of_memory(&self) -> (usize, usize, usize, usize) {
        (self.groups, self.heads, self.key_width, self.width)
    }

    /// What all planes read, in the order of positions; `memory` becomes that after the last.
    fn read_all<T: WithDType + Float>(&self, brought: &[T], memory: &mut [T]) -> Vec<T> {
        let mut read = vec![T::zero(); self.planes() * self.positions * self.width];
        let planes = read.par_chunks_mut(self.positions * self.width).zip(memory.par_chunks_mut(self.memory()));
        planes.enumerate().for_each(|(plane, (read, memory))| self.read(brought, plane, memory, read));
        self.swapped(&read, [self.heads, self.positions])
    }

    /// Rows of a head's width that lie (groups, a, b), as (groups, b, a).
    fn swapped<T: WithDType>(&self, rows: &[T], [a, b]: [usize; 2]) -> Vec<T> {
        let row = |at: usize| &rows[at * self.width..][..self.width];
        let order =
            (0..self.groups).flat_map(|group| (0..b).flat_map(move |b_at| (0..a).map(move |a_at| (group, a_at, b_at))));
        order.flat_map(|(group, a_at, b_at)| row((group * a + a_at) * b + b_at)).copied().collect()
    }

    fn forward<T: Element + Float>(&self, storage: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
        let mut memory = vec![T::zero(); self.planes() * self.memory()];
        Ok(T::to_cpu_storage_owned(self.read_all(contiguous::<T>(storage, layout)?, &mut memory)))
    }

    fn backward<T: WithDType + Float>(&self, brought: &Tensor, of_read: &Tensor) -> Result<Tensor> {
        let shape = brought.shape();
        let brought: Vec<T> = brought.flatten_all()?.to_vec1()?;
        let of_read = self.swapped(&of_read.flatten_all()?.to_vec1::<T>()?, [self.positions, self.heads]);
        let plane = |(plane, of_read): (usize, &[T])| self.gradient(&brought, plane, of_read);
        let planes: Vec<Vec<T>> = of_read.par_chunks(self.positions * self.width).enumerate().map(plane).collect();
        let mut sum = vec![T::zero(); brought.len()];
        planes.iter().enumerate().for_each(|(plane, gradient)| self.add(plane, gradient, &mut sum));
        Tensor::from_vec(sum, shape, &Device::Cpu)
    }
}

/// From what positions bring, (groups, positions, columns), to what is read; the memory begins as zeros.
impl CustomOp1 for Shape {
    fn name(&self) -> &'static str {
        "delta-rule"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, candle_core::Shape)> {
        let storage = match storage {
            CpuStorage::F64(_) => self.forward::<f64>(storage, layout)?,
            _ => self.forward::<f32>(storage, layout)?,
        };
        Ok((storage, self.of_read().into()))
    }

    fn bwd(&self, brought: &Tensor, _: &Tensor, of_read: &Tensor) -> Result<Option<Tensor>> {
        match brought.dtype() {
            DType::F64 => self.backward::<f64>(brought, of_read).map(Some),
            _ => self.backward::<f32>(brought, of_read).map(Some),
        }
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
    use candle_core::Var;

    /// The backward pass by hand against candle's through the composed rule.
    #[test]
    fn a_delta_rule_is_followed_back_as_when_composed() {
        let (groups, positions, key_heads, heads, key_width, width) = (2, 11, 2, 4, 5, 3);
        let part = |seed, shape: &[usize]| Var::from_tensor(&random(seed, shape, 0.5, DType::F64)).unwrap();
        let of_keys = [groups, positions, key_heads, key_width];
        let parts = [
            part(1, &of_keys),
            part(2, &of_keys),
            part(3, &[groups, positions, heads, width]),
            part(4, &[groups, positions, heads]),
            part(5, &[groups, positions, heads]),
        ];
        let [queries, keys, values, strengths, decays] = parts.each_ref().map(|part| part.as_tensor().clone());
        let rule = DeltaRule { queries, keys, values, strengths, decays };
        let weights = random(6, &[groups, positions, heads, width], 1.0, DType::F64);
        let memory = Tensor::zeros((groups, heads, key_width, width), DType::F64, &Device::Cpu).unwrap();
        let gradients = |read: Tensor| (read * &weights).unwrap().sum_all().unwrap().backward().unwrap();
        let followed = gradients(rule.followed().unwrap());
        let composed = gradients(rule.composed(memory).unwrap().0);
        for (at, part) in parts.iter().enumerate() {
            assert_close(&format!("part {at}"), followed.get(part).unwrap(), composed.get(part).unwrap());
        }
    }

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
