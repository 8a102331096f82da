//! One result, rendered: one small file a format.

pub mod differences;
pub mod findings;
pub mod json;
pub mod monitor;
pub mod table;
