//! One result, rendered: one small file a format.

pub mod compare;
pub mod differences;
pub mod findings;
pub mod html;
pub mod hub;
pub mod json;
pub mod junit;
pub mod monitor;
pub mod probe;
pub mod rules;
pub mod sarif;
pub mod scan;
pub mod table;
