//! The head, in blocks of the vocabulary: whole it can take more than all layers that are at hand at once.

use super::ahead::ahead;
use super::memory::LOGITS_BYTES;
use super::{Model, ops};
use crate::error::Result;
use candle_core::{Tensor, Var};
use std::ops::Range;

/// Tensors of the size of a block's logits that are kept at once on the way to their NLL and back.
const LOGITS_KEPT: usize = 8;

impl Model {
    /// ln P of the tokens that follow, for each part of a text: what the head reads, (tokens, hidden), and the tokens.
    pub(super) fn log_probs_of(&self, parts: Vec<(Tensor, &[u32])>) -> Result<Vec<Vec<f64>>> {
        let lengths: Vec<usize> = parts.iter().map(|(_, targets)| targets.len()).collect();
        let block_rows = self.head_rows.min(self.recipe.vocab_size);
        let at_once = (LOGITS_BYTES / (block_rows * self.dtype.size_in_bytes())).max(1);
        let mut steps = steps_of(parts, at_once)?;
        self.each_head_block(|tokens, block| {
            for (x, log_probs) in &mut steps {
                log_probs.add(tokens.start, &self.block_logits(x, block)?)?;
            }
            Ok(())
        })?;
        let mut all = steps.into_iter().flat_map(|(_, log_probs)| log_probs.finish());
        Ok(lengths.into_iter().map(|length| all.by_ref().take(length).collect()).collect())
    }

    /// −Σ ln P of the tokens that follow what the head reads, (tokens, hidden), and its gradient by that.
    pub(super) fn nll_and_gradient(&self, x: &Tensor, targets: &[u32]) -> Result<(f64, Tensor)> {
        let block_rows = self.head_rows.min(self.recipe.vocab_size);
        let at_once = (LOGITS_BYTES / LOGITS_KEPT / (block_rows * self.dtype.size_in_bytes())).max(1);
        let mut steps = steps_of(vec![(x.clone(), targets)], at_once)?;
        self.each_head_block(|tokens, block| {
            steps
                .iter_mut()
                .try_for_each(|(x, log_probs)| Ok(log_probs.add(tokens.start, &self.block_logits(x, block)?)?))
        })?;
        let mut gradients: Vec<Tensor> =
            steps.iter().map(|(x, _)| x.zeros_like()).collect::<candle_core::Result<_>>()?;
        self.each_head_block(|tokens, block| {
            for ((x, log_probs), gradient) in steps.iter().zip(&mut gradients) {
                let x = Var::from_tensor(x)?;
                let logits = self.block_logits(&x, block)?;
                let of_logits = log_probs.gradient(tokens.start, &logits.detach())?;
                if let Some(more) = (logits * of_logits)?.sum_all()?.backward()?.get(&x) {
                    *gradient = (&*gradient + more)?;
                }
            }
            Ok(())
        })?;
        let log_probs = steps.into_iter().flat_map(|(_, log_probs)| log_probs.finish());
        Ok((-log_probs.sum::<f64>(), Tensor::cat(&gradients, 0)?))
    }

    /// The logits of what the head reads, (positions, hidden) each: (positions, vocabulary) each.
    pub(super) fn logits_of(&self, all: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut blocks: Vec<Vec<Tensor>> = vec![Vec::new(); all.len()];
        self.each_head_block(|_, block| {
            for (x, blocks) in all.iter().zip(&mut blocks) {
                blocks.push(self.block_logits(x, block)?);
            }
            Ok(())
        })?;
        blocks.into_iter().map(|blocks| Ok(Tensor::cat(&blocks, 1)?)).collect()
    }

    fn block_logits(&self, x: &Tensor, block: &Tensor) -> Result<Tensor> {
        let mut logits = ops::times(x, block)?;
        if let Some(multiplier) = self.recipe.logit_multiplier {
            logits = ops::scaled(&logits, multiplier)?;
        }
        match self.recipe.logit_softcap {
            Some(cap) => Ok(ops::softcap(&logits, cap)?),
            None => Ok(logits),
        }
    }

    /// Calls `f` with each block of the head in turn: which tokens, and their weights, (tokens, hidden); streamed ones
    /// are read one block ahead. Blocks are the same either way, and so are sums over them.
    fn each_head_block(&self, mut f: impl FnMut(Range<usize>, &Tensor) -> Result<()>) -> Result<()> {
        let (vocabulary, rows) = (self.recipe.vocab_size, self.head_rows);
        let tokens = |block: usize| block * rows..((block + 1) * rows).min(vocabulary);
        let blocks = vocabulary.div_ceil(rows);
        match self.resident_head() {
            Some(head) => (0..blocks).map(tokens).try_for_each(|tokens| {
                let block = head.narrow(0, tokens.start, tokens.len())?;
                f(tokens, &block)
            }),
            None => {
                let name = self.recipe.head_tensor();
                let load = |block| self.loader().rows(&name, tokens(block));
                ahead(0..blocks, load, |block, weights| f(tokens(block), &weights))
            }
        }
    }
}

/// Parts put together and taken apart so that each step has `at_once` positions at most.
fn steps_of(parts: Vec<(Tensor, &[u32])>, at_once: usize) -> Result<Vec<(Tensor, ops::LogProbs)>> {
    let (mut steps, mut open, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (x, mut of) in parts {
        let mut from = 0;
        while !of.is_empty() {
            let (now, later) = of.split_at(of.len().min(at_once - targets.len()));
            open.push(x.narrow(0, from, now.len())?);
            targets.extend_from_slice(now);
            (from, of) = (from + now.len(), later);
            if targets.len() == at_once {
                steps.push((Tensor::cat(&open, 0)?, ops::LogProbs::of(std::mem::take(&mut targets))));
                open.clear();
            }
        }
    }
    if !targets.is_empty() {
        steps.push((Tensor::cat(&open, 0)?, ops::LogProbs::of(targets)));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use crate::compute::{Arithmetic, Model, NoHook, Residency, Row, fixture};
    use crate::neuron::Intervention;
    use crate::progress::Silent;

    fn model(family: &str, residency: Residency, head_rows: Option<usize>) -> Model {
        let mut model = fixture::model(family, Arithmetic::F64, Some(residency));
        model.head_rows = head_rows.unwrap_or(model.head_rows);
        model
    }

    /// Rows of the text under each of some interventions.
    fn rows(positions: u32) -> Vec<Row> {
        let tokens: std::sync::Arc<[u32]> = (0..positions).map(|at| at * 7 % 90).collect();
        let masked = |channel| Intervention::zero(format!("L1.mlp.down_proj:out:{channel}").parse().unwrap());
        (0..4).map(|channel| Row::with(tokens.clone(), (0..channel).map(masked).collect())).collect()
    }

    fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{what}: {found}, {expected}");
        }
    }

    /// A plain head, one with a cap and one with a multiplier.
    #[test]
    fn blocks_of_the_head_are_its_whole() {
        for family in ["llama", "gemma2", "granite"] {
            let whole = model(family, Residency::Resident, None);
            let rows = rows(12);
            let log_probs = whole.target_log_probs(&rows, &mut NoHook, &Silent).unwrap();
            let logits = whole.last_logits(&rows, &mut NoHook, &Silent).unwrap();
            for (residency, tokens) in [(Residency::Resident, 7), (Residency::Streamed, 7), (Residency::Streamed, 1)] {
                let what = format!("{family} {residency:?} {tokens}");
                let blocks = model(family, residency, Some(tokens));
                for (found, expected) in
                    blocks.target_log_probs(&rows, &mut NoHook, &Silent).unwrap().iter().zip(&log_probs)
                {
                    assert_close(&what, found, expected);
                }
                for (found, expected) in blocks.last_logits(&rows, &mut NoHook, &Silent).unwrap().iter().zip(&logits) {
                    assert_close(&what, &found.to_vec1().unwrap(), &expected.to_vec1().unwrap());
                }
                let last: Vec<f64> = logits[3].to_vec1().unwrap();
                let of_row = blocks.row_logits(&rows[3], &Silent).unwrap().at(11..12).unwrap();
                assert_close(&what, &of_row[0], &last);
                let mut decoder = blocks.decoder(rows[3].interventions.clone(), 12).unwrap();
                decoder.extend(&rows[3].tokens[..5]).unwrap();
                let extended = decoder.extend(&rows[3].tokens[5..]).unwrap();
                assert_close(&what, &extended.to_vec1().unwrap(), &last);
            }
        }
    }
}
