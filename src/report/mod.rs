//! One result, rendered: one small file a format.

pub mod differences;
pub mod json;
pub mod table;
