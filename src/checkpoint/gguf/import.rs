//! Turns a GGUF into a Hugging Face folder: all of it or nothing, one chunk of one tensor in memory at a time.

use super::{Checked, GgufCheckpoint};
use crate::error::{Error, Result};
use crate::progress::Progress;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Elements that are dequantized and written at a time, where a row is not longer.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// The element type that the weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImportDtype {
    /// bfloat16.
    #[default]
    Bf16,
    /// IEEE half precision.
    F16,
    /// IEEE single precision: what the blocks hold, without rounding.
    F32,
}

/// What an import wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportSummary {
    /// The folder.
    pub folder: PathBuf,
    /// Tensors written.
    pub tensors: usize,
    /// Elements in them.
    pub parameters: u64,
    /// Bytes of model.safetensors.
    pub bytes: u64,
    /// Their element type.
    pub dtype: ImportDtype,
}

/// Writes the model of `gguf` into the folder `out`: config.json, generation_config.json, the tokenizer's files and
/// model.safetensors. The folder appears whole or not at all.
///
/// # Errors
/// `out` is there and is not an empty folder, the GGUF cannot be read as a model with a tokenizer, a weight does not
/// fit `dtype`, a file cannot be written, or the user asked to stop.
pub fn import(gguf: &Path, out: &Path, dtype: ImportDtype, progress: &dyn Progress) -> Result<ImportSummary> {
    refuse_used(out)?;
    let checkpoint = GgufCheckpoint::open(gguf)?;
    let mut config = checkpoint.config().clone();
    config.insert("torch_dtype".into(), dtype.config_name().into());
    let documents = [
        ("config.json", Value::Object(config)),
        ("generation_config.json", checkpoint.generation_config_json()?),
        ("tokenizer_config.json", checkpoint.tokenizer_config_json()?),
        ("tokenizer.json", checkpoint.tokenizer_json()?),
    ];
    let folder = temporary_folder(out)?;
    for (name, document) in documents {
        write_file(&folder.path().join(name), |file| {
            serde_json::to_writer_pretty(&mut *file, &document)?;
            Ok(file.write_all(b"\n")?)
        })?;
    }
    let summary = write_weights(&checkpoint, &folder.path().join("model.safetensors"), dtype, progress)?;
    sync_folder(folder.path());
    if out.exists() {
        std::fs::remove_dir(out).map_err(Error::io(out))?;
    }
    std::fs::rename(folder.path(), out).map_err(Error::io(out))?;
    let _ = folder.keep();
    sync_folder(parent(out));
    Ok(ImportSummary { folder: out.to_owned(), ..summary })
}

/// Nothing may lie where the folder is to appear, except an empty folder.
fn refuse_used(out: &Path) -> Result<()> {
    let metadata = match std::fs::symlink_metadata(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io(out))?,
    };
    if !metadata.is_dir() {
        return Err(Error::file(out, "is there already and is not a folder; choose another place for the result"));
    }
    if std::fs::read_dir(out).map_err(Error::io(out))?.next().is_some() {
        return Err(Error::file(out, "is there already and is not empty; choose another place for the result"));
    }
    Ok(())
}

fn parent(out: &Path) -> &Path {
    out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary_folder(out: &Path) -> Result<tempfile::TempDir> {
    let parent = parent(out);
    if !parent.is_dir() {
        return Err(Error::file(parent, "is not a folder; create it first, the result is to appear in it"));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(".achilles-import-");
    // The folder will be the user's: as open as those they make themselves (the umask still applies).
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(parent).map_err(Error::io(parent))
}

fn write_weights(
    checkpoint: &GgufCheckpoint,
    path: &Path,
    dtype: ImportDtype,
    progress: &dyn Progress,
) -> Result<ImportSummary> {
    // One dtype throughout, so the reference serializer's order (widest dtype first, then by name) is the names'.
    let mut offset = 0;
    let mut parameters = 0;
    let mut listed = Vec::new();
    for (name, shape) in checkpoint.tensors() {
        let elements: usize = shape.iter().product();
        let end = offset + elements * dtype.bytes();
        let info = TensorInfo { dtype: dtype.safetensors(), shape: shape.to_vec(), data_offsets: (offset, end) };
        listed.push((name.to_owned(), info));
        (offset, parameters) = (end, parameters + elements as u64);
    }
    let tensors = listed.len();
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(format), listed).map_err(|e| Error::file(path, format!("header: {e}")))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::file(path, format!("header: {e}")))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    progress.begin("import", offset as u64, "bytes");
    let mut buffer = Vec::new();
    let mut failure = None;
    write_file(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (name, shape) in checkpoint.tensors() {
            let rows = shape.first().copied().unwrap_or(1);
            let width: usize = shape.iter().skip(1).product();
            let step = (CHUNK_ELEMENTS / width.max(1)).max(1);
            for start in (0..rows).step_by(step) {
                let values = checkpoint.rows(name, start..rows.min(start + step));
                let encoded = values.and_then(|values| {
                    dtype.encode(&values, &mut buffer).map_err(|p| Error::tensor(checkpoint.path(), name, p))
                });
                let advanced = match encoded {
                    Ok(()) => {
                        file.write_all(&buffer)?;
                        progress.advance(buffer.len() as u64)
                    }
                    Err(e) => Err(e),
                };
                if let Err(e) = advanced {
                    failure = Some(e);
                    return Err(std::io::Error::other("stopped"));
                }
            }
        }
        Ok(())
    })
    .map_err(|e| failure.take().unwrap_or(e))?;
    progress.end();
    let bytes = (8 + header.len() + offset) as u64;
    Ok(ImportSummary { folder: path.to_owned(), tensors, parameters, bytes, dtype })
}

/// Writes a new file and waits until it is on disk.
fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let write_all = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
        write(&mut file)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    };
    write_all().map_err(Error::io(path))
}

/// Makes the names in a folder durable, where the system can.
fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}

impl ImportDtype {
    fn config_name(self) -> &'static str {
        match self {
            ImportDtype::Bf16 => "bfloat16",
            ImportDtype::F16 => "float16",
            ImportDtype::F32 => "float32",
        }
    }

    fn safetensors(self) -> Dtype {
        match self {
            ImportDtype::Bf16 => Dtype::BF16,
            ImportDtype::F16 => Dtype::F16,
            ImportDtype::F32 => Dtype::F32,
        }
    }

    fn bytes(self) -> usize {
        if self == ImportDtype::F32 { 4 } else { 2 }
    }

    /// Rounds to nearest, ties to even, as torch does; a finite value that would become infinite is an error.
    fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Checked<()> {
        out.clear();
        match self {
            ImportDtype::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            ImportDtype::Bf16 => out.extend(values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes())),
            ImportDtype::F16 => out.extend(values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes())),
        }
        let fits = |x: f32| match self {
            ImportDtype::F32 => true,
            ImportDtype::Bf16 => bf16::from_f32(x).is_finite(),
            ImportDtype::F16 => f16::from_f32(x).is_finite(),
        };
        match values.iter().find(|x| x.is_finite() && !fits(**x)) {
            None => Ok(()),
            Some(x) => Err(format!("holds {x}, beyond what {self} can; import it as f32")),
        }
    }
}

impl fmt::Display for ImportDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImportDtype::Bf16 => "bf16",
            ImportDtype::F16 => "f16",
            ImportDtype::F32 => "f32",
        })
    }
}

impl FromStr for ImportDtype {
    type Err = Error;

    fn from_str(text: &str) -> Result<ImportDtype> {
        match text {
            "bf16" => Ok(ImportDtype::Bf16),
            "f16" => Ok(ImportDtype::F16),
            "f32" => Ok(ImportDtype::F32),
            _ => Err(Error::input(format!("dtype {text:?}: expected bf16, f16 or f32"))),
        }
    }
}
