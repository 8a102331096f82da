//! Bakes masks and β-scaling of neurons into a checkpoint's weights: a plan of byte edits.

mod edit;
mod number;

pub use edit::{Edit, Plan, Rounding, Span};
