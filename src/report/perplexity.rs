//! A perplexity, for people.

use crate::error::Figure;
use crate::evaluate::perplexity::{Changed, Perplexity};

/// A line for the model as it is, and one for it with neurons changed.
pub fn table(perplexity: &Perplexity) -> String {
    let base = &perplexity.base;
    let mut out = format!("perplexity {:.4} ({:.6} nats a token)\n", Figure(base.perplexity), base.nll_nats);
    if let Some(Changed { nll_nats, perplexity, damage }) = perplexity.changed {
        let perplexity = Figure(perplexity);
        out += &format!("changed    {perplexity:.4} ({nll_nats:.6} nats a token), damage {damage:.4}\n");
    }
    out
}
