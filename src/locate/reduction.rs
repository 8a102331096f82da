//! From a set that collapses to fewer of its members that still do, by few passes.
//!
//! One member after the other is found without which the first of an order do not collapse, as by the progression of
//! Marques-Silva, Janota & Belov (2013, "Minimal Sets over Monotone Predicates in Boolean Formulae") and by QuickXplain
//! (Junker 2004), but with the strides of Hwang's generalized binary splitting (1972): as long as members were apart so
//! far. So k of n members take about k log₂(n/k) rows.

use super::evaluator::Evaluator;
use crate::error::Result;
use crate::evaluate::metrics;
use crate::neuron::Neuron;
use std::collections::VecDeque;

/// From so many members on it is looked whether they are dense.
const FEWEST_DENSE: usize = 8;
/// Where one of so many candidates is needed, leaving each out at once takes fewer rows than finding one by one.
const DENSE: usize = 3;

/// Subsets of a set that collapses. A member is told by its place in the set.
pub(super) struct Reduction<'e, 'a> {
    evaluator: &'e mut Evaluator<'a>,
    whole: &'e [Neuron],
    base_nll_nats: f64,
    epsilon: f64,
    stage: String,
    most_rows: usize,
}

impl<'e, 'a> Reduction<'e, 'a> {
    pub fn new(evaluator: &'e mut Evaluator<'a>, whole: &'e [Neuron], epsilon: f64) -> Result<Reduction<'e, 'a>> {
        let base_nll_nats = evaluator.nlls("minimizing", &[vec![]])?[0];
        let stage = format!("minimizing a set of {}", whole.len());
        Ok(Reduction { evaluator, whole, base_nll_nats, epsilon, stage, most_rows: usize::MAX })
    }

    /// From now on computes `rows` rows at most.
    pub fn limit(&mut self, rows: usize) {
        self.most_rows = self.evaluator.rows().saturating_add(rows);
    }

    /// Whether so many rows are left.
    pub fn affords(&self, rows: usize) -> bool {
        self.evaluator.rows().saturating_add(rows) <= self.most_rows
    }

    /// How many members the whole set has.
    pub fn len(&self) -> usize {
        self.whole.len()
    }

    /// Rows that were computed so far.
    pub fn rows(&self) -> usize {
        self.evaluator.rows()
    }

    /// The members in order of what they add to the damage of the prefix that they end, which the search has measured.
    pub fn by_steps(&mut self) -> Result<Vec<usize>> {
        let prefixes: Vec<Vec<usize>> = (0..=self.whole.len()).map(|n| (0..n).collect()).collect();
        let damages = self.damages(&prefixes)?;
        let mut order: Vec<usize> = (0..self.whole.len()).collect();
        let step = |at: usize| damages[at + 1] - damages[at];
        order.sort_by(|a, b| step(*b).total_cmp(&step(*a)));
        Ok(order)
    }

    /// Members without any one of which the others all together do not collapse: where more masked neurons are more
    /// damage, every subset that collapses has them. None where the rows do not suffice.
    pub fn needed(&mut self, among: &[usize]) -> Result<Option<Vec<usize>>> {
        if !self.affords(among.len()) {
            return Ok(None);
        }
        let all: Vec<usize> = (0..self.whole.len()).collect();
        let sets: Vec<Vec<usize>> = among.iter().map(|member| without(&all, &[*member])).collect();
        let damages = self.damages(&sets)?;
        let is_needed = |pair: &(&usize, f64)| pair.1 < self.epsilon;
        Ok(Some(among.iter().zip(damages).filter(is_needed).map(|(member, _)| *member).collect()))
    }

    /// `needed` and, of the others, those without which the first of `order` do not collapse: a set that collapses, and
    /// of which none can be dropped where damage is monotone. None as soon as it has no fewer members than `fewer_than`,
    /// or the rows do not suffice.
    pub fn descend(&mut self, order: &[usize], needed: &[usize], fewer_than: usize) -> Result<Option<Vec<usize>>> {
        let mut kept = needed.to_vec();
        let mut candidates: Vec<usize> = order.iter().copied().filter(|member| !needed.contains(member)).collect();
        let (all, mut found) = (candidates.len(), 0);
        // What is kept and all candidates together always collapse.
        while !candidates.is_empty() {
            match self.collapses(&kept, &[])? {
                None => return Ok(None),
                Some(true) => break,
                Some(false) if kept.len() + 1 >= fewer_than => return Ok(None),
                Some(false) => {}
            }
            let gone = all - candidates.len();
            if found >= FEWEST_DENSE && gone < DENSE * found {
                kept.append(&mut candidates);
                break;
            }
            let stride = match found {
                0 => candidates.len() / 2,
                _ => 7 * (gone + candidates.len() / 2) / (10 * (found + 1)),
            };
            let Some(shortest) = self.shortest(&kept, &candidates, stride.max(1))? else { return Ok(None) };
            kept.push(candidates[shortest - 1]);
            candidates.truncate(shortest - 1);
            found += 1;
        }
        kept.sort_unstable();
        Ok(Some(kept).filter(|kept| kept.len() < fewer_than))
    }

    /// A smaller set than `best` by another order, if that gives one.
    pub fn smaller(&mut self, order: &[usize], best: &[usize]) -> Result<Option<Vec<usize>>> {
        match self.needed(best)? {
            Some(needed) if needed.len() < best.len() => {
                let smaller = self.descend(order, &needed, best.len())?;
                smaller.map_or(Ok(None), |smaller| self.eliminate(&smaller))
            }
            _ => Ok(None),
        }
    }

    /// How many of the first candidates it takes to collapse with those that are kept, looked for from the end.
    fn shortest(&mut self, kept: &[usize], candidates: &[usize], stride: usize) -> Result<Option<usize>> {
        // The first `most` collapse, the first `least` do not.
        let (mut most, mut least) = (candidates.len(), 0);
        while most > least + 1 {
            let middle = middle(most, least, stride);
            self.foresee(kept, candidates, (most, least), stride)?;
            match self.collapses(kept, &candidates[..middle])? {
                None => return Ok(None),
                Some(true) => most = middle,
                Some(false) => least = middle,
            }
        }
        Ok(Some(most))
    }

    /// Where the next set of [`Reduction::shortest`] is not known, measures with it those that may follow, as many as a
    /// pass pays for; not where rows are counted.
    fn foresee(&mut self, kept: &[usize], candidates: &[usize], ends: (usize, usize), stride: usize) -> Result<()> {
        let paid = self.evaluator.paid();
        let (mut sets, mut open) = (Vec::new(), VecDeque::from([ends]));
        while let Some((most, least)) = open.pop_front().filter(|_| sets.len() < paid) {
            if most > least + 1 {
                let middle = middle(most, least, stride);
                sets.push([kept, &candidates[..middle]].concat());
                open.extend([(middle, least), (most, middle)]);
            }
        }
        let is_known = self.evaluator.knows(&self.neurons(&sets[0]));
        if paid > 1 && !is_known && self.most_rows == usize::MAX {
            self.damages(&sets)?;
        }
        Ok(())
    }

    /// Backward elimination. Each round masks all sets that lack one member, then drops as many members at once as it
    /// can, those first without which the damage stays largest. It ends when no set that lacks one member collapses any
    /// more. None where the rows do not suffice.
    pub fn eliminate(&mut self, set: &[usize]) -> Result<Option<Vec<usize>>> {
        let mut set = set.to_vec();
        loop {
            if !self.affords(set.len()) {
                return Ok(None);
            }
            let without_one: Vec<Vec<usize>> = set.iter().map(|member| without(&set, &[*member])).collect();
            let damages = self.damages(&without_one)?;
            let mut droppable: Vec<(usize, f64)> =
                set.iter().copied().zip(damages).filter(|(_, damage)| *damage >= self.epsilon).collect();
            droppable.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
            let order: Vec<usize> = droppable.iter().map(|(member, _)| *member).collect();
            let mut counts: Vec<usize> =
                std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < order.len()).collect();
            counts.push(order.len());
            if order.is_empty() {
                return Ok(Some(set));
            }
            if !self.affords(counts.len()) {
                return Ok(None);
            }
            let sets: Vec<Vec<usize>> = counts.iter().map(|n| without(&set, &order[..*n])).collect();
            let damages = self.damages(&sets)?;
            // Dropping the first alone keeps the collapse, so one of them always does.
            let kept = sets.into_iter().zip(damages).rev().find(|(_, damage)| *damage >= self.epsilon);
            let Some((smaller, _)) = kept else { return Ok(Some(set)) };
            set = smaller;
        }
    }

    /// None where no row is left.
    fn collapses(&mut self, kept: &[usize], more: &[usize]) -> Result<Option<bool>> {
        if !self.affords(1) {
            return Ok(None);
        }
        let damages = self.damages(&[[kept, more].concat()])?;
        Ok(Some(damages[0] >= self.epsilon))
    }

    fn neurons(&self, set: &[usize]) -> Vec<Neuron> {
        set.iter().map(|at| self.whole[*at].clone()).collect()
    }

    fn damages(&mut self, sets: &[Vec<usize>]) -> Result<Vec<f64>> {
        let sets: Vec<Vec<Neuron>> = sets.iter().map(|set| self.neurons(set)).collect();
        let nlls = self.evaluator.nlls(&self.stage, &sets)?;
        Ok(nlls.into_iter().map(|nll| metrics::damage(nll, self.base_nll_nats)).collect())
    }
}

/// Which of the first candidates come next between two ends.
fn middle(most: usize, least: usize, stride: usize) -> usize {
    match most.saturating_sub(stride) {
        before if least == 0 && before > 0 => before,
        _ => most.midpoint(least),
    }
}

/// `set` without the members that were dropped.
fn without(set: &[usize], dropped: &[usize]) -> Vec<usize> {
    set.iter().copied().filter(|member| !dropped.contains(member)).collect()
}
