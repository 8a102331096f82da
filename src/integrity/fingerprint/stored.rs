//! The JSON form of a fingerprint.

use super::encoded::{decode, decode_lines, encode_lines};
use super::weights::Stored;
use super::{Algorithm, FileRecord, Fingerprint, FingerprintSettings, LineStatistics, TensorRecord};
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: String,
    tool: Tool,
    model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hub: Option<Origin>,
    settings: FingerprintSettings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tensors_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tensors_blake3: Option<String>,
    files_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weights_blake3: Option<String>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blake3: Option<String>,
    statistics: LineStatistics,
    /// Base64 of 12 bytes a line: see [`super::LineMark::to_bytes`].
    rows: String,
    columns: String,
    /// Base64 of 32 bytes a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    row_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    row_blake3: Option<String>,
}

/// What is stored under the key of an algorithm: SHA-256's, BLAKE3's.
type ByAlgorithm<T> = [Option<T>; 2];

impl Algorithm {
    /// What to store under both keys.
    fn stored<T>(self, value: Option<T>) -> ByAlgorithm<T> {
        match self {
            Algorithm::Sha256 => [value, None],
            Algorithm::Blake3 => [None, value],
        }
    }

    /// What is stored under this one's key, of `what`; an error where something is under the other's.
    fn own<T>(self, [sha256, blake3]: ByAlgorithm<T>, what: &str) -> std::result::Result<Option<T>, String> {
        match (self, sha256, blake3) {
            (Algorithm::Sha256, own, None) | (Algorithm::Blake3, None, own) => Ok(own),
            _ => Err(format!("has a digest of {what} that {} does not have, expected {}", self.schema(), self.name())),
        }
    }
}

impl Fingerprint {
    /// The document, one line a file, a tensor and a packed weight. `model` is what to call it, `origin` the commit of a hub
    /// repository that it is, if it is one.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn to_json(&self, model: &str, origin: Option<&Origin>) -> Result<String> {
        let algorithm = self.algorithm;
        let [tensors_sha256, tensors_blake3] = algorithm.stored(Some(hex(&self.tensors_digest())));
        let [weights_sha256, weights_blake3] = algorithm.stored(self.weights_digest().map(|digest| hex(&digest)));
        let document = Document {
            schema: algorithm.schema().into(),
            tool: Tool::this(),
            model: model.into(),
            hub: origin.cloned(),
            settings: self.settings.clone(),
            tensors_sha256,
            tensors_blake3,
            files_sha256: hex(&self.files_sha256()),
            weights_sha256,
            weights_blake3,
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
        let mut tensors = self.tensors.iter().map(|t| serde_json::to_string(&Tensor::of(t, algorithm)));
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
        let Some(algorithm) = Algorithm::of_schema(&schema) else {
            let [read, made] = [Algorithm::Sha256, Algorithm::Blake3].map(Algorithm::schema);
            return Err(format!("is {schema}, expected {made} or {read}; make it with `achilles-audit fingerprint`"));
        };
        let document: Document = serde_json::from_str(text).map_err(not_one)?;
        let tensors_said = algorithm.own([document.tensors_sha256, document.tensors_blake3], "all tensors")?;
        let weights_said = algorithm.own([document.weights_sha256, document.weights_blake3], "all weights")?;
        let tensors = document.tensors.into_iter().map(|tensor| tensor.check(algorithm));
        let tensors: Vec<_> = tensors.collect::<std::result::Result<_, _>>()?;
        let names: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let weights = document.weights.into_iter().map(|weight| weight.check(&|name| names.contains(name)));
        let weights = weights.collect::<std::result::Result<_, _>>()?;
        let fingerprint = Fingerprint {
            algorithm,
            settings: document.settings,
            files: document.files.into_iter().map(File::check).collect::<std::result::Result<_, _>>()?,
            tensors,
            weights,
        };
        for (what, by, said, found) in [
            ("files", Algorithm::Sha256, Some(document.files_sha256), Some(fingerprint.files_sha256())),
            ("tensors", algorithm, tensors_said, Some(fingerprint.tensors_digest())),
            ("weights", algorithm, weights_said, fingerprint.weights_digest()),
        ] {
            if said != found.map(|digest| hex(&digest)) {
                let what = format!("{what}_{}", by.name());
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

impl Tensor {
    pub(super) fn of(t: &TensorRecord, algorithm: Algorithm) -> Tensor {
        let [sha256, blake3] = algorithm.stored(Some(hex(&t.digest)));
        let [row_sha256, row_blake3] =
            algorithm.stored(t.row_digests.as_ref().map(|rows| STANDARD.encode(rows.concat())));
        Tensor {
            name: t.name.clone(),
            file: t.file.clone(),
            dtype: t.dtype,
            shape: t.shape.clone(),
            sha256,
            blake3,
            statistics: t.statistics,
            rows: encode_lines(&t.rows),
            columns: encode_lines(&t.columns),
            row_sha256,
            row_blake3,
        }
    }

    pub(super) fn check(self, algorithm: Algorithm) -> std::result::Result<TensorRecord, String> {
        let bad = |what: &str| format!("tensor {}: {what}", self.name);
        let layout = Layout::of(self.dtype, &self.shape).filter(|l| l.has_lines());
        let (rows, columns) = match layout {
            Some(l) => (l.all_rows(), if l.columns > 1 { l.all_columns() } else { 0 }),
            None => (0, 0),
        };
        let told = |problem: String| bad(&problem);
        let whole = algorithm.own([self.sha256.as_deref(), self.blake3.as_deref()], "its bytes").map_err(told)?;
        let whole = whole.ok_or_else(|| bad(&format!("has no {}", algorithm.name())))?;
        let row_digests = [self.row_sha256.as_deref(), self.row_blake3.as_deref()];
        let row_digests = algorithm.own(row_digests, "rows").map_err(told)?.map(|text| {
            let bytes = decode(text).map_err(|problem| bad(&problem))?;
            let (digests, rest) = bytes.as_chunks::<32>();
            if digests.len() != rows || !rest.is_empty() {
                return Err(bad(&format!("has {} bytes of row digests, its shape needs {rows} rows", bytes.len())));
            }
            Ok(digests.to_vec())
        });
        Ok(TensorRecord {
            digest: digest(whole)?,
            rows: decode_lines(&self.rows, rows, "rows").map_err(|problem| bad(&problem))?,
            columns: decode_lines(&self.columns, columns, "columns").map_err(|problem| bad(&problem))?,
            row_digests: row_digests.transpose()?,
            name: self.name,
            file: self.file,
            dtype: self.dtype,
            shape: self.shape,
            statistics: self.statistics,
        })
    }
}

fn digest(text: &str) -> std::result::Result<[u8; 32], String> {
    let bad = || format!("{text:?} is no digest: expected 64 hex digits");
    let mut out = [0; 32];
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(bad());
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = text.get(2 * at..2 * at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or_else(bad)?;
    }
    Ok(out)
}
