//! Text of a checkpoint, short enough to be shown among other things.

use crate::escape::printable;

/// What a checkpoint says of itself must not drive the terminal, nor fill it.
pub(super) fn short(text: &str) -> String {
    const LONGEST: usize = 240;
    let start: String = text.chars().take(LONGEST + 1).collect();
    let mut shown = printable(&start);
    if shown.chars().count() > LONGEST {
        shown = shown.chars().take(LONGEST - 1).chain(['…']).collect();
    }
    shown
}
