//! The static half of the audit: what can be said of a checkpoint without running it. It measures; how bad what it
//! finds is, [`crate::finding`] says.

pub mod lint;

pub use lint::lint;
