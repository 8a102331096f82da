//! One result, rendered: one small file a format.

pub mod json;
pub mod table;
