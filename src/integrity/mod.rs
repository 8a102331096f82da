//! What can be said of a checkpoint without running it.

pub mod signature;
pub mod walk;
