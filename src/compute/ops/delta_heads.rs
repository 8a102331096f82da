//! The gated delta rule of one head, forwards and backwards, on the host.

use num_traits::Float;

/// What all positions bring, one after the other: each its queries, keys, values, strengths and decays.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub groups: usize,
    pub positions: usize,
    pub key_heads: usize,
    pub heads: usize,
    pub key_width: usize,
    pub width: usize,
}

/// What a position brings for one head.
struct Brought<'a, T> {
    query: &'a [T],
    key: &'a [T],
    value: &'a [T],
    strength: T,
    decay: T,
}

impl Shape {
    /// Numbers that a position brings for all heads.
    pub fn columns(&self) -> usize {
        2 * self.key_heads * self.key_width + self.heads * (self.width + 2)
    }

    /// Planes: a head of a group each.
    pub fn planes(&self) -> usize {
        self.groups * self.heads
    }

    /// Numbers of a head's memory.
    pub fn memory(&self) -> usize {
        self.key_width * self.width
    }

    /// Where a plane's query, key, value, strength and decay at a position begin.
    fn places(&self, plane: usize, position: usize) -> [usize; 5] {
        let (group, head) = (plane / self.heads, plane % self.heads);
        let (keys, values) = (self.key_heads * self.key_width, self.heads * self.width);
        let row = (group * self.positions + position) * self.columns();
        let key = head * self.key_heads / self.heads * self.key_width;
        let after = row + 2 * keys;
        [
            row + key,
            row + keys + key,
            after + head * self.width,
            after + values + head,
            after + values + self.heads + head,
        ]
    }

    fn brought<'a, T: Float>(&self, all: &'a [T], plane: usize, position: usize) -> Brought<'a, T> {
        let [query, key, value, strength, decay] = self.places(plane, position);
        Brought {
            query: &all[query..][..self.key_width],
            key: &all[key..][..self.key_width],
            value: &all[value..][..self.width],
            strength: all[strength],
            decay: all[decay],
        }
    }

    /// What a plane reads, (positions, width); `memory` becomes that after the last position.
    pub fn read<T: Float>(&self, all: &[T], plane: usize, memory: &mut [T], read: &mut [T]) {
        let mut correction = vec![T::zero(); self.width];
        for (position, read) in read.chunks_exact_mut(self.width).enumerate() {
            let brought = self.brought(all, plane, position);
            brought.decay_and_correct(memory, &mut correction);
            for ((row, &k), &q) in memory.chunks_exact_mut(self.width).zip(brought.key).zip(brought.query) {
                for ((m, &c), r) in row.iter_mut().zip(&correction).zip(read.iter_mut()) {
                    *m = *m + k * c;
                    *r = *r + *m * q;
                }
            }
        }
    }

    /// The gradient by what a plane was brought, of each position its query, key, value, strength and decay, from that
    /// by what it read, (positions, width). The memory begins as zeros; of the memories of all positions only some are
    /// kept, and those between computed anew.
    pub fn gradient<T: Float>(&self, all: &[T], plane: usize, of_read: &[T]) -> Vec<T> {
        let block = (self.positions as f64).sqrt().ceil() as usize;
        let (mut memory, mut correction) = (vec![T::zero(); self.memory()], vec![T::zero(); self.width]);
        let mut kept = Vec::new();
        for position in 0..self.positions {
            if position % block == 0 {
                kept.push(memory.clone());
            }
            self.brought(all, plane, position).follow(&mut memory, &mut correction);
        }
        let step = 2 * self.key_width + self.width + 2;
        let mut gradient = vec![T::zero(); self.positions * step];
        let mut of_memory = vec![T::zero(); self.memory()];
        for (at, mut memory) in kept.into_iter().enumerate().rev() {
            let positions = at * block..((at + 1) * block).min(self.positions);
            let mut before = Vec::with_capacity(block);
            for position in positions.clone() {
                before.push(memory.clone());
                self.brought(all, plane, position).follow(&mut memory, &mut correction);
            }
            for (position, before) in positions.zip(before).rev() {
                let of_read = &of_read[position * self.width..][..self.width];
                let gradient = &mut gradient[position * step..][..step];
                self.brought(all, plane, position).back(before, of_read, &mut of_memory, gradient);
            }
        }
        gradient
    }

    /// Adds a plane's gradient to that by all that was brought.
    pub fn add<T: Float>(&self, plane: usize, gradient: &[T], all: &mut [T]) {
        let step = 2 * self.key_width + self.width + 2;
        for (position, mut gradient) in gradient.chunks_exact(step).enumerate() {
            let widths = [self.key_width, self.key_width, self.width, 1, 1];
            for (place, width) in self.places(plane, position).into_iter().zip(widths) {
                let (own, rest) = gradient.split_at(width);
                all[place..][..width].iter_mut().zip(own).for_each(|(sum, own)| *sum = *sum + *own);
                gradient = rest;
            }
        }
    }
}

impl<T: Float> Brought<'_, T> {
    /// The memory decayed, and how it is to be corrected.
    fn decay_and_correct(&self, memory: &mut [T], correction: &mut [T]) {
        correction.fill(T::zero());
        for (row, &k) in memory.chunks_exact_mut(correction.len()).zip(self.key) {
            for (m, c) in row.iter_mut().zip(correction.iter_mut()) {
                *m = *m * self.decay;
                *c = *c + *m * k;
            }
        }
        correction.iter_mut().zip(self.value).for_each(|(c, &v)| *c = (v - *c) * self.strength);
    }

    /// The memory after the position.
    fn follow(&self, memory: &mut [T], correction: &mut [T]) {
        self.decay_and_correct(memory, correction);
        for (row, &k) in memory.chunks_exact_mut(correction.len()).zip(self.key) {
            row.iter_mut().zip(correction.iter()).for_each(|(m, &c)| *m = *m + k * c);
        }
    }

    /// From the gradient by the memory after the position to that by the memory `before` it, and by what the position
    /// brought. With D = decay · before, c = strength · (value − Dᵀ key), after = D + key cᵀ and read = afterᵀ query.
    fn back(&self, before: Vec<T>, of_read: &[T], of_memory: &mut [T], gradient: &mut [T]) {
        let (key_width, width) = (self.key.len(), self.value.len());
        let (of_query, rest) = gradient.split_at_mut(key_width);
        let (of_key, rest) = rest.split_at_mut(key_width);
        let (of_value, of_numbers) = rest.split_at_mut(width);
        let mut correction = vec![T::zero(); width];
        let mut decayed = before.clone();
        self.decay_and_correct(&mut decayed, &mut correction);
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).fold(T::zero(), |sum, (&a, &b)| sum + a * b);

        let mut of_correction = vec![T::zero(); width];
        let rows = decayed.chunks_exact(width).zip(of_memory.chunks_exact_mut(width)).enumerate();
        for (i, (decayed, of_memory)) in rows {
            let (query, key) = (self.query[i], self.key[i]);
            of_query[i] = dot(decayed, of_read) + key * dot(&correction, of_read);
            for ((m, &r), c) in of_memory.iter_mut().zip(of_read).zip(&mut of_correction) {
                *m = *m + query * r;
                *c = *c + key * *m;
            }
            of_key[i] = dot(of_memory, &correction);
        }
        // The correction over the strength, without dividing: a strength can be 0.
        let mut off = self.value.to_vec();
        for (decayed, &key) in decayed.chunks_exact(width).zip(self.key) {
            off.iter_mut().zip(decayed).for_each(|(off, &d)| *off = *off - d * key);
        }
        of_numbers[0] = dot(&of_correction, &off);
        of_value.iter_mut().zip(&of_correction).for_each(|(v, &c)| *v = self.strength * c);
        let mut of_decay = T::zero();
        let rows = decayed.chunks_exact(width).zip(before.chunks_exact(width)).zip(of_memory.chunks_exact_mut(width));
        for (i, ((decayed, before), of_memory)) in rows.enumerate() {
            of_key[i] = of_key[i] - dot(decayed, of_value);
            for (m, &v) in of_memory.iter_mut().zip(of_value.iter()) {
                *m = *m - self.key[i] * v;
            }
            of_decay = of_decay + dot(of_memory, before);
            of_memory.iter_mut().for_each(|m| *m = *m * self.decay);
        }
        of_numbers[1] = of_decay;
    }
}
