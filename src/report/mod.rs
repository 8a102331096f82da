//! One result, rendered: one small file a format, or a kind of document.

pub mod compare;
pub mod differences;
pub mod findings;
pub mod html;
pub mod hub;
pub mod json;
pub mod judged;
pub mod junit;
pub mod monitor;
pub mod perplexity;
pub mod probe;
pub mod rules;
pub mod sarif;
pub mod scan;
mod show;
pub mod signature;
pub mod table;

pub use judged::Judged;
pub use show::{Show, ShowFindings};
