//! ln P of chosen tokens after chosen positions: what is padding or context is not taken through the head.

use super::Model;
use super::batch::{Group, Row};
use super::hook::Hook;
use crate::error::{Error, Result};
use crate::progress::Progress;
use candle_core::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// Which predictions of a row are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scored {
    /// The position after which the first target stands; the others follow it.
    pub from: usize,
    /// The tokens whose probability is asked for. They need not be those of the row.
    pub targets: Arc<[u32]>,
}

impl Scored {
    /// Every token of a row but the first.
    pub fn all_of(row: &Row) -> Scored {
        Scored { from: 0, targets: row.tokens.get(1..).unwrap_or_default().into() }
    }

    /// The positions whose predictions these are.
    fn positions(&self) -> Range<usize> {
        self.from..self.from + self.targets.len()
    }

    fn check(&self, row: &Row, vocab_size: usize) -> Result<()> {
        let (positions, length) = (self.positions(), row.tokens.len());
        if positions.end > length {
            let problem =
                format!("positions {} to {} of a row of {length} are to be scored", positions.start, positions.end);
            return Err(Error::input(problem));
        }
        match self.targets.iter().find(|token| **token as usize >= vocab_size) {
            Some(token) => Err(Error::input(format!(
                "token {token} is beyond the model's vocabulary of {vocab_size}; the tokenizer is not this model's"
            ))),
            None => Ok(()),
        }
    }
}

impl Model {
    /// ln P of the targets of each row, of which there is one [`Scored`] each. Progress advances by rows × (layers + 1).
    ///
    /// # Errors
    /// As [`Model::trace`]; or positions are asked for that a row does not have.
    pub fn scored_log_probs(
        &self,
        rows: &[Row],
        scored: &[Scored],
        hook: &mut dyn Hook,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<f64>>> {
        if rows.len() != scored.len() {
            return Err(Error::input(format!("{} rows are to be scored in {} ways", rows.len(), scored.len())));
        }
        for (row, scored) in rows.iter().zip(scored) {
            scored.check(row, self.recipe.vocab_size)?;
        }
        let groups = self.hidden(rows, None, None, hook, progress)?;
        self.log_probs_of_rows(groups, scored, progress)
    }

    /// ln P of each row's targets, by what the head reads of the rows' groups.
    pub(super) fn log_probs_of_rows(
        &self,
        groups: Vec<Group>,
        scored: &[Scored],
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<f64>>> {
        // Rows of a group that ask for the same are answered once.
        let mut members: Vec<Vec<usize>> = Vec::new();
        let mut parts: Vec<(Tensor, &[u32])> = Vec::new();
        for Group { rows, x, .. } in groups {
            let before = members.len();
            for row in rows {
                match members[before..].iter_mut().find(|known| scored[known[0]] == scored[row]) {
                    Some(known) => known.push(row),
                    None => members.push(vec![row]),
                }
            }
            for known in &members[before..] {
                let Scored { from, targets } = &scored[known[0]];
                parts.push((x.narrow(0, *from, targets.len())?, targets));
            }
        }
        let mut result = vec![Vec::new(); scored.len()];
        for (members, log_probs) in members.into_iter().zip(self.log_probs_of(parts)?) {
            for &row in &members {
                result[row] = log_probs.clone();
            }
            progress.advance(members.len() as u64)?;
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::{Arithmetic, NoHook, fixture};
    use crate::neuron::Intervention;
    use crate::progress::Silent;

    #[test]
    fn what_is_scored_is_a_part_of_all_and_padding_changes_nothing() {
        let model = fixture::model("llama", Arithmetic::F64, None);
        let masks = vec![Intervention::zero("L1.mlp.down_proj:out:3".parse().unwrap())];
        let text: Arc<[u32]> = [5, 9, 2, 40, 7, 31].into();
        let padded: Arc<[u32]> = [5, 9, 2, 40, 7, 31, 7, 7, 7].into();
        let sets = [Vec::new(), masks];
        let whole: Vec<Row> = sets.iter().map(|set| Row::with(text.clone(), set.clone())).collect();
        let whole = model.target_log_probs(&whole, &mut NoHook, &Silent).unwrap();
        let rows: Vec<Row> = [0, 1, 0, 1].iter().map(|&set| Row::with(padded.clone(), sets[set].clone())).collect();
        let all = Scored { from: 0, targets: text[1..].into() };
        let last = Scored { from: 3, targets: text[4..].into() };
        let scored = [all.clone(), all, last.clone(), last];
        let found = model.scored_log_probs(&rows, &scored, &mut NoHook, &Silent).unwrap();
        assert_ne!(whole[0], whole[1]);
        for (found, expected) in found.iter().zip([&whole[0][..], &whole[1], &whole[0][3..], &whole[1][3..]]) {
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?} {expected:?}");
        }
    }

    #[test]
    fn what_a_row_does_not_have_is_refused() {
        let model = fixture::model("llama", Arithmetic::F32, None);
        let rows = [Row::clean([5, 6, 7].into())];
        let refused = |from, targets: &[u32]| {
            let scored = [Scored { from, targets: targets.into() }];
            model.scored_log_probs(&rows, &scored, &mut NoHook, &Silent).unwrap_err().to_string()
        };
        assert_eq!(refused(2, &[1, 2]), "positions 2 to 4 of a row of 3 are to be scored");
        assert!(refused(0, &[97]).contains("beyond the model's vocabulary of 97"));
        assert!(model.scored_log_probs(&rows, &[], &mut NoHook, &Silent).is_err());
    }
}
