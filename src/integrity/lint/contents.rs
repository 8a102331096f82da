//! What single files hold, whatever their names: pickles, JSON, chat templates.

use super::added::{ADDED_TOKENS, SPECIAL_TOKENS};
use super::check::Check;
use super::folder::{File, is_native, is_python, is_script};
use super::header::FolderShard;
use super::json::{self, Facts};
use super::observation::{Found, Location, Observation};
use super::pickle::{self, Content};
use super::template::{self, Hit, HitKind};
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::python_json;
use crate::checkpoint::snapshot::Blob;
use crate::checkpoint::stand_in::StandIn;
use crate::checkpoint::{GENERATION_CONFIG, TOKENIZER_CONFIG};
use crate::error::{Error, Result};
use crate::files;
use crate::files::kind::is_pickle_name;
use crate::files::kind::{is_keras, is_other_weights};
use crate::progress::Progress;
use rayon::prelude::*;
use serde::de::IgnoredAny;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::io::{Cursor, Read, Seek};

/// Larger text is not a chat template or a config: it would only take time.
const LARGEST_TEXT: u64 = 256 << 20;
/// Settings that are read whole.
const SETTINGS: [&str; 4] = [GENERATION_CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS];

/// The bytes that are examined of a file.
fn largest(name: &str) -> u64 {
    match SETTINGS.contains(&name) || name.ends_with(".jinja") {
        true => python_json::LARGEST,
        false => LARGEST_TEXT,
    }
}

/// `is_told`: whether others tell of a file of settings that is not valid.
pub(super) fn examine(all: &[File], shards: &[FolderShard], is_told: &dyn Fn(&str) -> bool, found: &mut Found) {
    let names: HashSet<&str> = all.iter().map(|file| file.name.as_str()).collect();
    let shards = by_name(shards);
    let mut texts = Vec::new();
    for file in all {
        let content = match shards.get(file.name.as_str()).map(|shard| shard.map()) {
            None => files::open_regular(&file.path).and_then(|open| recognize(file, open)),
            Some(Some(map)) => recognize(file, Cursor::new(map.bytes())),
            // That was told.
            Some(None) => continue,
        };
        // What a header can be read of is no archive, whatever the first bytes, which are its length.
        let is_shard = shards.get(file.name.as_str()).is_some_and(|shard| shard.is_readable());
        match content {
            Ok(Some(Content::Packed(_))) if is_shard => continue,
            Ok(content) => packed(file, content, &names, found),
            Err(e) => {
                unreadable(file, &e, found);
                continue;
            }
        }
        if !is_json(file) && !file.name.ends_with(".jinja") {
            continue;
        }
        if file.bytes > largest(&file.name) {
            found.say(Check::FileUnreadable, file.location(), format!("has {} bytes and was not examined", file.bytes));
            continue;
        }
        texts.push(file);
    }
    let others = Others { is_there: &|name: &str| names.contains(name), is_told };
    for same in by_identity(texts) {
        let Some(first) = same.first() else { continue };
        let map = match MappedFile::open(&first.path) {
            Ok(map) => map,
            Err(e) => {
                same.iter().for_each(|file| unreadable(file, &e, found));
                continue;
            }
        };
        let judged = if is_json(first) { Judged::of_json(map.bytes()) } else { Judged::of_template(map.bytes()) };
        same.iter().for_each(|file| judged.tell(&file.name, map.bytes(), &others, found));
    }
}

fn is_json(file: &File) -> bool {
    file.name.ends_with(".json")
}

fn unreadable(file: &File, e: &Error, found: &mut Found) {
    found.say(Check::FileUnreadable, file.location(), format!("cannot be read: {e}"));
}

/// Files of the same kind that are one file by several names or links: it is read once.
fn by_identity(texts: Vec<&File>) -> Vec<Vec<&File>> {
    let mut groups: Vec<Vec<&File>> = Vec::new();
    let mut places = HashMap::new();
    for file in texts {
        let identity = std::fs::metadata(&file.path).ok().and_then(|about| files::identity(&about));
        let here = groups.len();
        let place = identity.map_or(here, |identity| *places.entry((identity, is_json(file))).or_insert(here));
        match groups.get_mut(place) {
            Some(group) => group.push(file),
            None => groups.push(vec![file]),
        }
    }
    groups
}

fn by_name<'s, 'f>(shards: &'s [FolderShard<'f>]) -> HashMap<&'s str, &'s FolderShard<'f>> {
    shards.iter().map(|shard| (shard.file.name.as_str(), shard)).collect()
}

fn recognize(file: &File, open: impl Read + Seek) -> Result<Option<Content>> {
    pickle::recognize(open).map_err(Error::io(&file.path))
}

/// Compares files of the hub's cache with the digests that they are named by.
pub(super) fn blobs(all: &[File], shards: &[FolderShard], found: &mut Found, progress: &dyn Progress) -> Result<()> {
    let blobs: Vec<(&File, &Blob)> = all.iter().filter_map(|file| Some((file, file.blob.as_ref()?))).collect();
    if blobs.is_empty() {
        return Ok(());
    }
    progress.begin("blobs", blobs.iter().map(|(file, _)| file.bytes).sum(), "bytes");
    let shards = by_name(shards);
    let check = |(file, blob): &(&File, &Blob)| {
        progress.advance(file.bytes)?;
        Ok(match shards.get(file.name.as_str()).and_then(|shard| shard.map()) {
            Some(map) => blob.damage_of(map.bytes().len() as u64, map.bytes()),
            None => blob.damage(None),
        })
    };
    let problems = blobs.par_iter().with_max_len(1).map(check).collect::<Result<Vec<_>>>()?;
    progress.end();
    for ((file, _), problem) in blobs.iter().zip(problems) {
        match problem {
            Ok(None) => {}
            Ok(Some(problem)) => found.say(Check::BlobDigest, file.location(), problem),
            Err(e) => found.say(Check::FileUnreadable, file.location(), format!("cannot be read: {e}")),
        }
    }
    Ok(())
}

/// What a file may hold that runs, by its content and by its name.
fn packed(file: &File, content: Option<Content>, names: &HashSet<&str>, found: &mut Found) {
    let lower = file.name.to_ascii_lowercase();
    let is_here = |name: &str| names.contains(name);
    if content.is_none() && is_openvino(&file.name, &is_here) {
        let message = "holds the numbers of a conversion of the model (OpenVINO), which was not examined";
        return found.say(Check::ConvertedModel, file.location(), message);
    }
    let named = is_pickle_name(&file.name);
    let (check, message) = match content {
        Some(Content::Pickle(kind)) => (Check::PickleFile, format!("is {kind} by its content")),
        Some(Content::Packed(how)) if named => (Check::PickleFile, format!("is a pickle by its name, and {how}")),
        Some(Content::Native(form)) if !is_native(&file.name) => {
            (Check::NativeCode, format!("is compiled code ({form}) by its content"))
        }
        Some(Content::Script) if !is_script(&file.name) && !is_python(&lower) => {
            (Check::Script, "is a script by its first line".to_owned())
        }
        Some(Content::Key) => (Check::SecretFile, "holds a private key by its content".to_owned()),
        Some(Content::Hdf5) if !is_keras(&lower) => {
            (Check::KerasFile, "is a Keras or HDF5 model by its content".to_owned())
        }
        Some(Content::Packed(how)) if !is_keras(&lower) && !is_other_weights(&lower) => {
            (Check::PackedFile, format!("is {how}, and was not unpacked"))
        }
        None if named => {
            (Check::PickleFile, "is a pickle by its name; its content is not one that was recognized".to_owned())
        }
        _ => return,
    };
    let content = match content {
        Some(Content::Pickle(kind) | Content::Packed(kind) | Content::Native(kind)) => Some(kind),
        _ => None,
    };
    found.add(check, file.location(), message, json!({"content": content}));
}

/// OpenVINO keeps plain numbers in NAME.bin and what they mean in NAME.xml.
pub(super) fn is_openvino(name: &str, is_here: &dyn Fn(&str) -> bool) -> bool {
    name.strip_suffix(".bin").is_some_and(|stem| is_here(&format!("{stem}.xml")))
}

/// Examines a JSON file's bytes as lint does: duplicate keys, `auto_map`, chat templates.
pub fn json(name: &str, bytes: &[u8]) -> Vec<Observation> {
    let mut found = Found::default();
    let others = Others { is_there: &|_| false, is_told: &|_| false };
    Judged::of_json(bytes).tell(name, bytes, &others, &mut found);
    found.finish().0
}

/// What is known of other files of the folder.
struct Others<'a> {
    is_there: &'a dyn Fn(&str) -> bool,
    is_told: &'a dyn Fn(&str) -> bool,
}

/// What a text file holds, whatever its names.
#[derive(Default)]
struct Judged {
    facts: Facts,
    /// Why it is not JSON, where it should be.
    invalid: Option<String>,
    /// What its templates use: the path to the template, the line, and what it is.
    hits: Vec<(String, usize, Hit)>,
}

impl Judged {
    fn of_json(bytes: &[u8]) -> Judged {
        match json::examine(bytes) {
            Ok(mut facts) => {
                let templates = std::mem::take(&mut facts.templates);
                let hits = templates.into_iter().flat_map(|(path, text)| hits(&path, &text)).collect();
                Judged { facts, invalid: None, hits }
            }
            Err(e) => Judged { invalid: Some(e.to_string()), ..Judged::default() },
        }
    }

    fn of_template(bytes: &[u8]) -> Judged {
        Judged { hits: hits("", &String::from_utf8_lossy(bytes)), ..Judged::default() }
    }

    /// Tells of the file by one of its names.
    fn tell(&self, name: &str, bytes: &[u8], others: &Others, found: &mut Found) {
        let at = || Location::file(name);
        let facts = &self.facts;
        match &self.invalid {
            None => {}
            // Other checks tell of a config or an index that is not valid.
            Some(_) if (others.is_told)(name) => return,
            Some(e) => {
                return match StandIn::of_text(bytes) {
                    Some(stand_in) => found.say(Check::NotDownloaded, at(), stand_in.to_string()),
                    None => found.say(Check::JsonInvalid, at(), format!("is not valid JSON: {e}")),
                };
            }
        }
        if SETTINGS.contains(&name)
            && let Err(e) = python_json::parse::<IgnoredAny>(&String::from_utf8_lossy(bytes))
        {
            found.say(Check::FileUnreadable, at(), format!("was not examined: {e}"));
        }
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
            custom_code(target, name, others.is_there, found);
        }
        for kernel in &facts.kernels {
            let message = format!("names {kernel:?}, from where transformers fetches code to run in place of its own");
            found.add(Check::CustomCodeRemote, at(), message, json!({"kernels": kernel}));
        }
        for (path, line, hit) in &self.hits {
            uses(path, *line, hit, at(), found);
        }
        if facts.not_kept > 0 {
            let message = "texts below auto_map or chat_template were not examined: there are too many of them";
            found.say(Check::FileUnreadable, at(), format!("{} {message}", facts.not_kept));
        }
    }
}

/// Code that an `auto_map` names: `module.Class` of this folder, or `org/name--module.Class` of another repository.
fn custom_code(target: &str, name: &str, is_there: &dyn Fn(&str) -> bool, found: &mut Found) {
    let says = format!("auto_map names {target:?}, code to run in place of the library's");
    let (check, message) = match target.split_once("--") {
        Some((repository, _)) => {
            (Check::CustomCodeRemote, format!("{says}, from the repository {repository:?}, as it is when it is loaded"))
        }
        None => {
            let folder = name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
            let module = target.rsplit_once('.').map_or(target, |(module, _)| module).replace('.', "/");
            let file = format!("{folder}{module}.py");
            match is_there(&file) {
                true => (Check::CustomCode, format!("{says}, in {file}")),
                false => (Check::CustomCodeMissing, format!("{says}, and {file} is not there")),
            }
        }
    };
    found.add(check, Location::file(name), message, json!({"auto_map": target}));
}

/// What a template uses, with the path to it and the lines.
fn hits(path: &str, text: &str) -> Vec<(String, usize, Hit)> {
    let line = |hit: &Hit| 1 + text.get(..hit.offset).map_or(0, |before| before.matches('\n').count());
    template::examine(text).into_iter().map(|hit| (path.to_owned(), line(&hit), hit)).collect()
}

fn uses(name: &str, line: usize, hit: &Hit, location: Location, found: &mut Found) {
    let check = match hit.kind {
        HitKind::Internal => Check::TemplateDunder,
        HitKind::AttrFilter => Check::TemplateAttr,
        HitKind::Computed => Check::TemplateComputed,
        HitKind::Loads => Check::TemplateLoads,
    };
    let of = if name.is_empty() { String::new() } else { format!(" of {name}") };
    let message = format!("line {line} of the template{of} uses {}", hit.what.escape_debug());
    found.add(check, location, message, json!({"name": hit.what, "line": line}));
}
