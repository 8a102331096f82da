//! Turns a GGUF into a Hugging Face folder: all of it or nothing, one chunk of one tensor in memory at a time.

use super::whole::Whole;
use super::{Checked, GgufCheckpoint};
use crate::checkpoint::index::SINGLE;
use crate::checkpoint::number::NumberType;
use crate::error::{Error, Result};
use crate::files::{NewFolder, OpenFolder};
use crate::progress::Progress;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

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
    /// The folder that was written, as it was named.
    pub folder: PathBuf,
    /// How many tensors were written.
    pub tensors: usize,
    /// How many elements these have together.
    pub parameters: u64,
    /// Bytes of model.safetensors.
    pub bytes: u64,
    /// The element type that they were written in.
    pub dtype: ImportDtype,
}

/// Writes the model of `gguf` into the folder `out`: config.json, generation_config.json, the tokenizer's files and
/// model.safetensors. The folder appears whole or not at all.
///
/// # Errors
/// `out` is there and is not an empty folder, the GGUF cannot be read as a model with a tokenizer, a weight does not
/// fit `dtype`, a file cannot be written, or the user asked to stop.
pub fn import(gguf: &Path, out: &Path, dtype: ImportDtype, progress: &dyn Progress) -> Result<ImportSummary> {
    let folder = NewFolder::begin(out)?;
    let checkpoint = GgufCheckpoint::open(gguf)?;
    let [(config_name, mut config), others @ ..] = checkpoint.documents()?;
    config["torch_dtype"] = dtype.config_name().into();
    for (name, document) in [(config_name, config)].into_iter().chain(others) {
        write_file(folder.folder(), name, |file| {
            serde_json::to_writer_pretty(&mut *file, &document)?;
            file.write_all(b"\n")
        })?;
    }
    let summary = write_weights(&checkpoint, folder.folder(), dtype, progress)?;
    folder.finish()?;
    Ok(ImportSummary { folder: out.to_owned(), ..summary })
}

fn write_weights(
    checkpoint: &GgufCheckpoint,
    folder: &OpenFolder,
    dtype: ImportDtype,
    progress: &dyn Progress,
) -> Result<ImportSummary> {
    let path = folder.path().join(SINGLE);
    // One dtype throughout, so the reference serializer's order (widest dtype first, then by name) is the names'.
    let all = Whole::all(checkpoint);
    let mut offset = 0;
    let mut parameters = 0;
    let mut listed = Vec::new();
    for (name, whole) in &all {
        let elements: usize = whole.shape.iter().product();
        let end = offset + elements * NumberType::of(dtype.stored()).bytes();
        let info = TensorInfo { dtype: dtype.stored(), shape: whole.shape.clone(), data_offsets: (offset, end) };
        listed.push((name.clone(), info));
        (offset, parameters) = (end, parameters + elements as u64);
    }
    let tensors = listed.len();
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let header = Metadata::new(Some(format), listed).map_err(|e| Error::file(&path, format!("header: {e}")))?;
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::file(&path, format!("header: {e}")))?;
    header.resize(header.len().next_multiple_of(8), b' ');

    progress.begin("import", offset as u64, "bytes");
    let mut buffer = Vec::new();
    let mut failure = None;
    write_file(folder, SINGLE, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (name, whole) in &all {
            for piece in 0..whole.pieces() {
                let encoded = whole.piece(piece).and_then(|values| {
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
    Ok(ImportSummary { folder: path, tensors, parameters, bytes, dtype })
}

/// Writes a new file and waits until it is on disk.
fn write_file(
    folder: &OpenFolder,
    name: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, folder.create_new(name)?);
    let write_all = || {
        write(&mut file)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    };
    write_all().map_err(Error::io(folder.path().join(name)))
}

impl ImportDtype {
    fn config_name(self) -> &'static str {
        match self {
            ImportDtype::Bf16 => "bfloat16",
            ImportDtype::F16 => "float16",
            ImportDtype::F32 => "float32",
        }
    }

    fn stored(self) -> Dtype {
        match self {
            ImportDtype::Bf16 => Dtype::BF16,
            ImportDtype::F16 => Dtype::F16,
            ImportDtype::F32 => Dtype::F32,
        }
    }

    /// Rounds to nearest, ties to even, as torch does; a finite value that would become infinite is an error.
    fn encode(self, values: &[f32], out: &mut Vec<u8>) -> Checked<()> {
        out.clear();
        let number = NumberType::of(self.stored());
        for value in values {
            let rounded = number.encode(f64::from(*value), out);
            if value.is_finite() && !rounded.is_finite() {
                return Err(format!("holds {value}, beyond what {self} can; import it as f32"));
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::super::writer::{MODELS, Writer, expected, fixture};
    use super::*;
    use crate::progress::Silent;
    use safetensors::SafeTensors;
    use sha2::{Digest, Sha256};

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_folder_holds_what_transformers_makes_of_the_file() {
        let place = tempfile::tempdir().unwrap();
        for family in MODELS {
            let out = place.path().join(family);
            let gguf = fixture(&format!("tiny-{family}.gguf"));
            let summary = import(&gguf, &out, ImportDtype::Bf16, &Silent).unwrap();
            let files = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
            assert_eq!(names(&out), [&files[..], &["tokenizer_config.json"]].concat());
            let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
            assert_eq!((summary.bytes, summary.folder), (bytes.len() as u64, out.clone()));
            let (header_bytes, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
            assert_eq!(header_bytes % 8, 0);
            assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
            let read = SafeTensors::deserialize(&bytes).unwrap();
            let expected = expected(&format!("tiny-{family}.json"));
            assert_eq!(read.len(), expected["tensors"].as_object().unwrap().len());
            for (name, view) in read.tensors() {
                let hash: String = Sha256::digest(view.data()).iter().map(|b| format!("{b:02x}")).collect();
                assert_eq!(expected["tensors"][&name], serde_json::json!([view.shape(), hash]), "{family}: {name}");
            }
            // The reference serializer, given the same tensors, writes the same bytes.
            let again = safetensors::serialize(read.tensors(), metadata.metadata().clone()).unwrap();
            assert!(again == bytes, "{family}: differs from the reference serializer");
            let config: serde_json::Value =
                serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
            assert_eq!(config["torch_dtype"], "bfloat16");
            out.join("tokenizer.json").to_str().map(tokenizers::Tokenizer::from_file).unwrap().unwrap();
        }
        assert_eq!(names(place.path()), MODELS, "nothing temporary is left");
    }

    #[test]
    fn f32_keeps_every_bit() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        let gguf = fixture("tiny-llama.gguf");
        import(&gguf, &out, ImportDtype::F32, &Silent).unwrap();
        let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let checkpoint = GgufCheckpoint::open(&gguf).unwrap();
        for (name, shape) in checkpoint.tensors() {
            let rows: Vec<u8> =
                checkpoint.rows(name, 0..shape[0]).unwrap().iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(read.tensor(name).unwrap().data(), rows, "{name}");
        }
    }

    #[test]
    fn a_used_place_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let gguf = fixture("tiny-llama.gguf");
        let out = place.path().join("out");
        let refused = |out: &Path| import(&gguf, out, ImportDtype::Bf16, &Silent).unwrap_err().to_string();
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("mine"), "x").unwrap();
        assert!(refused(&out).contains("not empty"));
        assert!(refused(&out.join("mine")).contains("not a folder"));
        assert!(refused(&out.join("no/such")).contains("create it first"));
        assert_eq!((names(place.path()), names(&out)), (vec!["out".to_owned()], vec!["mine".to_owned()]));
        std::fs::remove_file(out.join("mine")).unwrap();
        import(&gguf, &out, ImportDtype::Bf16, &Silent).unwrap();
        assert_eq!(names(&out).len(), 5);
    }

    struct StopAt(std::sync::atomic::AtomicU64);

    impl Progress for StopAt {
        fn advance(&self, steps: u64) -> Result<()> {
            let left = self.0.load(std::sync::atomic::Ordering::Relaxed);
            self.0.store(left.saturating_sub(steps), std::sync::atomic::Ordering::Relaxed);
            if left <= steps { Err(Error::Interrupted) } else { Ok(()) }
        }
    }

    #[test]
    fn an_interrupted_import_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        let stop = StopAt(20_000.into());
        let error = import(&fixture("tiny-llama.gguf"), &out, ImportDtype::Bf16, &stop).unwrap_err();
        assert!(matches!(error, Error::Interrupted), "{error}");
        assert!(names(place.path()).is_empty());
    }

    #[test]
    fn a_weight_beyond_the_type_is_refused() {
        let mut out = Vec::new();
        assert!(ImportDtype::F16.encode(&[1.0, 70_000.0], &mut out).unwrap_err().contains("70000"));
        assert!(ImportDtype::Bf16.encode(&[f32::MAX], &mut out).is_err());
        assert!(ImportDtype::F16.encode(&[f32::INFINITY, f32::NAN], &mut out).is_ok());
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        let mut out = Vec::new();
        let ties = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.0 / 255.0, -(1.0 + 1.0 / 256.0)];
        ImportDtype::Bf16.encode(&ties, &mut out).unwrap();
        let bits: Vec<u16> = out.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
        assert_eq!(bits, [0x3f80, 0x3f82, 0x3f81, 0xbf80]);
    }

    #[test]
    fn no_tokenizer_no_folder() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("out");
        let gguf = Writer::llama().file();
        let problem = import(gguf.path(), &out, ImportDtype::Bf16, &Silent).unwrap_err().to_string();
        assert!(problem.contains("tokenizer.ggml.model is missing"), "{problem}");
        assert!(names(place.path()).is_empty());
    }

    #[test]
    fn dtypes_print_and_parse() {
        for dtype in [ImportDtype::Bf16, ImportDtype::F16, ImportDtype::F32] {
            assert_eq!(dtype.to_string().parse::<ImportDtype>().unwrap(), dtype);
        }
        assert!("fp8".parse::<ImportDtype>().is_err());
    }
}
