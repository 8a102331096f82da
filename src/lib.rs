//! Finds the handful of neurons a language model cannot do without, bakes masks or scalings of them into checkpoints,
//! and audits checkpoints before release.
//!
//! The method is that of *The Achilles' Heel of LLMs: How Altering a Handful of Neurons Can Cripple Language
//! Abilities* (arXiv 2510.10238).
//!
//! ```no_run
//! use achilles_audit::evaluate::{metrics, text::REFERENCE_TEXT};
//! use achilles_audit::progress::Silent;
//! use achilles_audit::{Checkpoint, Intervention, Model, Recipe, Row, Tokenizer};
//!
//! # fn main() -> achilles_audit::Result<()> {
//! let checkpoint = Checkpoint::open("org/name", &Silent)?;
//! let recipe = Recipe::read(checkpoint.config())?;
//! let text = Tokenizer::of(&checkpoint)?.encode(REFERENCE_TEXT)?;
//! let model = Model::new(checkpoint, recipe, &Default::default(), &Silent)?;
//! let mask = vec![Intervention::zero("L11.mlp.down_proj:out:507".parse()?)];
//! let rows = [Row::clean(text.ids.clone()), Row::with(text.ids, mask)];
//! println!("NLL with and without the neuron: {:?}", metrics::nlls(&model, &rows, &Silent)?);
//! # Ok(())
//! # }
//! ```
//!
//! Tokenizers and chat templates come with the checkpoint and are run in a child process with limits: a program that
//! uses them calls [`worker::serve_if_asked`] first in `main`.
//!
//! # Where to begin
//!
//! | to | take |
//! |---|---|
//! | open a model | [`Checkpoint`], its [`Recipe`] and [`Tokenizer`] |
//! | compute with it | [`Model`] over [`Row`]s with [`Intervention`]s on [`Neuron`]s, watched by a [`Hook`] |
//! | find its critical set | [`locate::locate`]; [`compare`] it with a base's, [`probe`] and [`monitor`] what it does |
//! | change its weights | a [`Plan`] of edits: [`patch`] |
//! | examine its files | [`integrity`], and a [`Fingerprint`] |
//! | decide whether it may ship | [`audit()`] by [`Rules`], shown by [`report`] |
//!
//! Below these are what they stand on: [`architecture`], [`checkpoint`], [`compute`] and [`evaluate`] of a model;
//! [`document`] and [`tool`] of results; [`error`], [`escape`], [`files`], [`progress`] and [`worker`] of the process.

pub mod architecture;
pub mod audit;
pub mod checkpoint;
mod clock;
pub mod compare;
pub mod compute;
pub mod document;
pub mod error;
pub mod escape;
pub mod evaluate;
pub mod files;
mod glob;
pub mod harden;
pub mod integrity;
pub mod locate;
pub mod monitor;
pub mod neuron;
pub mod patch;
pub mod probe;
pub mod progress;
pub mod report;
pub mod rules;
pub mod study;
pub mod tool;
pub mod worker;

pub use architecture::Recipe;
pub use audit::audit;
pub use checkpoint::Checkpoint;
pub use compute::{Hook, Model, Row};
pub use error::{Error, Result};
pub use evaluate::text::Tokenizer;
pub use integrity::fingerprint::Fingerprint;
pub use neuron::{Intervention, Neuron};
pub use patch::Plan;
pub use rules::Rules;

/// The example of docs/library.md compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
struct Library;
