//! Signed magnitude: the baseline that the paper's published code calls activation magnitude.
//!
//! It sorts the activations of the clean text as they are, not by |a|, so that a channel that is large and negative comes
//! last. Figure 3 of the paper is of this order.

use super::stage::Stage;
use super::tally::Tally;
use crate::error::Result;

/// a.
pub(super) fn rank(stage: Stage) -> Result<Tally> {
    stage.rank_by_clean(|x| Ok(x.clone()))
}
