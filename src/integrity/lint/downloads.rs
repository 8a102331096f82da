//! Downloads that went wrong: files that are mostly holes, and what no other part of lint reads (GGUF files, tokenizer
//! models and templates).

use super::check::Check;
use super::folder::File;
use super::observation::Found;
use crate::checkpoint::stand_in::StandIn;
use crate::escape::printable;
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
    let open = files::open_regular(&file.path).ok()?;
    if let Some(holes) = StandIn::of_file(&open, &file.path).ok()? {
        return Some(holes);
    }
    let lower = file.name.to_ascii_lowercase();
    let (is_binary, is_template) = (lower.ends_with(".gguf") || lower.ends_with(".model"), lower.ends_with(".jinja"));
    if !is_binary && !is_template {
        return None;
    }
    let mut bytes = Vec::new();
    open.take(BEGINNING).read_to_end(&mut bytes).ok()?;
    match is_binary {
        // tiktoken's vocabularies are text, and are called so, too.
        true => StandIn::of_binary(&bytes).filter(|_| !begins_with_a_rank(&bytes)),
        // A template may be empty, or of a web page.
        false => StandIn::of_text(&bytes).filter(|found| matches!(found, StandIn::Pointer(_))),
    }
}

/// Whether the first line is one of tiktoken's: a token in base64, and its number.
fn begins_with_a_rank(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let Some(blank) = line.iter().position(|b| *b == b' ') else { return false };
    let (token, rank) = (&line[..blank], line[blank + 1..].trim_ascii_end());
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
    token.len().is_multiple_of(4)
        && token.iter().all(is_base64)
        && !rank.is_empty()
        && rank.iter().all(u8::is_ascii_digit)
}

/// Enough of a file to tell what it is.
const BEGINNING: u64 = 4096;
