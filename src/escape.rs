//! Text that leaves: what a checkpoint says of itself must not drive a terminal, forge a line of a log, hide from its
//! reader, or be taken for a command by the build server whose log it is in.

use std::ops::RangeInclusive;

/// Letters and marks that have no width or look like a space.
const BLANK: [RangeInclusive<char>; 9] = [
    '\u{34f}'..='\u{34f}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{e0100}'..='\u{e01ef}',
];

/// Whether a character shows as itself: controls do not (C1 among them), nor what turns the direction of writing
/// around, has no width, or is no character at all.
pub fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // After a letter, as by itself an accent would be escaped too.
    let after_letter = String::from_iter(['a', c]);
    after_letter.escape_debug().nth(1) == Some(c) && !BLANK.iter().any(|range| range.contains(&c))
}

/// The text with all that is not printable escaped, as Rust writes it.
pub fn printable(text: &str) -> String {
    replaced(text, |c| !is_printable(c), rust)
}

/// Lines for a terminal or a log: as [`printable`], but for their ends, and without commands to a build server: `::` at
/// the beginning of a line and `##[`, `##vso[`, `##teamcity[` anywhere.
pub fn lines(text: &str) -> String {
    let mut commands = Commands::default();
    replaced(text, |c| commands.is_completed_by(c) || !(is_printable(c) || c == '\n'), rust)
}

fn rust(c: char) -> String {
    match c {
        '\n' | '\r' | '\t' => c.escape_default().to_string(),
        c => c.escape_unicode().to_string(),
    }
}

/// A JSON document in which every string is as harmless as by [`lines`], and which says the same.
pub fn json(document: &str) -> String {
    let mut commands = Commands::default();
    let not_shown = |c: char| commands.is_completed_by(c) || !(is_printable(c) || c == '\n');
    let escaped = |c: char| c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect();
    replaced(document, not_shown, escaped)
}

/// Text in XML 1.0 or HTML, in an element or in a quoted attribute. What is not printable is shown as Rust escapes.
pub fn markup(text: &str) -> String {
    let mut commands = Commands::default();
    let special = |c: char| commands.is_completed_by(c) || matches!(c, '&' | '<' | '>' | '"' | '\'');
    replaced(&printable(text), special, |c| match c {
        '&' => "&amp;".into(),
        '<' => "&lt;".into(),
        '>' => "&gt;".into(),
        '"' => "&quot;".into(),
        c => format!("&#{};", u32::from(c)),
    })
}

fn replaced(text: &str, mut which: impl FnMut(char) -> bool, by: impl Fn(char) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match which(c) {
            true => out += &by(c),
            false => out.push(c),
        }
    }
    out
}

/// What of a build server's command has been read.
#[derive(Default)]
struct Commands {
    /// `#` in a row.
    hashes: usize,
    /// Letters after them.
    word: bool,
    line: Line,
}

/// What has been read of a line.
#[derive(Default, PartialEq)]
enum Line {
    #[default]
    White,
    Colon,
    More,
}

impl Commands {
    fn is_completed_by(&mut self, c: char) -> bool {
        let completed = c == '[' && self.hashes >= 2 || c == ':' && self.line == Line::Colon;
        match c {
            '#' if self.word => (self.hashes, self.word) = (1, false),
            '#' => self.hashes += 1,
            c if c.is_ascii_alphanumeric() && self.hashes >= 2 => self.word = true,
            _ => (self.hashes, self.word) = (0, false),
        }
        self.line = match self.line {
            _ if c == '\n' => Line::White,
            Line::White if c.is_whitespace() => Line::White,
            Line::White if c == ':' => Line::Colon,
            _ => Line::More,
        };
        completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_show_is_escaped_and_what_does_is_not() {
        let shown = "naïve e\u{301} 模型 – … × ε “x” \"y\" \\ 🦀";
        assert_eq!(printable(shown), shown);
        let table = [
            ("a\u{1b}[31m\u{7}\r\n\t", r"a\u{1b}[31m\u{7}\r\n\t"),
            ("\u{80}\u{9b}31m\u{85}\u{9d}\u{7f}", r"\u{80}\u{9b}31m\u{85}\u{9d}\u{7f}"),
            ("\u{202e}gpj\u{2066}\u{200e}\u{61c}", r"\u{202e}gpj\u{2066}\u{200e}\u{61c}"),
            (
                "a\u{200b}b\u{200c}c\u{200d}d\u{2060}e\u{feff}f\u{ad}",
                r"a\u{200b}b\u{200c}c\u{200d}d\u{2060}e\u{feff}f\u{ad}",
            ),
            ("\u{fe0f}\u{e0101}\u{e0041}\u{34f}\u{3164}\u{2028}", r"\u{fe0f}\u{e0101}\u{e0041}\u{34f}\u{3164}\u{2028}"),
        ];
        for (text, expected) in table {
            assert_eq!(printable(text), expected);
            assert_eq!(printable(expected), expected, "once is enough");
        }
    }

    #[test]
    fn commands_to_build_servers_are_broken_wherever_they_count() {
        let table = [
            ("::error::x\n  ::stop-commands::y\nz ::", ":\\u{3a}error::x\n  :\\u{3a}stop-commands::y\nz ::"),
            ("a ##[add-mask]b ##vso[c] ##teamcity[d]", r"a ##\u{5b}add-mask]b ##vso\u{5b}c] ##teamcity\u{5b}d]"),
            ("###[x] # [1] #[2] ## heading [3] ##a#[4]", r"###\u{5b}x] # [1] #[2] ## heading [3] ##a#[4]"),
        ];
        for (text, expected) in table {
            assert_eq!(lines(text), expected);
        }
        assert_eq!(lines("a\u{9b}\tb\nc"), "a\\u{9b}\\tb\nc");
    }

    #[test]
    fn a_document_says_the_same() {
        let value = serde_json::json!({"##[group]": ["::error::\u{9b}\u{202e}\u{1f980}\u{e0041}\n\u{7f}", [1]]});
        let text = json(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert_eq!(lines(&text), text);
        let markup = markup("<a b='1' c=\"2\">\u{202e}&##[x]\n");
        assert_eq!(markup, r"&lt;a b=&#39;1&#39; c=&quot;2&quot;&gt;\u{202e}&amp;##&#91;x]\n");
        assert_eq!(lines(&markup), markup);
    }
}
