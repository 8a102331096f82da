//! White space and words as Python counts them, whose programs the protocols are from.

/// What `str.isspace`, `str.strip` and `\s` of `re` mean by white space: Unicode's, and four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `text.strip()`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `len(re.split(r"\s+", text))`: one more than there are runs of white space, those at the ends too.
pub(super) fn count(text: &str) -> usize {
    let (mut runs, mut within) = (0, false);
    for c in text.chars() {
        runs += usize::from(is_space(c) && !within);
        within = is_space(c);
    }
    runs + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_python() {
        // [len(re.split(r"\s+", text)) for text in …]
        for (text, words) in [
            ("", 1),
            (" ", 2),
            ("one", 1),
            ("one  two\n", 3),
            (" a\u{1c}b\u{a0}c", 4),
            ("词\u{3000}语", 2),
            ("a\u{200b}b", 1),
        ] {
            assert_eq!(count(text), words, "{text:?}");
        }
        assert_eq!(strip("\u{1f} a b\u{2028}\t"), "a b");
    }
}
