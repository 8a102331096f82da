//! Which commit of a hub repository something was, for people.

use super::short::short;
use crate::checkpoint::hub::Origin;
use std::fmt::Write;

/// The commit, and what was not examined of it, a line each; nothing of what is from no hub.
pub fn lines(origin: Option<&Origin>, not_examined: &[String]) -> String {
    let mut out = String::new();
    if let Some(origin) = origin {
        let _ = writeln!(out, "{}", short(&origin.to_string()));
    }
    for why in not_examined {
        let _ = writeln!(out, "NOT EXAMINED: {}", short(why));
    }
    out
}
