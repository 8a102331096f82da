//! Texts of a Parquet file, read by a [`worker`](crate::worker).

use super::Reading;
use crate::error::Result;
use crate::worker::{Request, Response, Worker};
use std::path::Path;

/// Adds the texts of a file to others, as far as they are needed.
pub(super) fn add_texts(path: &Path, reading: &Reading, texts: &mut Vec<String>) -> Result<()> {
    let worker = Worker::new(path, "give another file, or a column by --column");
    let request = Request::Parquet { path: path.into(), column: reading.column().into() };
    match worker.ask(&request)? {
        Response::Ready => {}
        other => return Err(worker.astray(&other)),
    }
    while !reading.is_enough(texts) {
        match worker.ask(&Request::NextTexts)? {
            Response::Texts(more) if more.is_empty() => break,
            Response::Texts(more) => texts.extend(more),
            other => return Err(worker.astray(&other)),
        }
    }
    Ok(())
}
