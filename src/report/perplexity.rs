//! A perplexity, for people.

use crate::error::{Count, Figure};
use crate::evaluate::corpus_perplexity::{CorpusFigures, CorpusPerplexity, MeasuredCorpus};
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

/// For each corpus how much was measured, a line for the model as it is, and one for it with neurons changed.
pub fn of_corpora(perplexity: &CorpusPerplexity) -> String {
    perplexity.corpora.iter().map(of_corpus).collect::<Vec<_>>().join("\n")
}

fn of_corpus(of: &MeasuredCorpus) -> String {
    let (samples, tokens) = (Count(of.corpus.samples, "sample", "samples"), Count(of.corpus.tokens, "token", "tokens"));
    let mut out = format!("{}: {samples} of {tokens} together\n", of.corpus.name);
    out += &format!("perplexity {}\n", figures(&of.base));
    if let Some(changed) = &of.changed {
        out += &format!("changed    {}, damage {:.4}\n", figures(&changed.figures), changed.damage);
    }
    out
}

fn figures(of: &CorpusFigures) -> String {
    let mut out = format!("{:.4} ({:.6} nats a token)", Figure(of.perplexity), of.nll_nats);
    if let (Some(word), Some(byte), Some(bits)) = (of.word_perplexity, of.byte_perplexity, of.bits_per_byte) {
        out += &format!(", {:.4} a word, {:.4} a byte ({bits:.6} bits)", Figure(word), Figure(byte));
    }
    out
}
