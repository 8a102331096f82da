//! What can be said of a checkpoint without running it.

pub mod lesion;
