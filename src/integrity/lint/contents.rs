//! What single files hold, whatever their names: pickles, JSON, chat templates.

use super::check::Check;
use super::folder::File;
use super::observation::{Found, Location, Observation};
use super::{json, template};
use crate::checkpoint::index::INDEX;
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::stand_in::StandIn;
use crate::error::{Error, Result};
use crate::files;
use serde_json::json;
use std::io::{Read, Seek, SeekFrom};

/// Larger text is not a chat template or a config: it would only take time.
const LARGEST_TEXT: u64 = 256 << 20;

pub(super) fn examine(all: &[File], found: &mut Found) {
    for file in all {
        let told = |e: Error, found: &mut Found| {
            found.say(Check::FileUnreadable, file.location(), format!("cannot be read: {e}"));
        };
        match ends(file) {
            Ok(ends) => pickle(file, &ends, found),
            Err(e) => {
                told(e, found);
                continue;
            }
        }
        let is_json = file.name.ends_with(".json");
        if !is_json && !file.name.ends_with(".jinja") {
            continue;
        }
        if file.bytes > LARGEST_TEXT {
            found.say(Check::FileUnreadable, file.location(), format!("has {} bytes and was not examined", file.bytes));
            continue;
        }
        match MappedFile::open(&file.path) {
            Err(e) => told(e, found),
            Ok(map) if is_json => of_json(&file.name, map.bytes(), found),
            Ok(map) => of_template(&String::from_utf8_lossy(map.bytes()), file.location(), "", found),
        }
    }
}

/// The first and last bytes of a file.
struct Ends {
    first: Vec<u8>,
    last: Vec<u8>,
}

fn ends(file: &File) -> Result<Ends> {
    const FIRST: u64 = 4096;
    let io = || Error::io(&file.path);
    let mut open = files::open_regular(&file.path)?;
    let mut first = Vec::new();
    open.by_ref().take(FIRST).read_to_end(&mut first).map_err(io())?;
    let mut last = Vec::new();
    open.seek(SeekFrom::Start(file.bytes.saturating_sub(1))).map_err(io())?;
    open.take(1).read_to_end(&mut last).map_err(io())?;
    Ok(Ends { first, last })
}

fn pickle(file: &File, ends: &Ends, found: &mut Found) {
    let by_name = [".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"];
    let lower = file.name.to_ascii_lowercase();
    let content = pickle_kind(ends);
    let message = match content {
        Some(kind) => format!("is {kind} by its content"),
        None if by_name.iter().any(|end| lower.ends_with(end)) => {
            "is a pickle by its name; its content is not one that was recognized".to_owned()
        }
        None => return,
    };
    found.add(Check::PickleFile, file.location(), message, json!({"content": content}));
}

/// What kind of pickle it is, if it is one.
fn pickle_kind(ends: &Ends) -> Option<&'static str> {
    let first = ends.first.as_slice();
    // PyTorch's zip: its first entry is NAME/data.pkl.
    if first.starts_with(b"PK\x03\x04") && first.windows(4).any(|w| w == b".pkl") {
        return Some("a zip with a pickle, as torch.save writes it,");
    }
    // Protocols 2 to 5 begin with PROTO and the version; 4 and 5 go on with a frame. A tensor file's length could look
    // like the first two bytes, so the next must be an opcode that begins a value.
    if let [0x80, version @ 2..=5, next, ..] = first
        && (*next == 0x95 || *version < 4 || ends.last == b".")
        && b"\x95\x8a\x8b}](c)NKJMXUVGILST\x88\x89\x8c\x8e\x8d\x8f\x91BC".contains(next)
    {
        return Some("a pickle");
    }
    // Protocol 0 and 1 that import something at once: `cMODULE\nNAME\n`, and STOP at the end.
    let mut lines = first.strip_prefix(b"c")?.splitn(3, |b| *b == b'\n');
    let (module, name, rest) = (lines.next()?, lines.next()?, lines.next()?);
    let plain =
        |part: &[u8]| !part.is_empty() && part.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'));
    let goes_on = rest.first().is_some_and(|b| b"(pq)tVSIKX}]".contains(b));
    (plain(module) && plain(name) && goes_on && ends.last == b".").then_some("a pickle")
}

/// Examines a JSON file's bytes as lint does: duplicate keys, `auto_map`, chat templates.
pub fn json(name: &str, bytes: &[u8]) -> Vec<Observation> {
    let mut found = Found::default();
    of_json(name, bytes, &mut found);
    found.finish().0
}

fn of_json(name: &str, bytes: &[u8], found: &mut Found) {
    let at = || Location::file(name);
    let facts = match json::examine(bytes) {
        Ok(facts) => facts,
        // Other checks tell of a config or an index that is not valid.
        Err(_) if ["config.json", INDEX].contains(&name) => return,
        Err(e) => {
            return match StandIn::of_text(bytes) {
                Some(stand_in) => found.say(Check::NotDownloaded, at(), stand_in.to_string()),
                None => found.say(Check::JsonInvalid, at(), format!("is not valid JSON: {e}")),
            };
        }
    };
    if facts.departure.byte_order_mark {
        let message = "begins with a byte order mark, at which transformers stops; save it without one";
        found.say(Check::JsonNonstandard, at(), message);
    }
    if facts.departure.not_finite {
        let message = "holds Infinity or NaN, which is not JSON; Python reads it";
        found.say(Check::JsonNonstandard, at(), message);
    }
    for key in &facts.duplicates {
        found.say(Check::JsonDuplicateKey, at(), format!("has the key {key:?} twice"));
    }
    // A tokenizer can have a token of that name.
    for target in facts.auto_map.iter().filter(|_| !name.ends_with("tokenizer.json")) {
        let message = format!("auto_map names {target:?}, code to run in place of the library's");
        found.add(Check::CustomCode, at(), message, json!({"auto_map": target}));
    }
    for (path, text) in &facts.templates {
        of_template(text, at(), path, found);
    }
}

fn of_template(text: &str, location: Location, name: &str, found: &mut Found) {
    for hit in template::examine(text) {
        let check = if hit.by_filter { Check::TemplateAttr } else { Check::TemplateDunder };
        let of = if name.is_empty() { String::new() } else { format!(" of {name}") };
        let line = 1 + text.get(..hit.offset).map_or(0, |before| before.matches('\n').count());
        let message = format!("line {line} of the template{of} uses {}", hit.what.escape_debug());
        found.add(check, location.clone(), message, json!({"name": hit.what, "line": line}));
    }
}

#[cfg(test)]
mod tests {
    use super::{Ends, pickle_kind};

    #[test]
    fn pickles_are_known_by_their_content() {
        let kind = |bytes: &[u8]| {
            let last = bytes.last().map(|b| vec![*b]).unwrap_or_default();
            pickle_kind(&Ends { first: bytes.to_vec(), last }).is_some()
        };
        // As Python writes them: pickle.dumps([1], protocol), torch.save and os.system in protocol 0.
        assert!(kind(b"\x80\x02]q\x00K\x01a."));
        assert!(kind(b"\x80\x03]q\x00K\x01a."));
        assert!(kind(b"\x80\x04\x95\x06\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a."));
        assert!(kind(b"\x80\x05\x95\x06\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a."));
        assert!(kind(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."));
        assert!(kind(b"PK\x03\x04\x00\x00\x08\x08archive/data.pklFB"));
        assert!(kind(b"cos\nsystem\n(S'echo'\ntR."));
        for other in [
            &b"{}"[..],
            b"",
            b"\x80",
            b"\x80\x02",
            b"PK\x03\x04\x00\x00config.json",
            b"cat\nsat\nmat.",
            b"\x80\x02\x00\x00\x00\x00\x00\x00{}",
        ] {
            assert!(!kind(other), "{other:?}");
        }
    }
}
