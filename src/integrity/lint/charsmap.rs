//! SentencePiece's table of replacements, as a tokenizer.json has it: base64 of a tree of texts and of what they become.
//!
//! Those of published models (nmt_nfkc, nfkc and their forms without upper case) change which of Unicode's forms a letter
//! has, its case and its accents, spaces, and characters that cannot be seen.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokenizers::normalizers::StripAccents;
use tokenizers::{NormalizedString, Normalizer};

/// Bytes of a text that is replaced and of what replaces it, at most: of Unicode's own, some characters with their marks.
const LONGEST: usize = 64;
/// Beginnings of texts that are replaced, at most: half as many again as the published tables have.
const MOST_NODES: usize = 400_000;

/// The first replacement that is none of forms of letters, in words; none of a table that does nothing else.
pub(super) fn departure(base64: &str) -> Option<String> {
    match read(base64) {
        Some(replaced) => {
            let (text, by) = replaced.into_iter().find(|(text, by)| !is_usual(text, by))?;
            Some(format!("{text:?} becomes {by:?}"))
        }
        None => Some("its table of replacements cannot be read".into()),
    }
}

/// What is replaced, and by what.
fn read(base64: &str) -> Option<Vec<(String, String)>> {
    let bytes = BASE64_STANDARD.decode(base64).ok()?;
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let (tree, texts) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*size)).ok()?)?;
    let tree: Vec<u32> = tree.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let mut replaced = Vec::new();
    // Darts: a unit has a byte, whether something ends there, and where those that follow are.
    let mut nodes = 0;
    let mut left = vec![(offset(*tree.first()?), Vec::new())];
    while let Some((at, text)) = left.pop() {
        for byte in 1..=u8::MAX {
            let to = at ^ usize::from(byte);
            let Some(unit) = tree.get(to).filter(|unit| **unit & (1 << 31 | 0xff) == u32::from(byte)) else { continue };
            // Ends of texts may be shared, and a hostile one may lead back to itself.
            nodes += 1;
            if nodes > MOST_NODES || text.len() >= LONGEST {
                return None;
            }
            let text = [&text[..], &[byte]].concat();
            let next = to ^ offset(*unit);
            if unit >> 8 & 1 == 1 {
                let begins = usize::try_from(tree.get(next)? & !(1 << 31)).ok()?;
                let by = texts.get(begins..)?.split(|byte| *byte == 0).next().filter(|by| by.len() <= LONGEST)?;
                replaced.push((String::from_utf8(text.clone()).ok()?, String::from_utf8(by.to_vec()).ok()?));
            }
            left.push((next, text));
        }
    }
    Some(replaced)
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

/// Whether what replaces a text has its letters.
fn is_usual(text: &str, by: &str) -> bool {
    let is_newer = text.chars().any(is_newer) && text.chars().all(|c| is_newer(c) || !c.is_alphanumeric());
    text == by || is_newer || letters(text) == letters(by)
}

/// Letters and digits without case, accents, and the other forms that they have in Unicode.
fn letters(text: &str) -> Option<String> {
    // Unicode's case folding: ẞ and ß are both ss.
    let lower = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<String>();
    let cased = |text: &str| lower(&lower(text).chars().flat_map(char::to_uppercase).collect::<String>());
    let mut text = NormalizedString::from(text);
    text.nfkd();
    let mut text = NormalizedString::from(cased(text.get()));
    text.nfkd();
    StripAccents.normalize(&mut text).ok()?;
    Some(text.get().chars().filter(|c| c.is_alphanumeric()).collect())
}

/// Where the forms of letters, digits and signs are that Unicode has got since the tables of the tokenizers crate (9.0),
/// and old scripts.
fn is_newer(c: char) -> bool {
    matches!(c, '\u{32ff}' | '\u{a7f1}'..='\u{a7f9}' | '\u{ab60}'..='\u{ab6b}' | '\u{10000}'..='\u{1f2ff}' | '\u{1fbf0}'..='\u{1fbf9}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::NormalizerWrapper;

    /// A table of these, each node of its tree in a block of its own.
    fn table(replaced: &[(&str, &str)]) -> String {
        let (mut tree, mut texts) = (vec![0u32; 256], Vec::new());
        for (text, by) in replaced {
            let mut block = 0;
            for (at, byte) in text.bytes().enumerate() {
                let to = block ^ usize::from(byte);
                if tree[to] == 0 {
                    tree[to] = ((tree.len() ^ to) << 10) as u32 | u32::from(byte);
                    tree.resize(tree.len() + 256, 0);
                }
                block = to ^ offset(tree[to]);
                tree[to] |= u32::from(at + 1 == text.len()) << 8;
            }
            tree[block] = 1 << 31 | texts.len() as u32;
            texts.extend([by.as_bytes(), &[0]].concat());
        }
        let tree: Vec<u8> = tree.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        BASE64_STANDARD.encode([&(tree.len() as u32).to_le_bytes()[..], &tree, &texts].concat())
    }

    #[test]
    fn forms_of_letters_are_let_be_and_other_words_are_told() {
        // Of nmt_nfkc and nmt_nfkc_cf.
        let usual = [
            ("ａ", "a"),
            ("é", "e\u{301}"),
            ("e\u{301}", "é"),
            ("½", "1⁄2"),
            ("ﬁ", "fi"),
            ("A", "a"),
            ("ß", "ss"),
            ("ẞ", "ß"),
            ("ς", "σ"),
            ("ᾳ", "αι"),
            ("①", "1"),
            ("가", "가"),
            ("\u{3000}", " "),
            ("\u{200b}", ""),
            ("\u{fffd}", " "),
            ("▁", " "),
            ("\n", " "),
            ("…", "..."),
            ("㋿", "令和"),
        ];
        assert_eq!(departure(&table(&usual)), None);
        for (text, by) in
            [("好", "坏"), ("hate", "love"), ("not ", " "), (" ", " not "), ("1", "2"), ("д", "т"), ("é", "")]
        {
            let table = table(&[("ａ", "a"), (text, by), ("①", "1")]);
            assert_eq!(departure(&table), Some(format!("{text:?} becomes {by:?}")));
        }
        // As the tokenizers crate reads it.
        let json =
            serde_json::json!({"type": "Precompiled", "precompiled_charsmap": table(&[("ａ", "a"), ("好", "坏")])});
        let mut text = NormalizedString::from("ａ好");
        serde_json::from_value::<NormalizerWrapper>(json).unwrap().normalize(&mut text).unwrap();
        assert_eq!(text.get(), "a坏");
    }

    #[test]
    fn what_is_no_table_is_told() {
        // Any number of times the letter a.
        let mut tree = vec![0u32; 256];
        tree[97] = 97 << 10 | 97;
        let bytes = [1024u32].iter().chain(&tree).flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>();
        for table in ["!", "AA==", "////////", &BASE64_STANDARD.encode(&bytes)] {
            assert!(departure(table).is_some_and(|told| told.contains("cannot be read")), "{table}");
        }
    }
}
