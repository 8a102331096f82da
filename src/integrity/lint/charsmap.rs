//! SentencePiece's table of replacements, as a tokenizer.json has it: base64 of a tree of texts and of what they become.
//!
//! Those of published models (nmt_nfkc, nfkc and their forms without upper case) change which of Unicode's forms a letter
//! has, its case and its accents, spaces, and characters that cannot be seen.

use crate::worker::spelling::{SPACE, is_invisible};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokenizers::normalizers::StripAccents;
use tokenizers::{NormalizedString, Normalizer};

/// Bytes of a text that is replaced and of what replaces it, at most: of Unicode's own, some characters with their marks.
const LONGEST: usize = 64;
/// Characters that a form of one is made of, at most, of those in [`is_newer`].
const LONGEST_FORM: usize = 3;
/// Beginnings of texts that are replaced, at most, in all tables of a file: half as many again as the published tables
/// have.
pub(super) const MOST_NODES: usize = 400_000;

/// The first replacement that is none of forms of letters and signs, in words; none of a table that does nothing else.
/// `left` counts down how many nodes of tables may still be read.
pub(super) fn departure(base64: &str, left: &mut usize) -> Option<String> {
    match read(base64, left) {
        Some(replaced) => {
            let (text, by) = replaced.into_iter().find(|(text, by)| !is_usual(text, by))?;
            Some(format!("{text:?} becomes {by:?}"))
        }
        None => Some("its table of replacements cannot be read".into()),
    }
}

/// What is replaced, and by what.
fn read(base64: &str, left: &mut usize) -> Option<Vec<(String, String)>> {
    let bytes = BASE64_STANDARD.decode(base64).ok()?;
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let (tree, texts) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*size)).ok()?)?;
    let tree: Vec<u32> = tree.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let mut replaced = Vec::new();
    // Darts: a unit has a byte, whether something ends there, and where those that follow are.
    let mut found = vec![(offset(*tree.first()?), Vec::new())];
    while let Some((at, text)) = found.pop() {
        for byte in 1..=u8::MAX {
            let to = at ^ usize::from(byte);
            let Some(unit) = tree.get(to).filter(|unit| **unit & (1 << 31 | 0xff) == u32::from(byte)) else { continue };
            // Ends of texts may be shared, and a hostile one may lead back to itself.
            *left = left.checked_sub(1).filter(|_| text.len() < LONGEST)?;
            let text = [&text[..], &[byte]].concat();
            let next = to ^ offset(*unit);
            if unit >> 8 & 1 == 1 {
                let begins = usize::try_from(tree.get(next)? & !(1 << 31)).ok()?;
                let by = texts.get(begins..)?.split(|byte| *byte == 0).next().filter(|by| by.len() <= LONGEST)?;
                replaced.push((String::from_utf8(text.clone()).ok()?, String::from_utf8(by.to_vec()).ok()?));
            }
            found.push((next, text));
        }
    }
    Some(replaced)
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

/// Whether what replaces a text has its letters and signs, and a blank where it has one.
fn is_usual(text: &str, by: &str) -> bool {
    let is_blank = |c: char| c == SPACE || c.is_whitespace();
    let keeps_blanks = !text.contains([' ', '\t', '\n', SPACE]) || by.contains(is_blank);
    let length = |text: &str| text.chars().count();
    let is_newer = text.chars().any(is_newer)
        && text.chars().all(|c| is_newer(c) || shown(&c.to_string()).is_some_and(|shown| shown.is_empty()))
        && (1..=LONGEST_FORM * length(text)).contains(&length(by));
    text == by || is_newer || (keeps_blanks && shown(text) == shown(by))
}

/// Letters, digits and signs without case, accents, and the other forms that they have in Unicode.
fn shown(text: &str) -> Option<String> {
    // Unicode's case folding: ẞ and ß are both ss.
    let lower = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<String>();
    let cased = |text: &str| lower(&lower(text).chars().flat_map(char::to_uppercase).collect::<String>());
    let mut text = NormalizedString::from(text);
    text.nfkd();
    let mut text = NormalizedString::from(cased(text.get()));
    text.nfkd();
    StripAccents.normalize(&mut text).ok()?;
    let is_shown = |c: &char| !(c.is_whitespace() || c.is_control() || is_invisible(*c));
    Some(text.get().chars().filter(|c| is_shown(c) && ![SPACE, char::REPLACEMENT_CHARACTER].contains(c)).collect())
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

    fn told(table: &str) -> Option<String> {
        departure(table, &mut MOST_NODES.clone())
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
            ("（", "("),
            ("´", " \u{301}"),
            ("\t", " "),
            ("\u{b}", ""),
            ("🉀", "〔本〕"),
        ];
        assert_eq!(told(&table(&usual)), None);
        for (text, by) in
            [("好", "坏"), ("hate", "love"), ("not ", " "), (" ", " not "), ("1", "2"), ("д", "т"), ("é", "")]
                .into_iter()
                .chain([
                    ("<", ">"),
                    ("-", "+"),
                    (".", ""),
                    ("!=", "=="),
                    ("（", ")"),
                    ("€", "$"),
                    (" ", ""),
                    ("\n", ""),
                ])
                .chain([("🉀", "insults"), ("!🉀", ""), ("🉀 ", "")])
        {
            let table = table(&[("ａ", "a"), (text, by), ("①", "1")]);
            assert_eq!(told(&table), Some(format!("{text:?} becomes {by:?}")));
        }
        // As the tokenizers crate reads it.
        let json =
            serde_json::json!({"type": "Precompiled", "precompiled_charsmap": table(&[("ａ", "a"), ("好", "坏")])});
        let mut text = NormalizedString::from("ａ好");
        serde_json::from_value::<NormalizerWrapper>(json).unwrap().normalize(&mut text).unwrap();
        assert_eq!(text.get(), "a坏");
    }

    #[test]
    fn nodes_are_counted_over_all_tables() {
        let table = table(&[("ａ", "a"), ("①", "1")]);
        let mut left = 8;
        assert_eq!((departure(&table, &mut left), left), (None, 2));
        assert!(departure(&table, &mut left).is_some());
    }

    #[test]
    fn what_is_no_table_is_told() {
        // Any number of times the letter a.
        let mut tree = vec![0u32; 256];
        tree[97] = 97 << 10 | 97;
        let bytes = [1024u32].iter().chain(&tree).flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>();
        for table in ["!", "AA==", "////////", &BASE64_STANDARD.encode(&bytes)] {
            assert!(told(table).is_some_and(|told| told.contains("cannot be read")), "{table}");
        }
    }
}
