//! Chat templates (Jinja) that reach for Python's internals, or for other files.
//!
//! Only expressions and statements count: what is text, raw or a comment is printed or dropped and reaches nothing.
//! What is looked for in them are attributes and subscripts that Jinja's own sandbox refuses, strings that become such
//! names when they are joined or repeated, through variables too (`'__cla' ~ 'ss__'`, `['__', 'class', '__'] | join`,
//! `u = '_' * 2`), and names that are put together at run time in other ways, whatever they become.

mod asked;
mod lex;
mod made;
mod names;
mod scan;
mod unusual;

pub use asked::{TemplateNames, asked};
pub use unusual::unusual;

use lex::{Token, lex};
use scan::Scan;
use std::collections::BTreeSet;

/// A suspicious piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    /// Where, in bytes.
    pub offset: usize,
    /// The name, or what it is in words.
    pub what: String,
    pub kind: HitKind,
}

/// What a hit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HitKind {
    /// A name that leads to Python's internals.
    Internal,
    /// The filter `attr`.
    AttrFilter,
    /// The name of an attribute that is put together at run time.
    Computed,
    /// Another template is loaded.
    Loads,
}

/// Strings that a template holds, once each: those that are joined as they are and as one.
pub fn literals(template: &str) -> BTreeSet<String> {
    let (mut all, mut joined) = (BTreeSet::new(), String::new());
    lex(template, &mut |_, token| match token {
        Token::Text(text) => {
            joined.push_str(&text);
            all.insert(text);
        }
        Token::Other(c) if "~+()".contains(c) => {}
        _ => {
            all.insert(std::mem::take(&mut joined));
        }
    });
    all.insert(joined);
    all
}

/// Every suspicious piece, in order; of very many the first hundred that are met.
pub(super) fn examine(template: &str) -> Vec<Hit> {
    let mut scan = Scan::default();
    lex(template, &mut |offset, token| scan.token(offset, token));
    scan.hits.0.sort_by_key(|h| h.offset);
    scan.hits.0
}

#[cfg(test)]
mod tests;
