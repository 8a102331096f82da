//! Sizes in bytes, as people write and read them.

use super::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A byte count for people. It prints as `512 B`, `1.5 GiB`, and is read with any unit: `8GB`, `512MiB`, `1.5 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(
    /// The count.
    pub u64,
);

/// What is read, and how many bytes it is.
const UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 { write!(f, "{} B", self.0) } else { write!(f, "{value:.1} {}", units[unit]) }
    }
}

impl FromStr for Bytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = || {
            let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            let unit = UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(&text[number.len()..]))?.1;
            let number = number.trim_end();
            // Not what f64 reads besides: signs, exponents, names.
            let is_plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
            let bytes = number.parse::<f64>().ok().filter(|_| is_plain)? * unit as f64;
            (bytes < u64::MAX as f64).then_some(Bytes(bytes.round() as u64))
        };
        parsed()
            .ok_or_else(|| Error::input(format!("size {text:?}: expected a number with a unit, such as 8GB or 512MiB")))
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [
            ("8GB", 8_000_000_000),
            ("512MiB", 512 << 20),
            ("1.5 GiB", 3 << 29),
            ("0.5kb", 500),
            ("7B", 7),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
        for text in
            ["", "8", "GB", "-1GB", "+1GB", "1e3GB", "infB", "NaNB", "8 G", "8GBit", "99999999999999TB", "1.2.3GB"]
        {
            let problem = text.parse::<Bytes>().unwrap_err().to_string();
            assert!(problem.contains("expected a number with a unit, such as 8GB"), "{text}: {problem}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        for bytes in [0, 512, 1 << 20, 3 << 29] {
            assert_eq!(Bytes(bytes).to_string().parse::<Bytes>().unwrap(), Bytes(bytes));
        }
    }
}
