//! The JSON form of a fingerprint.

use super::encoded::{decode, decode_lines, encode_lines};
use super::weights::Stored;
use super::{FileRecord, Fingerprint, FingerprintSettings, LineStatistics, TensorRecord};
use crate::checkpoint::hex;
use crate::checkpoint::hub::Origin;
use crate::checkpoint::packing::Layout;
use crate::error::{Error, Result};
use crate::files;
use crate::tool::Tool;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::Path;

const SCHEMA: &str = "achilles-audit/fingerprint/v1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: String,
    tool: Tool,
    model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hub: Option<Origin>,
    settings: FingerprintSettings,
    tensors_sha256: String,
    files_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_sha256: Option<String>,
    files: Vec<File>,
    tensors: Vec<Tensor>,
    /// None where nothing is packed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    weights: Vec<Stored>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    path: String,
    bytes: u64,
    sha256: String,
    /// What it is a link to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tensor {
    name: String,
    file: String,
    dtype: Dtype,
    shape: Vec<usize>,
    sha256: String,
    statistics: LineStatistics,
    /// Base64 of 12 bytes a line: see [`super::LineMark::to_bytes`].
    rows: String,
    columns: String,
    /// Base64 of 32 bytes a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    row_sha256: Option<String>,
}

impl Fingerprint {
    /// The document, one line a file, a tensor and a packed weight. `model` is what to call it, `origin` the commit of a hub
    /// repository that it is, if it is one.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn to_json(&self, model: &str, origin: Option<&Origin>) -> Result<String> {
        let document = Document {
            schema: SCHEMA.into(),
            tool: Tool::this(),
            model: model.into(),
            hub: origin.cloned(),
            settings: self.settings.clone(),
            tensors_sha256: hex(&self.tensors_sha256()),
            files_sha256: hex(&self.files_sha256()),
            weights_sha256: self.weights_sha256().map(|sha256| hex(&sha256)),
            files: Vec::new(),
            tensors: Vec::new(),
            weights: Vec::new(),
        };
        let cannot = |e: serde_json::Error| Error::input(format!("cannot write JSON: {e}"));
        let mut out = serde_json::to_string_pretty(&document).map_err(cannot)?;
        let tail = "\n  \"files\": [],\n  \"tensors\": []\n}";
        out.truncate(out.len() - tail.len());
        let list = |out: &mut String, key: &str, items: &mut dyn Iterator<Item = serde_json::Result<String>>| {
            out.push_str(&format!("\n  \"{key}\": ["));
            for (at, item) in items.enumerate() {
                out.push_str(if at == 0 { "\n    " } else { ",\n    " });
                out.push_str(&item?);
            }
            out.push_str("\n  ]");
            Ok(())
        };
        list(&mut out, "files", &mut self.files.iter().map(|f| serde_json::to_string(&File::from(f))))
            .map_err(cannot)?;
        out.push(',');
        let mut tensors = self.tensors.iter().map(|t| serde_json::to_string(&Tensor::from(t)));
        list(&mut out, "tensors", &mut tensors).map_err(cannot)?;
        if !self.weights.is_empty() {
            out.push(',');
            let mut weights = self.weights.iter().map(|w| serde_json::to_string(&Stored::from(w)));
            list(&mut out, "weights", &mut weights).map_err(cannot)?;
        }
        out.push_str("\n}\n");
        Ok(out)
    }

    /// Reads a fingerprint.
    ///
    /// # Errors
    /// The file cannot be read, is not a fingerprint, or contradicts itself.
    pub fn read(path: &Path) -> Result<Fingerprint> {
        if !path.exists() {
            return Err(Error::not_found(
                path,
                "is not there; expected what `achilles-audit fingerprint MODEL -o FILE` wrote",
            ));
        }
        Fingerprint::parse(&files::read_text(path, files::LARGEST_READ)?).map_err(|problem| Error::file(path, problem))
    }

    /// Reads a fingerprint's text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> std::result::Result<Fingerprint, String> {
        #[derive(Deserialize)]
        struct Kind {
            schema: String,
        }
        let not_one =
            |e: serde_json::Error| format!("is not a fingerprint ({e}); make one with `achilles-audit fingerprint`");
        let Kind { schema } = serde_json::from_str(text).map_err(not_one)?;
        if schema != SCHEMA {
            return Err(format!("is {schema}, expected {SCHEMA}; make it with `achilles-audit fingerprint`"));
        }
        let document: Document = serde_json::from_str(text).map_err(not_one)?;
        let tensors: Vec<_> = document.tensors.into_iter().map(Tensor::check).collect::<std::result::Result<_, _>>()?;
        let names: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let weights = document.weights.into_iter().map(|weight| weight.check(&|name| names.contains(name)));
        let weights = weights.collect::<std::result::Result<_, _>>()?;
        let fingerprint = Fingerprint {
            settings: document.settings,
            files: document.files.into_iter().map(File::check).collect::<std::result::Result<_, _>>()?,
            tensors,
            weights,
        };
        for (what, said, found) in [
            ("files_sha256", Some(document.files_sha256), Some(fingerprint.files_sha256())),
            ("tensors_sha256", Some(document.tensors_sha256), Some(fingerprint.tensors_sha256())),
            ("weights_sha256", document.weights_sha256, fingerprint.weights_sha256()),
        ] {
            if said != found.map(|sha256| hex(&sha256)) {
                return Err(format!("its {what} is not that of what it lists: it was changed after it was made"));
            }
        }
        Ok(fingerprint)
    }
}

impl From<&FileRecord> for File {
    fn from(f: &FileRecord) -> File {
        File { path: f.path.clone(), bytes: f.bytes, sha256: hex(&f.sha256), link: f.link.clone() }
    }
}

impl File {
    pub(super) fn check(self) -> std::result::Result<FileRecord, String> {
        Ok(FileRecord { sha256: digest(&self.sha256)?, path: self.path, bytes: self.bytes, link: self.link })
    }
}

impl From<&TensorRecord> for Tensor {
    fn from(t: &TensorRecord) -> Tensor {
        Tensor {
            name: t.name.clone(),
            file: t.file.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
            sha256: hex(&t.sha256),
            statistics: t.statistics,
            rows: encode_lines(&t.rows),
            columns: encode_lines(&t.columns),
            row_sha256: t.row_sha256.as_ref().map(|rows| STANDARD.encode(rows.concat())),
        }
    }
}

impl Tensor {
    pub(super) fn check(self) -> std::result::Result<TensorRecord, String> {
        let bad = |what: &str| format!("tensor {}: {what}", self.name);
        let layout = Layout::of(self.dtype, &self.shape).filter(|l| l.has_lines());
        let (rows, columns) = match layout {
            Some(l) => (l.all_rows(), if l.columns > 1 { l.all_columns() } else { 0 }),
            None => (0, 0),
        };
        let row_sha256 = self.row_sha256.as_deref().map(|text| {
            let bytes = decode(text).map_err(|problem| bad(&problem))?;
            let (digests, rest) = bytes.as_chunks::<32>();
            if digests.len() != rows || !rest.is_empty() {
                return Err(bad(&format!("has {} bytes of row digests, its shape needs {rows} rows", bytes.len())));
            }
            Ok(digests.to_vec())
        });
        Ok(TensorRecord {
            sha256: digest(&self.sha256)?,
            rows: decode_lines(&self.rows, rows, "rows").map_err(|problem| bad(&problem))?,
            columns: decode_lines(&self.columns, columns, "columns").map_err(|problem| bad(&problem))?,
            row_sha256: row_sha256.transpose()?,
            name: self.name,
            file: self.file,
            dtype: self.dtype,
            shape: self.shape,
            statistics: self.statistics,
        })
    }
}

fn digest(text: &str) -> std::result::Result<[u8; 32], String> {
    let bad = || format!("{text:?} is not a SHA-256: expected 64 hex digits");
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(bad());
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = text.get(2 * at..2 * at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or_else(bad)?;
    }
    Ok(out)
}
