//! The static half of the audit: what can be said of a checkpoint without running it. It measures; how bad what it
//! finds is, the rules say.

mod decoded;
pub mod diff;
pub mod difference;
pub mod document;
pub mod fingerprint;
pub mod lesion;
pub mod lint;
pub mod published;
pub mod receipt;
pub mod signature;
pub mod verify;

pub use lint::lint;

#[cfg(test)]
mod pack;
#[cfg(test)]
mod packed_tests;

#[cfg(test)]
mod gguf_tests;
