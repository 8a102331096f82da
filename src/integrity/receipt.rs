//! The receipt of a patch, as it is read: what was changed, and where. Lint tells of one that it meets; `patch` writes
//! them and undoes by them.

use crate::checkpoint::gguf::parts;
use crate::checkpoint::packing::{Axis, Span};
use crate::checkpoint::source::is_gguf_name;
use crate::error::{Error, Result};
use crate::files;
use crate::neuron::{Neuron, Side};
use crate::tool::Tool;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

/// The receipt's file name in a model folder; beside a GGUF it has the file's name before it.
pub const RECEIPT: &str = "achilles-patch.json";
/// The name of the file with the original bytes, in the order of the receipt's edits; likewise.
pub const UNDO: &str = "achilles-patch.undo";

pub(crate) const SCHEMA: &str = "achilles-audit/patch/v1";

/// What is kept of a patch: within a model folder, or beside a GGUF, of a split one beside its first part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The model: its folder, or the .gguf file, of a split one the first.
    pub model: PathBuf,
    /// The folder that all of it lies in.
    pub folder: PathBuf,
    /// The receipt's name there.
    pub receipt: String,
    /// That of the file with the original bytes.
    pub undo: String,
}

impl Kept {
    /// Of a model, whether it is patched or not.
    pub fn of(model: &Path) -> Kept {
        if model.is_dir() || !is_gguf_name(model) {
            let (model, folder) = (model.to_owned(), model.to_owned());
            return Kept { model, folder, receipt: RECEIPT.into(), undo: UNDO.into() };
        }
        let first = parts::paths(model).swap_remove(0);
        let name = first.file_name().unwrap_or_default().to_string_lossy();
        let (receipt, undo) = (format!("{name}.{RECEIPT}"), format!("{name}.{UNDO}"));
        let folder = first.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Kept { folder: folder.to_owned(), receipt, undo, model: first.clone() }
    }

    /// Whether it is kept of a GGUF.
    pub fn is_of_gguf(&self) -> bool {
        self.model != self.folder
    }

    /// Where the receipt lies.
    pub fn receipt_path(&self) -> PathBuf {
        self.folder.join(&self.receipt)
    }

    /// Where the file with the original bytes lies.
    pub fn undo_path(&self) -> PathBuf {
        self.folder.join(&self.undo)
    }

    /// The names in the folder of the files that a GGUF consists of.
    pub fn parts(&self) -> Vec<String> {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        parts::paths(&self.model).iter().map(name).collect()
    }

    /// Whether a patch of this model may change a file of this name.
    pub fn may_change(&self, name: &str) -> bool {
        match self.is_of_gguf() {
            true => self.parts().iter().any(|part| part == name),
            false => {
                let is_plain = Path::new(name).file_name().is_some_and(|n| n == name) && !name.contains('\\');
                is_plain && name.ends_with(".safetensors")
            }
        }
    }
}

/// The path of the model whose receipt a file of this name is, below the folder that it lies in: a GGUF's, or nothing,
/// the folder itself. None where the name is another.
pub(crate) fn receipt_of(name: &str) -> Option<&str> {
    kept_of(name, RECEIPT)
}

/// Whether a file is named as what is kept of a patch.
pub(crate) fn is_kept(name: &str) -> bool {
    [RECEIPT, UNDO].iter().any(|kept| kept_of(name, kept).is_some())
}

fn kept_of<'n>(name: &'n str, kept: &str) -> Option<&'n str> {
    let of = name.strip_suffix(kept)?;
    match of.strip_suffix('.') {
        None => of.is_empty().then_some(of),
        Some(of) => is_gguf_name(Path::new(of)).then_some(of),
    }
}

/// The receipt of a patch: `achilles-patch.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// `achilles-audit/patch/v1`.
    pub schema: String,
    /// What wrote it.
    pub tool: Tool,
    /// When, such as `2026-11-22T20:33:36Z`.
    pub time_utc: String,
    /// Whether the edits are all there.
    pub state: State,
    /// What was patched, as it was before.
    pub model: Model,
    /// The interventions that the edits make.
    pub asked: Vec<Requested>,
    /// Of a hardened checkpoint, its spares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spares: Vec<Spare>,
    /// What rounding to the tensors' dtypes cost.
    pub rounding: Rounding,
    /// The files that changed.
    pub files: Vec<ChangedFile>,
    /// Every change of bytes.
    pub edits: Vec<Record>,
    /// Where the original bytes are kept.
    pub undo: UndoFile,
}

/// How far a patch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Bytes may be old or new: `unpatch` puts the old ones back.
    Applying,
    /// All edits are there.
    Applied,
    /// Bytes are being put back; `unpatch` goes on with that.
    Undoing,
    /// All bytes of a vault are there; this file is only the journal of that, and the next run removes it.
    Restored,
}

/// The checkpoint that was patched: source, architecture and config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// As it was named on the command line.
    pub source: String,
    /// As its config names it.
    pub architecture: String,
    /// SHA-256 of its config.json.
    pub config_sha256: String,
}

/// What was asked for one neuron.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requested {
    /// The neuron that is masked, scaled or set.
    pub neuron: Neuron,
    /// The factor; none where the neuron was set to a value.
    pub beta: Option<f64>,
    /// The value it was set to.
    pub set_to: Option<f64>,
    /// The values that its row or column was overwritten with, each as the weights hold it: base64 of f32, little-endian;
    /// none where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<String>,
}

/// Neurons that stand in for a critical one once its row is lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spare {
    /// The critical neuron.
    pub stands_for: Neuron,
    /// The row by which it writes the same channel: what has to be lost as well for the spare to fail.
    pub row: Neuron,
    /// The intermediate neurons that were overwritten, as columns of the down projection.
    pub neurons: Vec<Neuron>,
}

/// A file that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangedFile {
    /// Its name in the folder that it lies in.
    pub name: String,
    /// Its size, which a patch never changes.
    pub bytes: u64,
    /// SHA-256 of all before its tensors' data, which a patch never changes.
    pub header_sha256: String,
    /// SHA-256 of the whole file before; none where digests were not asked for.
    pub sha256_before: Option<String>,
    /// The same after the patch.
    pub sha256_after: Option<String>,
}

/// One row, column or element and its bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The neurons it belongs to.
    pub neurons: Vec<Neuron>,
    /// The tensor, as the file names it.
    pub tensor: String,
    /// How the tensor's elements are stored.
    pub dtype: Dtype,
    /// The whole tensor's shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// `row`, `column` or `element`.
    pub axis: Axis,
    /// Its index along the axis in the file, from 0, counted through all matrices of a stack.
    pub index: usize,
    /// The shard, by its name in the folder.
    pub file: String,
    /// The bytes of the file that the edit wrote.
    pub span: Span,
    /// SHA-256 of the span's bytes, one piece after the other.
    pub sha256_before: String,
    /// The same after the patch.
    pub sha256_after: String,
}

/// The file with the original bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoFile {
    /// `achilles-patch.undo`, of a GGUF with its name before it.
    pub name: String,
    /// How large the file is, in bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: String,
}

/// What a dtype's rounding cost. The error is the largest, over the value that the factor asks for: of a weight, of a
/// scale or a minimum of packed weights, or of what a norm multiplies by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rounding {
    /// 0 where every value is exact.
    pub worst_relative: f64,
    /// The tensor that holds it.
    pub tensor: Option<String>,
    /// How many values became 0, though the factor is not.
    pub to_zero: u64,
}

impl Receipt {
    /// The receipt of a model folder or GGUF; none where there is none.
    ///
    /// # Errors
    /// It cannot be read or is not a receipt.
    pub fn read(model: &Path) -> Result<Option<Receipt>> {
        let path = Kept::of(model).receipt_path();
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        Ok(Some(Receipt::parse(&path, &files::read_regular(&path)?)?))
    }

    /// Whether all that it changes are neurons of spares: no other row, and nothing that is masked or scaled.
    pub fn only_hardens(&self) -> bool {
        let of_spares: BTreeSet<(&str, usize)> = self
            .spares
            .iter()
            .flat_map(|spare| &spare.neurons)
            .filter_map(|neuron| Some((neuron.site.module.as_str().rsplit_once('.')?.0, neuron.channel)))
            .collect();
        let is_of_spare = |asked: &Requested| {
            let Some((mlp, name)) = asked.neuron.site.module.as_str().rsplit_once('.') else { return false };
            let is_down = name == "down_proj" || name == "w2";
            asked.values.is_some()
                && (asked.neuron.site.side == Side::In) == is_down
                && (!is_down || of_spares.contains(&(mlp, asked.neuron.channel)))
        };
        !self.spares.is_empty() && self.asked.iter().all(is_of_spare)
    }

    /// The name of its own file.
    pub fn name(&self) -> String {
        format!("{}{RECEIPT}", self.undo.name.strip_suffix(UNDO).unwrap_or_default())
    }

    /// Reads a receipt's bytes; `path` is for messages.
    ///
    /// # Errors
    /// It is not a receipt.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Receipt> {
        let not_one = |e| Error::file(path, format!("is not a receipt that this version can read: {e}"));
        let receipt: Receipt = serde_json::from_slice(bytes).map_err(not_one)?;
        if receipt.schema != SCHEMA {
            let problem = format!("has the schema {:?}, expected {SCHEMA}", receipt.schema);
            return Err(Error::file(path, problem));
        }
        match receipt.repeated() {
            Some(what) => Err(Error::file(path, format!("lists {what} twice, expected each change once"))),
            None => Ok(receipt),
        }
    }

    /// What is listed more than once: no patch does that, and each entry costs reading what it names.
    fn repeated(&self) -> Option<String> {
        let mut files = BTreeSet::new();
        let mut edits = HashSet::new();
        let file = self.files.iter().find(|f| !files.insert(&f.name)).map(|f| f.name.clone());
        let edit = self.edits.iter().find(|r| !edits.insert((&r.file, &r.tensor, r.axis, r.index)));
        file.or_else(|| edit.map(|r| format!("{} {} of {}", r.axis.as_str(), r.index, r.tensor)))
    }
}
