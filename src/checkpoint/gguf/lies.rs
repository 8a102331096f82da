//! Where the rows of a tensor lie in those that the file has for it.

use super::file::GgufFile;
use crate::error::Result;
use rayon::prelude::*;
use std::ops::Range;

/// How a tensor under its Hugging Face name is made of what is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Lies {
    /// It is a matrix of one stored tensor.
    In(Stored),
    /// Its rows are taken from two in turns.
    Turns(Turns),
    /// Its rows are some columns of the one, then some rows of the other, head by head.
    Heads { keys: String, values: String, heads: Heads },
}

/// A matrix of a stored tensor, or all of one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub gguf: String,
    /// The shape of the tensor as a stack of such matrices.
    pub shape: Vec<usize>,
    /// Which matrix it is.
    pub matrix: usize,
    pub rows: Order,
    pub columns: Order,
    pub values: Values,
}

/// Which line of what is stored a line is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Order {
    Same,
    /// Heads of so many rows, each turned from (2, size / 2) into (size / 2, 2).
    Interleaved(usize),
    /// After the first so many, heads of so many lines were turned from (groups, each) into (each, groups).
    Tiled {
        first: usize,
        groups: usize,
        each: usize,
        size: usize,
    },
}

/// What became of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Values {
    Same,
    /// 1 was added, in f32.
    OneMore,
    /// x became −eˣ.
    DecayRates,
}

/// Rows of two tensors in turns: of each group some rows of the one or the other, one part below the other.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turns {
    pub gguf: [String; 2],
    /// Which of the two, its first row of the first group, and how many rows of each group.
    pub parts: Vec<(usize, usize, usize)>,
}

/// The heads of a matrix of keys and values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Heads {
    /// Rows of a head that are keys, and values.
    pub keys: usize,
    pub values: usize,
}

impl Order {
    /// The stored line of a line.
    pub fn of(self, line: usize) -> usize {
        match self {
            Order::Same => line,
            Order::Interleaved(size) => {
                let (head, within) = (line / size, line % size);
                head * size + 2 * (within % (size / 2)) + within / (size / 2)
            }
            Order::Tiled { first, .. } if line < first => line,
            Order::Tiled { first, groups, each, size } => {
                let (head, within) = ((line - first) / size, (line - first) % size);
                let (group, of_group) = (head / each, head % each);
                first + (of_group * groups + group) * size + within
            }
        }
    }
}

impl Values {
    /// Takes back what became of them.
    fn restore(self, values: &mut [f32]) {
        match self {
            Values::Same => {}
            Values::OneMore => values.iter_mut().for_each(|w| *w -= 1.0),
            Values::DecayRates => values.iter_mut().for_each(|w| *w = (-f64::from(*w)).ln() as f32),
        }
    }
}

impl Stored {
    /// The whole of a tensor, as it is.
    pub fn whole(gguf: String, shape: Vec<usize>) -> Stored {
        Stored { gguf, shape, matrix: 0, rows: Order::Same, columns: Order::Same, values: Values::Same }
    }
}

impl Lies {
    /// The stored tensors.
    pub fn stored(&self) -> Vec<&str> {
        match self {
            Lies::In(stored) => vec![&stored.gguf],
            Lies::Turns(turns) => turns.gguf.iter().map(String::as_str).collect(),
            Lies::Heads { keys, values, .. } => vec![keys, values],
        }
    }

    /// Rows of a tensor of rows of `width` elements.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn rows(&self, file: &GgufFile, rows: Range<usize>, width: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; rows.len() * width];
        match self {
            Lies::In(stored) if stored.rows == Order::Same => {
                // Elements of vectors of all experts follow each other as rows do.
                let first = stored.matrix * stored.of_each(width);
                file.values(&stored.gguf, (first + rows.start) * width, &mut out)?;
                stored.finish(width, &mut out);
            }
            Lies::In(stored) => {
                out.par_chunks_mut(width.max(1))
                    .zip(rows)
                    .try_for_each(|(row, at)| file.values(&stored.gguf, stored.rows.of(at) * width, row))?;
                stored.finish(width, &mut out);
            }
            Lies::Turns(turns) => {
                out.par_chunks_mut(width.max(1)).zip(rows).try_for_each(|(row, at)| {
                    let (gguf, stored) = turns.of(at);
                    file.values(gguf, stored * width, row)
                })?;
            }
            Lies::Heads { keys, values, heads } => heads.rows(file, [keys, values], rows, width, &mut out)?,
        }
        Ok(out)
    }
}

impl Stored {
    /// Rows of `width` elements in each matrix.
    fn of_each(&self, width: usize) -> usize {
        if self.matrix == 0 { 0 } else { self.shape.iter().skip(1).product::<usize>() / width.max(1) }
    }

    fn finish(&self, width: usize, out: &mut [f32]) {
        if self.columns != Order::Same {
            for row in out.chunks_mut(width.max(1)) {
                let stored = row.to_vec();
                row.iter_mut()
                    .enumerate()
                    .for_each(|(at, x)| *x = stored.get(self.columns.of(at)).copied().unwrap_or(*x));
            }
        }
        self.values.restore(out);
    }
}

impl Turns {
    /// Where a row lies.
    fn of(&self, row: usize) -> (&str, usize) {
        let of_group: usize = self.parts.iter().map(|(_, _, rows)| rows).sum();
        let (group, mut within) = (row / of_group.max(1), row % of_group.max(1));
        for (which, first, rows) in &self.parts {
            if within < *rows {
                return (&self.gguf[*which], first + group * rows + within);
            }
            within -= rows;
        }
        (&self.gguf[0], row)
    }
}

impl Heads {
    /// Keys are stored as [heads, width, keys], values as [heads, values, width].
    fn rows(
        self,
        file: &GgufFile,
        gguf: [&String; 2],
        rows: Range<usize>,
        width: usize,
        out: &mut [f32],
    ) -> Result<()> {
        let [keys, values] = gguf;
        let of_head = (self.keys + self.values).max(1);
        let mut at = rows.start;
        let mut rest = out;
        while at < rows.end {
            let (head, within) = (at / of_head, at % of_head);
            let end = if within < self.keys { self.keys } else { of_head };
            let count = (end - within).min(rows.end - at);
            let (now, later) = rest.split_at_mut(count * width);
            if within < self.keys {
                let mut column = vec![0.0; count];
                for channel in 0..width {
                    file.values(keys, (head * width + channel) * self.keys + within, &mut column)?;
                    column.iter().enumerate().for_each(|(row, x)| now[row * width + channel] = *x);
                }
            } else {
                file.values(values, (head * self.values + within - self.keys) * width, now)?;
            }
            (at, rest) = (at + count, later);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaving_of_one_head_of_four() {
        let rows: Vec<usize> = (0..8).map(|row| Order::Interleaved(4).of(row)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn heads_of_groups_take_turns() {
        let order = Order::Tiled { first: 2, groups: 2, each: 3, size: 1 };
        assert_eq!((0..8).map(|row| order.of(row)).collect::<Vec<_>>(), [0, 1, 2, 4, 6, 3, 5, 7]);
        let order = Order::Tiled { first: 0, groups: 2, each: 2, size: 2 };
        assert_eq!((0..8).map(|row| order.of(row)).collect::<Vec<_>>(), [0, 1, 4, 5, 2, 3, 6, 7]);
    }
}
