//! One result, rendered: one small file a format, or a kind of document.
//!
//! A new format of reports is a file with a [`Renderer`] and its line in [`RENDERERS`].

mod cell;
pub mod compare;
pub mod cyclonedx;
pub mod differences;
pub mod estimate;
pub mod findings;
pub mod fingerprint;
pub mod harden;
pub mod html;
pub mod hub;
pub mod ignore_list;
pub mod json;
pub mod judged;
pub mod junit;
mod markdown;
pub mod monitor;
pub mod perplexity;
pub mod probe;
pub mod rules;
pub mod sarif;
pub mod scan;
mod short;
mod show;
pub mod signature;
pub mod study;
pub mod table;
pub mod weights;

pub use judged::Judged;
pub use show::{Show, ShowFindings, ShowJson};

use crate::error::Result;

/// A form of reports of findings.
#[derive(Debug)]
pub struct Renderer {
    /// What `--format` calls it.
    pub name: &'static str,
    /// What it is for, in the words of `--help`.
    pub about: &'static str,
    /// Makes the whole text of the report.
    pub render: fn(&dyn ShowFindings) -> Result<String>,
}

/// Every form; the first is the usual one.
pub const RENDERERS: &[Renderer] = &[
    Renderer { name: "table", about: "For people", render: |document| Ok(document.table()) },
    Renderer { name: "json", about: "For programs", render: |document| document.json() },
    sarif::RENDERER,
    junit::RENDERER,
    html::RENDERER,
    markdown::RENDERER,
];
