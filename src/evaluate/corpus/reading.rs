//! How a corpus is read.

use super::super::words::strip;
use super::format::TextFormat;

/// How a corpus is read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// How its files hold texts; by their names where nothing is said.
    pub format: Option<TextFormat>,
    /// The column of Parquet, or the key of JSON lines, that holds the texts: `text` where nothing is said.
    pub column: Option<String>,
    /// Where reading may stop; nowhere before the end where nothing is said.
    pub enough: Option<Enough>,
}

/// When a corpus need not be read any further: data sets may be larger than any memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enough {
    /// So many texts are there …
    pub texts: usize,
    /// … of more than so many characters, white space at the ends aside.
    pub longer_than: usize,
}

impl Reading {
    /// The column, or the key.
    pub fn column(&self) -> &str {
        self.column.as_deref().unwrap_or("text")
    }

    pub(super) fn is_enough(&self, texts: &[String]) -> bool {
        self.enough.is_some_and(|Enough { texts: most, longer_than }| {
            let long = |text: &&String| longer_than == 0 || strip(text).chars().nth(longer_than).is_some();
            texts.len() >= most && texts.iter().filter(long).take(most).count() >= most
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_is_enough_long_texts() {
        let reading = |enough| Reading { enough, ..Reading::default() };
        let texts = ["abcd", " abc ", "abcde"].map(str::to_owned);
        for (most, longer_than, is_enough) in [(2, 3, true), (3, 3, false), (3, 2, true), (3, 0, true), (4, 0, false)] {
            let enough = Some(Enough { texts: most, longer_than });
            assert_eq!(reading(enough).is_enough(&texts), is_enough, "{most} {longer_than}");
        }
        assert!(!reading(None).is_enough(&texts));
    }
}
