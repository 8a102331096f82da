//! Texts under a model: their tokens, and what is measured of them.

pub mod corpus;
pub mod corpus_nll;
pub mod divergence;
pub mod metrics;
pub mod perplexity;
mod prefix;
pub mod text;
pub(crate) mod vocabulary;
pub mod windows;
mod words;
