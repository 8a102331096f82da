//! Downloads that went wrong, of what no other part of lint reads: what is not finished, by its name, and GGUF files.

use super::check::Check;
use super::folder::File;
use super::observation::Found;
use crate::checkpoint::stand_in::{StandIn, unfinished};
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
        if file.name.to_ascii_lowercase().ends_with(".gguf")
            && let Some(stand_in) = beginning(file).and_then(|bytes| StandIn::of_binary(&bytes))
        {
            found.say(Check::NotDownloaded, file.location(), stand_in.to_string());
        }
    }
}

fn beginning(file: &File) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    files::open_regular(&file.path).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
