//! Cells of a study's tables.

use super::table::number;
use crate::study::Cell;

/// A cell for people.
pub(super) fn shown_cell(cell: &Cell) -> String {
    match cell {
        Cell::Count(count) => count.to_string(),
        Cell::Number(value) => number(*value),
        Cell::Text(text) => text.clone(),
        Cell::Nothing => "–".into(),
    }
}
