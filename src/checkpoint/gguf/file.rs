//! An opened GGUF file: typed metadata, and tensors read from the map.

use super::dequantize::dequantize;
use super::header::{Array, Cursor, Header, HeaderProblem, TensorInfo, Value, ValueType};
use super::parts;
use crate::checkpoint::map::MappedFile;
use crate::checkpoint::stand_in::StandIn;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

/// An opened GGUF file, or all files that one was split into: mapped, headers parsed and held against their sizes.
#[derive(Debug)]
pub struct GgufFile {
    /// Of each part, in order.
    maps: Vec<MappedFile>,
    /// Likewise; what they say of tensors is in `tensors`.
    headers: Vec<Header>,
    tensors: BTreeMap<String, TensorInfo>,
    /// With the part that has them.
    problems: Vec<(usize, HeaderProblem)>,
}

impl GgufFile {
    /// Maps a file, with all others where it is one part of a split one, and reads the headers.
    ///
    /// # Errors
    /// One cannot be read or breaks the format, or the parts do not belong together.
    pub fn open(path: &Path) -> Result<GgufFile> {
        let file = GgufFile::examine(path)?;
        file.sound().map(|()| file)
    }

    /// As [`GgufFile::open`], whatever rules the headers break, as long as they can be followed.
    ///
    /// # Errors
    /// A file cannot be read, or its header cannot be followed.
    pub fn examine(path: &Path) -> Result<GgufFile> {
        let paths = parts::paths(path);
        if let Some(missing) = paths.iter().find(|part| !part.exists()) {
            let problem = format!("is not there; a split GGUF is read with all its {} parts", paths.len());
            return Err(Error::not_found(missing, problem));
        }
        let opened = paths.iter().map(|path| header(path)).collect::<Result<Vec<_>>>()?;
        let (maps, mut headers): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let (tensors, problems) = parts::join(&mut headers);
        Ok(GgufFile { maps, headers, tensors, problems })
    }

    /// Refuses a file that breaks a rule.
    ///
    /// # Errors
    /// It does.
    pub fn sound(&self) -> Result<()> {
        let refuse = |(part, problem): &(usize, HeaderProblem)| Err(Error::file(self.part(*part), problem.to_string()));
        self.problems.first().map_or(Ok(()), refuse)
    }

    /// The rules that it breaks, each with the part that does.
    pub fn problems(&self) -> &[(usize, HeaderProblem)] {
        &self.problems
    }

    /// The bytes of all parts, mapped.
    pub fn maps(&self) -> &[MappedFile] {
        &self.maps
    }

    /// Where the file lies; the first of a split one.
    pub fn path(&self) -> &Path {
        self.part(0)
    }

    /// Where a part lies.
    pub fn part(&self, part: usize) -> &Path {
        self.maps.get(part).map_or(Path::new(""), MappedFile::path)
    }

    /// Where the data of a part begin.
    pub fn data(&self, part: usize) -> usize {
        self.headers.get(part).map_or(0, |header| header.data)
    }

    /// What tensors of a part begin at multiples of.
    pub fn alignment(&self, part: usize) -> usize {
        self.headers.get(part).map_or(1, |header| header.alignment)
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.headers.first().map_or(0, |header| header.version)
    }

    /// All metadata in order of key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.headers.iter().take(1).flat_map(|header| &header.metadata).map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`, if there is one.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.headers.first()?.metadata.get(key)
    }

    /// A text, if there.
    ///
    /// # Errors
    /// It is something else or not UTF-8.
    pub fn str_opt(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Text(at)) => self.text(at.clone()).map(Some).ok_or_else(|| self.problem(key, "is not UTF-8")),
            Some(other) => Err(self.wrong(key, "a text", other)),
        }
    }

    /// A text that has to be there.
    ///
    /// # Errors
    /// It is missing, something else or not UTF-8.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.str_opt(key)?.ok_or_else(|| self.missing(key))
    }

    /// A whole number from 0 on, if there.
    ///
    /// # Errors
    /// It is something else.
    pub fn u64_opt(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(*n)),
            Some(Value::Signed(n)) if *n >= 0 => Ok(Some(n.unsigned_abs())),
            Some(other) => Err(self.wrong(key, "a whole number", other)),
        }
    }

    /// A size: a positive whole number of at most 32 bits that has to be there.
    ///
    /// # Errors
    /// It is missing, 0, too large or something else.
    pub fn size(&self, key: &str) -> Result<usize> {
        let n = self.u64_opt(key)?.ok_or_else(|| self.missing(key))?;
        match u32::try_from(n) {
            Ok(n) if n > 0 => Ok(n as usize),
            _ => Err(self.problem(key, format!("is {n}, expected a whole number from 1 to {}", u32::MAX))),
        }
    }

    /// A finite number, whole or not, if there; an f32 comes widened.
    ///
    /// # Errors
    /// It is something else.
    pub fn f64_opt(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(Value::Unsigned(n)) => Ok(Some(*n as f64)),
            Some(Value::Signed(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(self.wrong(key, "a finite number", other)),
        }
    }

    /// A finite number that has to be there.
    ///
    /// # Errors
    /// It is missing or something else.
    pub fn f64(&self, key: &str) -> Result<f64> {
        self.f64_opt(key)?.ok_or_else(|| self.missing(key))
    }

    /// A truth value, if there.
    ///
    /// # Errors
    /// It is something else.
    pub fn bool_opt(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// An array of texts, if there.
    ///
    /// # Errors
    /// It is something else, or a text in it is not UTF-8.
    pub fn strs_opt(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(array) = self.array_opt(key, ValueType::Text)? else { return Ok(None) };
        let truncated = || self.problem(key, "is truncated");
        let mut cursor = Cursor { bytes: self.bytes(0), at: array.bytes.start };
        let mut texts = Vec::with_capacity(array.count);
        for at in 0..array.count {
            let range = cursor.text(key).map_err(|_| truncated())?;
            texts.push(self.text(range).ok_or_else(|| self.problem(key, format!("[{at}] is not UTF-8")))?);
        }
        Ok(Some(texts))
    }

    /// An array of i32, if there.
    ///
    /// # Errors
    /// It is something else.
    pub fn i32s_opt(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.fixed_opt(key, ValueType::I32, i32::from_le_bytes)
    }

    /// An array of f32, if there.
    ///
    /// # Errors
    /// It is something else.
    pub fn f32s_opt(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.fixed_opt(key, ValueType::F32, f32::from_le_bytes)
    }

    /// All tensors in order of name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// How many tensors there are.
    pub fn tensor_count(&self) -> usize {
        self.tensors.len()
    }

    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Rows `rows` of a tensor, dequantized: (rows, all inner dimensions), f32. A row of a vector is one element.
    ///
    /// # Errors
    /// There is no such tensor or row, or its type cannot be read.
    pub fn rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<f32>> {
        let width = self.row_width(name, rows.end)?;
        let mut out = vec![0.0; rows.len().saturating_mul(width)];
        self.rows_into(name, rows.start, &mut out)?;
        Ok(out)
    }

    /// Elements in a row of a tensor that has at least `rows` rows.
    pub(super) fn row_width(&self, name: &str, rows: usize) -> Result<usize> {
        let info = self.tensor(name).ok_or_else(|| Error::tensor(self.path(), name, "is missing"))?;
        let (count, inner) = info.shape.split_first().map_or((1, &[][..]), |(count, inner)| (*count, inner));
        if rows > count {
            return Err(Error::tensor(self.path(), name, format!("has {count} rows, asked for row {}", rows - 1)));
        }
        Ok(inner.iter().product())
    }

    /// Fills `out` with the rows of a tensor from `row` on.
    pub(super) fn rows_into(&self, name: &str, row: usize, out: &mut [f32]) -> Result<()> {
        let width = self.row_width(name, row)?;
        self.values(name, row * width, out)
    }

    /// Fills `out` with the elements of a tensor from number `from` on, in the order in which they are stored.
    ///
    /// # Errors
    /// There is no such tensor, it has fewer elements, or its type cannot be read.
    pub fn values(&self, name: &str, from: usize, out: &mut [f32]) -> Result<()> {
        let info = self.tensor(name).ok_or_else(|| Error::tensor(self.path(), name, "is missing"))?;
        let fail = |problem: String| Error::tensor(self.part(info.part), name, problem);
        let block = info.ty.block_elements;
        let to = from + out.len();
        // A row of a matrix fills whole blocks (checked at opening); an element of a packed vector may not.
        let (first, last) = (from / block, to.div_ceil(block));
        let bytes = self.stored(info).get(first * info.ty.block_bytes..last * info.ty.block_bytes);
        let bytes = bytes.ok_or_else(|| fail("has fewer rows than were asked for".to_owned()))?;
        if from.is_multiple_of(block) && to.is_multiple_of(block) {
            return dequantize(info.ty, bytes, out).map_err(fail);
        }
        let mut whole = vec![0.0; (last - first) * block];
        dequantize(info.ty, bytes, &mut whole).map_err(fail)?;
        out.iter_mut().zip(whole.iter().skip(from - first * block)).for_each(|(y, x)| *y = *x);
        Ok(())
    }

    /// The bytes of a part.
    fn bytes(&self, part: usize) -> &[u8] {
        self.maps.get(part).map_or(&[], MappedFile::bytes)
    }

    /// Bytes of the part that has the metadata: a text's, an array's.
    pub(crate) fn bytes_of(&self, at: &Range<usize>) -> &[u8] {
        self.bytes(0).get(at.clone()).unwrap_or_default()
    }

    /// The bytes of a tensor as they are stored.
    pub fn stored(&self, info: &TensorInfo) -> &[u8] {
        self.bytes(info.part).get(info.bytes.clone()).unwrap_or_default()
    }

    /// An error about the value of a key.
    pub(super) fn problem(&self, key: &str, problem: impl Display) -> Error {
        Error::file(self.path(), format!("metadata {key} {problem}"))
    }

    fn missing(&self, key: &str) -> Error {
        Error::file(self.path(), format!("metadata {key} is missing; convert the model again"))
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        let found = match found {
            Value::Unsigned(n) => n.to_string(),
            Value::Signed(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::Text(_) => "a text".to_owned(),
            Value::Array(a) => format!("an array of {} {}", a.count, a.element.name()),
        };
        self.problem(key, format!("is {found}, expected {expected}"))
    }

    fn text(&self, at: Range<usize>) -> Option<&str> {
        self.bytes(0).get(at).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    fn array_opt(&self, key: &str, element: ValueType) -> Result<Option<&Array>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(a)) if a.element == element => Ok(Some(a)),
            Some(other) => Err(self.wrong(key, &format!("an array of {}", element.name()), other)),
        }
    }

    pub(super) fn fixed_opt<const N: usize, T>(
        &self,
        key: &str,
        element: ValueType,
        f: fn([u8; N]) -> T,
    ) -> Result<Option<Vec<T>>> {
        let Some(array) = self.array_opt(key, element)? else { return Ok(None) };
        let bytes = self.bytes(0).get(array.bytes.clone()).unwrap_or_default();
        Ok(Some(bytes.as_chunks::<N>().0.iter().map(|b| f(*b)).collect()))
    }
}

/// Maps a file and reads its header.
fn header(path: &Path) -> Result<(MappedFile, Header)> {
    let map = MappedFile::open(path)?;
    match StandIn::of_binary(map.bytes()) {
        None => {}
        Some(StandIn::Text(start)) => {
            return Err(Error::file(
                path,
                format!(
                    "is text that begins with {start:?}, expected a GGUF file; if it is named as one, fetch it again"
                ),
            ));
        }
        Some(stand_in) => return Err(Error::file(path, stand_in.to_string())),
    }
    let header = Header::examine(map.bytes()).map_err(|problem| Error::file(path, problem))?;
    Ok((map, header))
}
