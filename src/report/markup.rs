//! Text within markup.

use crate::error::printable;

/// Text as XML 1.0 and HTML take it, in an element or in a quoted attribute. What is not printable (controls, what turns
/// the direction of writing around) is shown as Rust escapes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
