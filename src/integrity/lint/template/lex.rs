//! Jinja's lexer, as far as lint needs it: what is an expression or a statement, and what is text, raw or a comment.

/// A piece of an expression or a statement.
#[derive(Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A `{{ }}` or `{% %}` begins.
    Begin {
        /// It is a `{% %}`.
        statement: bool,
    },
    Name(&'a str),
    Number(&'a str),
    /// A string, its escapes resolved.
    Text(String),
    /// A single character of anything else.
    Other(char),
    End,
}

/// Gives `see` the tokens within `{{ }}` and `{% %}`, and where they begin.
pub(super) fn lex<'a>(template: &'a str, see: &mut dyn FnMut(usize, Token<'a>)) {
    let mut at = 0;
    let mut raw_ends = true;
    while let Some(begin) = opening(template, at) {
        let rest = &template[begin..];
        if rest.starts_with("{#") {
            at = rest.find("#}").map_or(template.len(), |end| begin + end + 2);
            continue;
        }
        let statement = rest.starts_with("{%");
        if statement
            && raw_ends
            && let Some(inner) = tag(rest, "raw")
        {
            if let Some(end) = end_of_raw(inner) {
                at = template.len() - end.len();
                continue;
            }
            // Not looked for again and again.
            raw_ends = false;
        }
        see(begin, Token::Begin { statement });
        at = block(template, begin + 2, statement, see);
        see(at, Token::End);
    }
}

/// Where the next block or comment begins.
fn opening(template: &str, from: usize) -> Option<usize> {
    let mut braces = template[from..].match_indices('{').map(|(at, _)| from + at);
    braces.find(|at| template[at + 1..].starts_with(['{', '%', '#']))
}

/// What follows a tag of this one word, such as `{%- raw %}`, if the text begins with it.
fn tag<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let inner = text.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let after = inner.trim_start().strip_prefix(word)?.trim_start();
    after.strip_prefix(['-', '+']).unwrap_or(after).strip_prefix("%}")
}

/// What follows the first `{% endraw %}`.
fn end_of_raw(text: &str) -> Option<&str> {
    text.match_indices("{%").find_map(|(at, _)| tag(&text[at..], "endraw"))
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The tokens of one block from `at` on; where it ends.
fn block<'a>(template: &'a str, mut at: usize, statement: bool, see: &mut dyn FnMut(usize, Token<'a>)) -> usize {
    let end = if statement { "%}" } else { "}}" };
    // Open brackets of all kinds: within them nothing ends the block.
    let mut depth = 0usize;
    while let Some(c) = template[at..].chars().next() {
        if depth == 0 && template[at..].starts_with(end) {
            return at + end.len();
        }
        let offset = at;
        at += c.len_utf8();
        let token = match c {
            _ if c.is_whitespace() => continue,
            '\'' | '"' => {
                let (text, end) = string(template, at, c);
                at = end;
                Token::Text(text)
            }
            _ if is_name(c) => {
                let rest = &template[offset..];
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                at = offset + end;
                if c.is_ascii_digit() { Token::Number(&rest[..end]) } else { Token::Name(&rest[..end]) }
            }
            _ => {
                match c {
                    '{' | '(' | '[' => depth += 1,
                    '}' | ')' | ']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                Token::Other(c)
            }
        };
        see(offset, token);
    }
    at
}

/// A string up to its closing quote, escapes resolved as Python's `unicode-escape` does, which Jinja uses.
fn string(template: &str, mut at: usize, quote: char) -> (String, usize) {
    let mut text = String::new();
    while let Some(c) = template[at..].chars().next() {
        at += c.len_utf8();
        if c == quote {
            break;
        }
        if c != '\\' {
            text.push(c);
            continue;
        }
        let (c, used) = escape(&template[at..]);
        text.extend(c);
        at += used;
    }
    (text, at)
}

/// What an escape after its backslash stands for, and how many bytes it is long.
fn escape(rest: &str) -> (Option<char>, usize) {
    let Some(kind) = rest.chars().next() else { return (None, 0) };
    let digits = |from: usize, most: usize, radix: u32| {
        let length = rest[from..].bytes().take(most).take_while(|b| (*b as char).is_digit(radix)).count();
        let value = u32::from_str_radix(&rest[from..from + length], radix).ok().and_then(char::from_u32);
        (value, from + length)
    };
    match kind {
        'x' => digits(1, 2, 16),
        'u' => digits(1, 4, 16),
        'U' => digits(1, 8, 16),
        '0'..='7' => digits(0, 3, 8),
        'N' if rest[1..].starts_with('{') => {
            let end = rest.find('}').map_or(rest.len(), |end| end + 1);
            (rest[..end].eq_ignore_ascii_case("N{LOW LINE}").then_some('_'), end)
        }
        'n' => (Some('\n'), 1),
        't' => (Some('\t'), 1),
        'r' => (Some('\r'), 1),
        '\n' => (None, 1),
        other => (Some(other), other.len_utf8()),
    }
}
