//! Downloads that went wrong, of what no other part of lint reads: GGUF files, tokenizer models and templates.

use super::check::Check;
use super::folder::File;
use super::observation::Found;
use crate::checkpoint::stand_in::StandIn;
use crate::error::printable;
use crate::files;
use std::io::Read;

pub(super) fn examine(all: &[File], found: &mut Found) {
    for file in all {
        if let Some(stand_in) = stand_in(file) {
            found.say(Check::NotDownloaded, file.location(), printable(&stand_in.to_string()));
        }
    }
}

/// What lies in the place of a file that no other part of lint knows the form of.
fn stand_in(file: &File) -> Option<StandIn> {
    let lower = file.name.to_ascii_lowercase();
    let (is_binary, is_template) = (lower.ends_with(".gguf") || lower.ends_with(".model"), lower.ends_with(".jinja"));
    if !is_binary && !is_template {
        return None;
    }
    let mut bytes = Vec::new();
    files::open_regular(&file.path).ok()?.take(BEGINNING).read_to_end(&mut bytes).ok()?;
    match is_binary {
        true => StandIn::of_binary(&bytes),
        // A template may be empty, or of a web page.
        false => StandIn::of_text(&bytes).filter(|found| matches!(found, StandIn::Pointer(_))),
    }
}

/// Enough of a file to tell what it is.
const BEGINNING: u64 = 4096;
