//! Metadata of a family: values of each layer, numbers as they were written.

use super::file::GgufFile;
use super::header::{Value, ValueType};
use crate::error::Result;

impl GgufFile {
    /// As [`GgufFile::f64`], an f32 as the shortest decimal number that it is nearest to: what was written, most likely.
    ///
    /// # Errors
    /// As there.
    pub(super) fn decimal(&self, key: &str) -> Result<f64> {
        let number = self.f64(key)?;
        let single = number as f32;
        Ok(if f64::from(single) == number { single.to_string().parse().unwrap_or(number) } else { number })
    }

    /// A whole number for each layer, or one for all, if there.
    ///
    /// # Errors
    /// It is something else, or there are fewer than layers.
    pub(super) fn sizes_opt(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>> {
        let number = |n: u64| u32::try_from(n).map(|n| n as usize);
        let sizes: Vec<usize> = match self.get(key) {
            Some(Value::Array(array)) => {
                let each = match array.element {
                    ValueType::U32 => self.fixed_opt(key, ValueType::U32, |b| u64::from(u32::from_le_bytes(b)))?,
                    _ => self.i32s_opt(key)?.map(|each| each.into_iter().map(|n| n.max(0) as u64).collect()),
                };
                let each = each.unwrap_or_default();
                each.into_iter().map(number).collect::<std::result::Result<_, _>>().unwrap_or_default()
            }
            _ => match self.u64_opt(key)?.map(number) {
                None => return Ok(None),
                Some(n) => vec![n.map_err(|_| self.problem(key, "is too large"))?; layers],
            },
        };
        self.of_each_layer(key, sizes, layers).map(Some)
    }

    /// A truth value for each layer, if there.
    ///
    /// # Errors
    /// It is something else, or there are fewer than layers.
    pub(super) fn flags_opt(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        let flags = self.fixed_opt(key, ValueType::Bool, |[flag]: [u8; 1]| flag != 0)?;
        flags.map(|flags| self.of_each_layer(key, flags, layers)).transpose()
    }

    fn of_each_layer<T>(&self, key: &str, mut each: Vec<T>, layers: usize) -> Result<Vec<T>> {
        if each.len() < layers {
            return Err(
                self.problem(key, format!("has {} values, expected one for each of {layers} layers", each.len()))
            );
        }
        each.truncate(layers);
        Ok(each)
    }
}
