//! Finds the handful of neurons a language model cannot do without, and audits checkpoints before release.
//!
//! The method is that of *The Achilles' Heel of LLMs: How Altering a Handful of Neurons Can Cripple Language
//! Abilities* (arXiv 2510.10238).

pub mod architecture;
pub mod audit;
pub mod checkpoint;
mod clock;
pub mod compare;
pub mod compute;
pub mod document;
pub mod error;
pub mod escape;
pub mod evaluate;
pub mod files;
mod glob;
pub mod integrity;
pub mod locate;
pub mod monitor;
pub mod neuron;
pub mod patch;
pub mod probe;
pub mod progress;
pub mod report;
pub mod rules;
pub mod tool;
pub mod worker;

pub use error::{Error, Result};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
