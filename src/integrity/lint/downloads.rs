//! Downloads that went wrong, of what no other part of lint reads: what is not finished, by its name, GGUF files,
//! tokenizer models and templates.

use super::check::Check;
use super::folder::File;
use super::observation::Found;
use crate::checkpoint::stand_in::{StandIn, unfinished};
use crate::error::printable;
use crate::files;
use serde_json::json;
use std::io::Read;

/// Where the hub's client keeps what it has not finished; it takes it up again by itself.
const HUB: &str = ".cache/huggingface/";

/// What a checkpoint's files end in.
const ENDS: &[&str] = &[".safetensors", ".gguf", ".bin", ".json", ".model", ".jinja", ".txt"];

pub(super) fn examine(all: &[File], found: &mut Found) {
    for file in all.iter().filter(|file| !file.name.starts_with(HUB)) {
        let whole = unfinished(&file.name).filter(|whole| ENDS.iter().any(|end| whole.ends_with(end)));
        if let Some(whole) = whole {
            let beside = match all.iter().any(|other| other.name == whole) {
                true => format!("; {whole:?} lies beside it and may not be whole"),
                false => String::new(),
            };
            let message = format!("is what a download leaves that was not finished{beside}");
            found.add(Check::UnfinishedDownload, file.location(), message, json!({"of": whole}));
        }
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
