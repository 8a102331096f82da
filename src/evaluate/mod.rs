//! A text under a model: its tokens, and what is measured of it.

pub mod divergence;
pub mod metrics;
pub mod perplexity;
pub mod text;
pub(crate) mod vocabulary;
