//! What stage 1 keeps of the activations that pass: sums over samples, and of these the largest.

use super::Counting;
use super::stage::Stage;
use super::tally::{Candidate, Tally, Top};
use crate::compute::Hook;
use crate::error::{Error, Result};
use crate::neuron::Site;
use candle_core::{CpuStorage, DType, Layout, Storage, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::HashMap;

/// Spreads are not told from sums of squares in single precision below this share of the mean.
const LEAST_SPREAD: f32 = 1e-3;

/// Sums |clean − noisy| per site while the rows pass; the first row of the first batch is the clean one.
pub(super) struct Importance {
    pub tally: Tally,
    sums: HashMap<Site, Sums>,
    /// Sites of `sums` that are not among the candidates yet.
    pending: Vec<Site>,
    samples: usize,
    counting: Counting,
    /// What later samples are drawn for.
    watched: Option<Top>,
    /// Whether sums stay for samples of later batches.
    keeps: bool,
    /// Whether the clean row is still to come.
    is_first: bool,
}

/// (positions, channels) of the clean row and of the sums so far.
struct Sums {
    clean: Tensor,
    so_far: SoFar,
}

/// The sums over noisy rows of |clean − noisy| and, where spreads are asked for, of its square.
enum SoFar {
    Host { sum: Vec<f32>, squares: Option<Vec<f32>> },
    Device { sum: Tensor, squares: Option<Tensor> },
}

/// Elements that one thread adds up before it takes others: few enough to stay in its cache from row to row.
const AT_ONCE: usize = 1 << 12;

impl Importance {
    pub fn new(stage: Stage, samples: usize) -> Importance {
        Importance {
            tally: stage.tally(),
            sums: HashMap::new(),
            pending: Vec::new(),
            samples,
            counting: stage.settings.counting,
            watched: None,
            keeps: false,
            is_first: true,
        }
    }

    /// Looks at spreads too, for the candidates that may yet be among the first; with `keeps`, sums stay so that later
    /// samples can be added.
    pub fn watching(self, watched: Top, keeps: bool) -> Importance {
        Importance { watched: Some(watched), keeps, ..self }
    }

    /// Keeps sums so that later samples can be added.
    pub fn keeping(self) -> Importance {
        Importance { keeps: true, ..self }
    }

    /// Ends the first batch: the candidates that may yet be among the first, where they were asked for.
    pub fn watched(&mut self) -> Option<Top> {
        self.is_first = false;
        self.watched.take()
    }

    /// Ranks anew by sums that stayed, of so many samples.
    pub fn finish(&mut self, samples: usize) -> Result<()> {
        (self.samples, self.keeps) = (samples, false);
        self.tally.restart();
        self.pending = self.sums.keys().cloned().collect();
        self.reduce()
    }
}

impl Hook for Importance {
    fn wants(&self, site: &Site) -> bool {
        self.tally.order.contains_key(site)
    }

    fn on(&mut self, site: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        let x = x.to_dtype(DType::F32)?.contiguous()?;
        let clean = (0..rows.len()).find(|group| self.is_first && rows[*group].contains(&0));
        let sums = match self.sums.entry(site.clone()) {
            std::collections::hash_map::Entry::Occupied(sums) => sums.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let Some(clean) = clean else {
                    return Err(Error::Compute(format!("{site} was not shown the clean row first")));
                };
                let clean = x.get(clean)?.force_contiguous()?;
                self.pending.push(site.clone());
                new.insert(Sums { so_far: SoFar::zeros(&clean, self.watched.is_some())?, clean })
            }
        };
        // The clean row is a group of its own: every other has noise.
        let noisy = [0..clean.unwrap_or(0), clean.map_or(0, |clean| clean + 1)..rows.len()];
        for groups in noisy.into_iter().filter(|groups| !groups.is_empty()) {
            sums.so_far.add(&x.narrow(0, groups.start, groups.len())?, &sums.clean)?;
        }
        Ok(None)
    }

    fn layer_done(&mut self, _: usize) -> Result<()> {
        self.reduce()
    }
}

impl SoFar {
    fn zeros(like: &Tensor, squares: bool) -> Result<SoFar> {
        Ok(match like.device().is_cpu() {
            true => {
                let zeros = || vec![0.0; like.elem_count()];
                SoFar::Host { sum: zeros(), squares: squares.then(zeros) }
            }
            false => {
                let zeros = || like.zeros_like();
                SoFar::Device { sum: zeros()?, squares: squares.then(zeros).transpose()? }
            }
        })
    }

    /// Adds noisy rows (rows, positions, channels), in their order.
    fn add(&mut self, noisy: &Tensor, clean: &Tensor) -> Result<()> {
        match self {
            SoFar::Device { sum, squares } => {
                let differences = noisy.broadcast_sub(clean)?;
                *sum = (&*sum + differences.abs()?.sum(0)?)?;
                if let Some(squares) = squares {
                    *squares = (&*squares + differences.sqr()?.sum(0)?)?;
                }
            }
            SoFar::Host { sum, squares } => {
                let (noisy, clean) = (noisy.storage_and_layout(), clean.storage_and_layout());
                let (noisy, clean) = (f32_slice(&noisy.0, noisy.1)?, f32_slice(&clean.0, clean.1)?);
                let rows: Vec<&[f32]> = noisy.chunks(clean.len().max(1)).collect();
                let sums = sum.par_chunks_mut(AT_ONCE).zip(clean.par_chunks(AT_ONCE)).enumerate();
                match squares {
                    None => sums.for_each(|(at, (sum, clean))| {
                        for row in &rows {
                            let row = &row[at * AT_ONCE..][..clean.len()];
                            for ((sum, noisy), clean) in sum.iter_mut().zip(row).zip(clean) {
                                *sum += (noisy - clean).abs();
                            }
                        }
                    }),
                    Some(squares) => {
                        sums.zip(squares.par_chunks_mut(AT_ONCE)).for_each(|((at, (sum, clean)), squares)| {
                            for row in &rows {
                                let row = &row[at * AT_ONCE..][..clean.len()];
                                for (((sum, squares), noisy), clean) in
                                    sum.iter_mut().zip(squares.iter_mut()).zip(row).zip(clean)
                                {
                                    let difference = noisy - clean;
                                    *sum += difference.abs();
                                    *squares += difference * difference;
                                }
                            }
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn sum(&self) -> Result<Cow<'_, [f32]>> {
        match self {
            SoFar::Host { sum, .. } => Ok(Cow::Borrowed(sum)),
            SoFar::Device { sum, .. } => Ok(Cow::Owned(sum.flatten_all()?.to_vec1()?)),
        }
    }

    fn squares(&self) -> Result<Option<Cow<'_, [f32]>>> {
        match self {
            SoFar::Host { squares, .. } => Ok(squares.as_deref().map(Cow::Borrowed)),
            SoFar::Device { squares: None, .. } => Ok(None),
            SoFar::Device { squares: Some(squares), .. } => Ok(Some(Cow::Owned(squares.flatten_all()?.to_vec1()?))),
        }
    }

    fn forget_squares(&mut self) {
        match self {
            SoFar::Host { squares, .. } => *squares = None,
            SoFar::Device { squares, .. } => *squares = None,
        }
    }
}

fn f32_slice<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((from, to))) => Ok(&values[from..to]),
        _ => Err(Error::Compute("expected contiguous f32 on the CPU".into())),
    }
}

/// The standard deviation of `n` values of whose squares and of which these are the sums.
fn spread(squares: f32, sum: f32, n: f32) -> f32 {
    let mean = sum / n;
    let variance = (squares / n - mean * mean) * n / (n - 1.0);
    variance.max(0.0).sqrt().max(LEAST_SPREAD * mean)
}

impl Importance {
    /// Makes candidates of the sums of the sites that were seen since the last call.
    pub fn reduce(&mut self) -> Result<()> {
        for name in std::mem::take(&mut self.pending) {
            let (site, sums) = (self.tally.order[&name], &self.sums[&name]);
            let channels = sums.clean.dim(1)?;
            let clean: Vec<f32> = sums.clean.flatten_all()?.to_vec1()?;
            let sum = sums.so_far.sum()?;
            let squares = sums.so_far.squares()?;
            let n = self.samples as f32;
            let candidate = |at: usize| Candidate {
                importance: sum[at] / n,
                spread: squares.as_ref().map_or(0.0, |squares| spread(squares[at], sum[at], n)),
                clean: clean[at],
                sum: sum[at],
                site,
                position: at / channels,
                channel: at % channels,
            };
            let best = self.tally.take_candidates(site, channels, clean.len(), candidate);
            if let Some(watched) = &mut self.watched {
                let reach = watched.reach;
                // A channel that overflows is left out, and so are positions that cannot become the channel's largest.
                let low = |at: usize| {
                    let best = candidate(best[at % channels]);
                    best.importance - reach * best.spread
                };
                let lows: Vec<f32> = (0..channels).map(low).collect();
                let may_be_first = |c: &Candidate| match self.counting {
                    Counting::Published => true,
                    Counting::Channels => c.importance + reach * c.spread >= lows[c.channel],
                };
                watched.extend((0..clean.len()).map(candidate).filter(may_be_first), &mut 0);
            }
            match self.sums.get_mut(&name).filter(|_| self.keeps) {
                Some(kept) => kept.so_far.forget_squares(),
                None => drop(self.sums.remove(&name)),
            }
        }
        Ok(())
    }
}
