//! GGUF files: the header's rules, what lies between the tensors, the tensors against the metadata and their peers, the
//! vocabulary, and the values that blocks stand for. What they are served with (tokenizer, chat template) is examined
//! as that of the folder that an import makes of them.

mod layout;
mod tensors;
#[cfg(test)]
mod tests;
mod values;
mod vocabulary;

use super::observation::{Found, Location};
use super::{Examined, Lint, folder};
use crate::checkpoint::Opened;
use crate::checkpoint::gguf::GgufFile;
use crate::error::Result;
use crate::integrity::receipt::Kept;
use crate::progress::Progress;

/// Examines a GGUF, of whatever family.
pub(super) fn lint(opened: &Opened, file: &GgufFile, progress: &dyn Progress) -> Result<Lint> {
    let mut found = Found::default();
    folder::receipt(opened.root(), &Location::file(&Kept::of(opened.root()).receipt), &mut found);
    layout::examine(file, &mut found);
    tensors::compare(file, &mut found);
    vocabulary::examine(file, &mut found);
    let value_bytes = values::scan(file, &mut found, progress)?;
    let parts = file.maps().len() as u64;
    let examined = Examined { files: parts, shards: 0, tensors: file.tensor_count() as u64, value_bytes };
    let config_sha256 = opened.config().ok().flatten().map(|config| config.sha256().to_owned());
    let (observations, not_listed) = found.finish();
    Ok(Lint { observations, not_listed, examined, config_sha256 })
}

/// A part of the file, by its name.
fn part(file: &GgufFile, part: usize) -> Location {
    Location::file(file.part(part).file_name().unwrap_or_default().to_string_lossy())
}

/// A tensor; of one that is nowhere, in the first part.
fn tensor(file: &GgufFile, name: &str) -> Location {
    part(file, file.tensor(name).map_or(0, |info| info.part)).tensor(name)
}
