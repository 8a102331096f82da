//! How long jobs tell where they are and learn that they should stop. The library itself prints nothing.

use crate::error::Result;

/// Receives the steps of a long job. Every method has a default that does nothing.
pub trait Progress: Sync {
    /// A stage of `total` steps begins; `unit` says what a step is (`rows`, `bytes`).
    fn begin(&self, stage: &str, total: u64, unit: &'static str) {
        let _ = (stage, total, unit);
    }

    /// `steps` more are done.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted) where the user asked to stop: the job then drops what it
    /// has not finished.
    fn advance(&self, steps: u64) -> Result<()> {
        let _ = steps;
        Ok(())
    }

    /// The stage is over.
    fn end(&self) {}
}

/// Progress that nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}
