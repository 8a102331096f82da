//! GGUF files: read in place, one row at a time, as if they were a Hugging Face checkpoint; or imported as one.

mod architecture;
mod attention;
mod blocks;
pub mod codes;
mod config;
mod dequantize;
mod each_layer;
mod expected;
mod families;
pub mod file;
pub mod header;
pub mod import;
mod lies;
mod measure;
mod names;
pub mod parts;
mod rope;
mod rule;
mod sizes;
mod tokenizer;
pub mod types;
mod whole;

#[cfg(test)]
pub(crate) mod writer;

use super::header::TensorEntry;
use super::map::MappedFile;
use crate::error::{Error, Result};
use config::Layout;
pub use config::{Mismatch, mismatches};
pub(super) use dequantize::dequantize;
pub use file::GgufFile;
use header::{Header, TensorInfo};
pub use import::{ImportDtype, ImportSummary, import};
use lies::{Lies, Order, Stored, Values};
pub use names::module_name;
use serde_json::{Map, Value};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// What a check gives: its error is one line that does not name the file yet.
type Checked<T> = std::result::Result<T, String>;

/// The tensors of one file as they are stored, under its own names, and where its data begin. The error is one line
/// without the path.
pub(super) fn listing(bytes: &[u8]) -> Checked<(Vec<TensorEntry>, usize)> {
    let header = Header::read(bytes)?;
    let entry = |(name, info): (String, TensorInfo)| {
        let (dtype, shape) = info.stored();
        TensorEntry { name, dtype, shape, bytes: info.bytes.start as u64..info.bytes.end as u64 }
    };
    Ok((header.tensors.into_iter().map(entry).collect(), header.data))
}

/// What a tensor under its Hugging Face name is in the file: a tensor, or a matrix of a stack.
#[derive(Debug, Clone, Copy)]
pub struct StoredTensor<'a> {
    /// What the file calls it.
    pub name: &'a str,
    /// Its type and place.
    pub info: &'a TensorInfo,
    /// Its shape: where it is a stack, in matrices of the shape that the tensor has.
    shape: &'a [usize],
    /// The part that it lies in.
    pub file: &'a MappedFile,
    /// Whether what is stored is 1 more than the values are.
    pub is_one_more: bool,
    /// Which matrix it is, where the tensor of the file is a stack.
    matrix: Option<usize>,
    rows: Order,
    columns: Order,
}

impl StoredTensor<'_> {
    /// The rows of the file's tensor that are this one's; elements where it is a vector.
    pub fn slice(&self) -> Range<usize> {
        match (self.matrix, self.shape) {
            (Some(matrix), [_, rows, ..]) => matrix * rows..(matrix + 1) * rows,
            (_, [elements]) => 0..*elements,
            (_, shape) => 0..shape.iter().rev().skip(1).product(),
        }
    }

    /// Its bytes in its file: of a stack those of its own matrix.
    pub fn place(&self) -> Range<u64> {
        let Range { start, end } = self.info.bytes;
        let each = (end - start) / self.matrix.and(self.shape.first().copied()).unwrap_or(1).max(1);
        let start = start + self.matrix.unwrap_or_default() * each;
        start as u64..(start + each) as u64
    }

    /// Which row of the file's tensor a row is.
    pub fn row(&self, row: usize) -> usize {
        self.slice().start + self.rows.of(row)
    }

    /// Why no row, or no column, can be changed by itself, if none can.
    pub(super) fn refusal(&self, is_column: bool) -> Option<&'static str> {
        if self.matrix.is_some() && self.shape != self.info.shape && is_column {
            return Some("gate and up of an expert are one matrix in this file, and a column of it is what both read");
        }
        (self.shape.len() > self.info.shape.len()).then_some("the file has it in fewer dimensions")
    }

    /// Which column of its matrix a column is.
    pub fn column_within(&self, column: usize) -> usize {
        self.columns.of(column)
    }

    /// Which column of the file's tensor a column is, counted through all matrices.
    pub fn column(&self, column: usize) -> usize {
        let columns = self.shape.last().copied().unwrap_or_default();
        self.matrix.unwrap_or_default() * columns + self.columns.of(column)
    }
}

/// A GGUF under Hugging Face's names: rows are dequantized when they are asked for.
#[derive(Debug)]
pub struct GgufCheckpoint {
    file: Arc<GgufFile>,
    layout: Layout,
}

impl GgufCheckpoint {
    /// Opens a file: reads its header, not its tensors.
    ///
    /// # Errors
    /// It breaks the format, holds another family of models than this tool reads, a tensor it should hold is missing
    /// or has another shape, or one has a type that cannot be read.
    pub fn open(path: &Path) -> Result<GgufCheckpoint> {
        GgufCheckpoint::of(Arc::new(GgufFile::examine(path)?))
    }

    /// That of an opened file.
    ///
    /// # Errors
    /// As of [`GgufCheckpoint::open`].
    pub fn of(file: Arc<GgufFile>) -> Result<GgufCheckpoint> {
        file.sound()?;
        let layout = Layout::read(&file)?;
        Ok(GgufCheckpoint { file, layout })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The header and the blocks as they are stored, under GGUF's own names.
    pub fn file(&self) -> &GgufFile {
        &self.file
    }

    /// What its metadata say, as config.json would.
    pub fn config(&self) -> &Map<String, Value> {
        &self.layout.config
    }

    /// The JSON files of a folder of this model, config.json first.
    ///
    /// # Errors
    /// As of each.
    pub fn documents(&self) -> Result<[(&'static str, Value); 4]> {
        Ok([
            ("config.json", Value::Object(self.config().clone())),
            ("generation_config.json", self.file.generation_config_json()?),
            ("tokenizer_config.json", self.file.tokenizer_config_json()?),
            ("tokenizer.json", self.file.tokenizer_json()?),
        ])
    }

    /// Names and shapes in order of name; shapes are outermost first.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.layout.tensors.iter().map(|(name, source)| (name.as_str(), source.shape.as_slice()))
    }

    /// What a tensor under its Hugging Face name is in the file; none where it is not there, made of two, or worked out
    /// of other numbers.
    pub fn stored(&self, name: &str) -> Option<StoredTensor<'_>> {
        let source = self.layout.tensors.get(name)?;
        let Lies::In(Stored { gguf, shape, matrix, rows, columns, values }) = &source.lies else { return None };
        let info = self.file.tensor(gguf).filter(|_| *values != Values::DecayRates)?;
        Some(StoredTensor {
            name: gguf,
            info,
            shape,
            file: self.file.maps().get(info.part)?,
            is_one_more: *values == Values::OneMore,
            matrix: (shape.len() > source.shape.len()).then_some(*matrix),
            rows: *rows,
            columns: *columns,
        })
    }

    /// The types of the tensors of the file that one is made of.
    pub(super) fn types(&self, name: &str) -> Vec<&'static str> {
        let source = self.layout.tensors.get(name);
        let names = source.map(|source| source.lies.stored()).unwrap_or_default();
        let mut types: Vec<&str> = names.iter().filter_map(|name| Some(self.file.tensor(name)?.ty.name)).collect();
        types.dedup();
        types
    }

    /// Rows `rows` of a tensor under its Hugging Face name, in Hugging Face's order: (rows, inner dimensions), f32.
    /// A row of a vector is one element.
    ///
    /// # Errors
    /// There is no such tensor or no such rows.
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let bad = |problem: String| Error::tensor(self.path(), name, problem);
        let source = self.layout.tensors.get(name).ok_or_else(|| bad("is not in this model".into()))?;
        let (count, inner) = source.shape.split_first().map_or((1, &[][..]), |(count, inner)| (*count, inner));
        if rows.end > count {
            return Err(bad(format!("has {count} rows, asked for row {}", rows.end - 1)));
        }
        source.lies.rows(&self.file, rows, inner.iter().product())
    }
}

#[cfg(test)]
mod converted_tests;

#[cfg(test)]
mod tests {
    use super::writer::{MODELS, Writer, expected, fixture};
    use super::*;
    use crate::architecture::Recipe;
    use crate::checkpoint::Checkpoint;
    use crate::compute::{Arithmetic, ComputeSettings, DeviceChoice, Model, NoHook, Row};
    use crate::progress::Silent;
    use half::bf16;
    use sha2::{Digest, Sha256};

    #[test]
    fn whole_models_are_bit_equal_to_transformers() {
        for family in MODELS {
            let checkpoint = GgufCheckpoint::open(&fixture(&format!("tiny-{family}.gguf"))).unwrap();
            let expected = expected(&format!("tiny-{family}.json"));
            let expected = expected["tensors"].as_object().unwrap();
            let names: Vec<&str> = checkpoint.tensors().map(|(name, _)| name).collect();
            assert_eq!(names, expected.keys().map(String::as_str).collect::<Vec<_>>(), "{family}");
            for (name, shape) in checkpoint.tensors() {
                let rows = checkpoint.rows(name, 0..shape[0]).unwrap();
                let bytes: Vec<u8> = rows.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
                let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
                assert_eq!(expected[name], serde_json::json!([shape, hash]), "{family}: {name}");
            }
        }
    }

    #[test]
    fn a_model_read_in_place_computes_what_the_imported_folder_computes() {
        let place = tempfile::tempdir().unwrap();
        let settings =
            ComputeSettings { device: DeviceChoice::Cpu, arithmetic: Arithmetic::F32, ..ComputeSettings::default() };
        for name in MODELS {
            let (gguf, folder) = (fixture(&format!("tiny-{name}.gguf")), place.path().join(name));
            import(&gguf, &folder, ImportDtype::F32, &Silent).unwrap();
            let logits = [gguf, folder].map(|path| {
                let checkpoint = Checkpoint::open(path.to_str().unwrap(), &Silent).unwrap();
                let recipe = Recipe::read(checkpoint.config()).unwrap();
                let model = Model::new(checkpoint, recipe, &settings, &Silent).unwrap();
                // Longer than every window and than phi3's original length.
                let tokens: Vec<u32> = (0..120).map(|at| at * 7 % 290).collect();
                let logits = model.logits(&[Row::clean(tokens.into())], &mut NoHook, &Silent).unwrap();
                logits[0].flatten_all().unwrap().to_vec1::<f32>().unwrap()
            });
            assert!(logits[0].iter().all(|x| x.is_finite()), "{name}");
            assert!(logits[0] == logits[1], "{name}");
        }
    }

    #[test]
    fn part_of_an_interleaved_tensor_is_the_part_of_the_whole() {
        let checkpoint = GgufCheckpoint::open(Writer::llama().file().path()).unwrap();
        let name = "model.layers.0.self_attn.q_proj.weight";
        let whole = checkpoint.rows(name, 0..8).unwrap();
        assert_eq!(whole[..32].iter().step_by(8).copied().collect::<Vec<_>>(), [0.0, 16.0, 8.0, 24.0]);
        assert_eq!(checkpoint.rows(name, 3..6).unwrap(), whole[24..48]);
        assert!(checkpoint.rows(name, 5..9).unwrap_err().to_string().contains("has 8 rows"));
        assert!(checkpoint.rows("model.nothing", 0..1).is_err());
    }

    #[test]
    fn a_row_of_a_vector_is_an_element() {
        let checkpoint = GgufCheckpoint::open(Writer::llama().file().path()).unwrap();
        assert_eq!(checkpoint.rows("model.norm.weight", 2..5).unwrap(), [2.0, 3.0, 4.0]);
    }
}
