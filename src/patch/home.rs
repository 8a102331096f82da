//! The folder that a model lies in, opened once, and what is kept of its patch there.

use super::receipt::Receipt;
use crate::error::Result;
use crate::files::{self, OpenFolder};
use crate::integrity::receipt::Kept;
use std::fs::File;
use std::path::Path;

/// Where a model is changed.
#[derive(Debug)]
pub(super) struct Home {
    pub open: OpenFolder,
    pub kept: Kept,
}

impl Home {
    pub fn of(model: &Path) -> Result<Home> {
        let kept = Kept::of(model);
        Ok(Home { open: OpenFolder::open(&kept.folder)?, kept })
    }

    /// Opens a file of the model to be changed where it lies.
    pub fn change(&self, name: &str) -> Result<File> {
        self.open.change(name)
    }

    /// As [`Receipt::read`], of a model that is to be changed: the receipt has to be a file of its own.
    pub fn receipt(&self) -> Result<Option<Receipt>> {
        let path = self.kept.receipt_path();
        let Some(file) = self.open.read(&self.kept.receipt)? else { return Ok(None) };
        Ok(Some(Receipt::parse(&path, &files::read_open(&file, &path, files::LARGEST_READ)?)?))
    }
}
