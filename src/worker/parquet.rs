//! Texts of a Parquet file. The crate that reads it believes lengths that the file claims.

use crate::files;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fmt;
use std::fs::File;
use std::path::Path;

/// Rows that are read at once.
const ROWS: usize = 64;
/// Bytes of texts after which no more are taken along.
const BYTES: usize = 1 << 20;
/// Columns that a message names.
const NAMED: usize = 8;

/// A column of texts, on the way through its file.
pub(super) struct Texts {
    file: SerializedFileReader<File>,
    column: usize,
    /// Whether it may hold nothing in a row.
    is_optional: bool,
    row_group: usize,
    open: Option<ColumnReaderImpl<ByteArrayType>>,
}

impl Texts {
    /// Of the column of that name.
    pub fn open(path: &Path, column: &str) -> Result<Texts, String> {
        // Its own message names the path, as does whoever asks.
        let file = files::open_regular(path).map_err(|e| {
            let told = e.to_string();
            told.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&told).to_owned()
        })?;
        let file = SerializedFileReader::new(file).map_err(malformed)?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let columns = schema.columns();
        let Some(at) = columns.iter().position(|known| known.path().string() == column) else {
            let mut names: Vec<String> =
                columns.iter().take(NAMED).map(|known| format!("{:?}", known.path().string())).collect();
            if columns.len() > NAMED {
                names.push("…".into());
            }
            return Err(format!("has no column {column:?}, but {}", names.join(", ")));
        };
        let found = &columns[at];
        if found.physical_type() != parquet::basic::Type::BYTE_ARRAY || found.max_rep_level() > 0 {
            return Err(format!("has no texts in the column {column:?}"));
        }
        if found.max_def_level() > 1 {
            return Err(format!("has the column {column:?} within another that may be absent, which is not read"));
        }
        let is_optional = found.max_def_level() == 1;
        Ok(Texts { file, column: at, is_optional, row_group: 0, open: None })
    }

    /// Some of the next texts; none where there are no more. Rows without a text are left out.
    pub fn next(&mut self) -> Result<Vec<String>, String> {
        let (mut texts, mut bytes) = (Vec::new(), 0);
        while bytes < BYTES {
            let Some(column) = &mut self.open else {
                if self.row_group == self.file.num_row_groups() {
                    break;
                }
                let group = self.file.get_row_group(self.row_group).map_err(malformed)?;
                self.row_group += 1;
                match group.get_column_reader(self.column).map_err(malformed)? {
                    ColumnReader::ByteArrayColumnReader(column) => self.open = Some(column),
                    _ => return Err("has another type of column in a row group than in its schema".into()),
                }
                continue;
            };
            let (mut values, mut levels) = (Vec::<ByteArray>::new(), Vec::new());
            let levels = self.is_optional.then_some(&mut levels);
            let (rows, _, _) = column.read_records(ROWS, levels, None, &mut values).map_err(malformed)?;
            if rows == 0 {
                self.open = None;
            }
            for value in values {
                let text = value.as_utf8().map_err(|_| "holds a text that is not UTF-8".to_owned())?;
                bytes += text.len();
                texts.push(text.to_owned());
            }
        }
        Ok(texts)
    }
}

/// What the crate says of a file that it cannot read.
fn malformed(error: ParquetError) -> String {
    const NOT_BUILT_IN: &str = "Disabled feature at compile time: ";
    match error {
        ParquetError::General(told) if told.starts_with(NOT_BUILT_IN) => {
            let codec = &told[NOT_BUILT_IN.len()..];
            format!("is compressed by {codec}, which is not read: write it with snappy, with zstd or with neither")
        }
        ParquetError::General(told) | ParquetError::EOF(told) => format!("is not Parquet that can be read: {told}"),
        error => format!("is not Parquet that can be read: {error}"),
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Texts")
            .field("column", &self.column)
            .field("row_group", &self.row_group)
            .finish_non_exhaustive()
    }
}
