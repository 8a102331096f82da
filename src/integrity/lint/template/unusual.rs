//! What a template uses that published templates do not: it may come to something else in Jinja than in the renderer
//! that it is tried with, or pick a text by what no chat that is tried has.

use super::lex::{Token, lex};
use std::collections::{BTreeMap, BTreeSet};

const STATEMENTS: &[&str] = &[
    "if",
    "elif",
    "else",
    "endif",
    "for",
    "endfor",
    "set",
    "endset",
    "macro",
    "endmacro",
    "call",
    "endcall",
    "with",
    "endwith",
    "generation",
    "endgeneration",
    "break",
    "continue",
    "raw",
    "endraw",
    "do",
];
const FILTERS: &[&str] = &[
    "trim",
    "length",
    "count",
    "tojson",
    "string",
    "default",
    "d",
    "join",
    "first",
    "last",
    "list",
    "map",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "reverse",
    "items",
    "upper",
    "lower",
    "capitalize",
    "title",
    "safe",
    "e",
    "escape",
    "indent",
    "unique",
    "sort",
    "int",
    "replace",
    "batch",
    "dictsort",
    "from_json",
    "fromjson",
];
const TESTS: &[&str] = &[
    "defined",
    "undefined",
    "none",
    "string",
    "iterable",
    "mapping",
    "sequence",
    "number",
    "integer",
    "float",
    "boolean",
    "true",
    "false",
    "True",
    "False",
    "None",
    "equalto",
    "eq",
    "ne",
    "in",
    "not",
    "odd",
    "even",
    "sameas",
    "divisibleby",
    "lower",
    "upper",
];
const METHODS: &[&str] = &[
    "split",
    "strip",
    "lstrip",
    "rstrip",
    "startswith",
    "endswith",
    "items",
    "keys",
    "values",
    "get",
    "replace",
    "upper",
    "lower",
    "title",
    "capitalize",
    "append",
    "join",
    "format",
    "find",
    "rsplit",
    "splitlines",
    "encode",
    "decode",
    "removeprefix",
    "removesuffix",
];
const FUNCTIONS: &[&str] =
    &["range", "namespace", "raise_exception", "strftime_now", "dict", "cycler", "joiner", "loop", "caller"];
/// Words after which a bracket calls nothing.
const WORDS: &[&str] = &["if", "elif", "else", "and", "or", "not", "in", "is", "set", "for", "do", "recursive"];
/// What a dictionary has in Jinja whether or not it has such a key.
const OF_DICTIONARIES: &[&str] = &["keys", "values", "items", "get", "pop", "copy", "update", "clear", "setdefault"];
/// Sorts of them that are told.
const MOST: usize = 10;

/// What is unusual in a template, as words.
pub fn unusual(template: &str) -> Vec<String> {
    let mut scan = Scan::default();
    let mut tokens = Vec::new();
    lex(template, &mut |offset, token| {
        if let Token::Text(text) = &token {
            scan.escapes(&template[offset..], text);
        }
        tokens.push(token);
    });
    scan.names(&tokens);
    scan.all(&tokens);
    scan.found.into_iter().take(MOST).collect()
}

#[derive(Default)]
struct Scan<'a> {
    found: BTreeSet<String>,
    macros: BTreeSet<&'a str>,
    /// Names that are a literal dictionary or list, somewhere.
    tables: BTreeSet<&'a str>,
}

impl<'a> Scan<'a> {
    fn tell(&mut self, what: impl Into<String>) {
        self.found.insert(what.into());
    }

    /// Escapes that are not read alike, and signs that Python takes for white space.
    fn escapes(&mut self, literal: &str, text: &str) {
        let mut characters = literal.chars();
        let quote = characters.next();
        while let Some(c) = characters.next().filter(|c| Some(*c) != quote) {
            if c != '\\' {
                continue;
            }
            match characters.next() {
                Some('n' | 't' | 'r' | '\\' | '\'' | '"' | 'x' | '0'..='7') => {}
                Some('u') if !is_surrogate(characters.as_str()) => {}
                Some(c) => self.tell(format!("the escape {:?}", format!("\\{c}"))),
                None => {}
            }
        }
        if text.chars().any(|c| c.is_control() && !"\n\t\r".contains(c)) {
            self.tell("control characters in a text");
        }
    }

    fn names(&mut self, tokens: &[Token<'a>]) {
        for window in tokens.windows(4) {
            match window {
                [Token::Begin { .. }, Token::Name("macro"), Token::Name(name), _]
                | [Token::Other('-' | '+'), Token::Name("macro"), Token::Name(name), _] => {
                    self.macros.insert(name);
                }
                [Token::Name(name), Token::Other('='), Token::Other('{'), _] => {
                    self.tables.insert(name);
                }
                [Token::Name(name), Token::Other('='), Token::Other('['), next] if *next != Token::Other(']') => {
                    self.tables.insert(name);
                }
                _ => {}
            }
        }
    }

    fn all(&mut self, tokens: &[Token<'a>]) {
        let (begins, ends) = brackets(tokens);
        let none = Token::End;
        let piece = |at: usize| tokens.get(at).unwrap_or(&none);
        let (mut statement, mut first) = (false, None);
        for (at, token) in tokens.iter().enumerate() {
            let (before, next) = (at.checked_sub(1).map_or(&none, piece), piece(at + 1));
            match token {
                Token::Begin { statement: is_one } => (statement, first) = (*is_one, None),
                Token::Name(name) if statement && first.is_none() => {
                    first = Some(*name);
                    if !STATEMENTS.contains(name) {
                        self.tell(format!("the statement {name}"));
                    }
                }
                Token::Name(name) => self.name(name, before, piece(at.saturating_sub(2)), next, first),
                Token::Number(number) => {
                    let is_float = (*next == Token::Other('.') && matches!(piece(at + 2), Token::Number(_)))
                        || number.contains(|c: char| !c.is_ascii_digit());
                    if is_float {
                        self.tell("numbers that are not whole");
                    }
                }
                Token::Other('%') if !matches!(next, Token::Number(_)) || matches!(before, Token::Text(_)) => {
                    self.tell("% of what may be a text");
                }
                Token::Other('/') if ![before, next].contains(&&Token::Other('/')) => self.tell("a division"),
                Token::Other('*') if !matches!((before, next), (Token::Number(_), _) | (_, Token::Number(_))) => {
                    self.tell("a product of what is computed");
                }
                _ => {}
            }
            // What is picked from a table.
            let opened = match token {
                Token::Other('[') => Some((before, at)),
                Token::Other('(')
                    if *before == Token::Name("get") && *piece(at.saturating_sub(2)) == Token::Other('.') =>
                {
                    Some((piece(at.saturating_sub(3)), at))
                }
                _ => None,
            };
            if let Some((of, at)) = opened {
                let is_table = match of {
                    Token::Name(name) => self.tables.contains(name),
                    Token::Text(_) | Token::Other('}') => true,
                    // A list or what is in parentheses, and no subscript or call.
                    Token::Other(']' | ')') => {
                        let closes = at - if *token == Token::Other('[') { 1 } else { 3 };
                        let outer = begins.get(&closes).and_then(|begin| begin.checked_sub(1)).map_or(&none, piece);
                        !is_value(outer) || *outer == Token::Name("dict")
                    }
                    _ => false,
                };
                let end = ends.get(&at).copied().unwrap_or(tokens.len());
                if is_table && !is_plain_key(&tokens[(at + 1).min(end)..end]) {
                    self.tell("a look-up in a table of its own by what is computed");
                }
            }
        }
    }

    fn name(&mut self, name: &'a str, before: &Token, second: &Token, next: &Token, first: Option<&str>) {
        let calls = *next == Token::Other('(');
        let is_test = *before == Token::Name("is") || (*before == Token::Name("not") && *second == Token::Name("is"));
        match before {
            Token::Other('|') => {
                if !FILTERS.contains(&name) {
                    self.tell(format!("the filter {name}"));
                } else if name == "string" && matches!(second, Token::Number(_) | Token::Other('}')) {
                    self.tell("the text of what is none");
                }
            }
            Token::Other('.') if calls => {
                if !METHODS.contains(&name) && !self.macros.contains(name) {
                    self.tell(format!("the method {name}"));
                } else if name == "split" && matches!(second, Token::Text(_)) {
                    self.tell("a text of its own that is split");
                }
            }
            Token::Other('.') if OF_DICTIONARIES.contains(&name) => self.tell(format!("the method {name} itself")),
            _ if is_test && !TESTS.contains(&name) => self.tell(format!("the test {name}")),
            _ if calls && !is_test && *before != Token::Other('.') && !WORDS.contains(&name) => {
                let is_known = FUNCTIONS.contains(&name) || self.macros.contains(name);
                if !is_known {
                    self.tell(format!("the function {name}"));
                } else if name == "range" && first != Some("for") {
                    self.tell("a range that is no loop's");
                }
            }
            _ => {}
        }
    }
}

/// The halves of a pair are no characters in Python.
fn is_surrogate(digits: &str) -> bool {
    let mut digits = digits.chars();
    matches!((digits.next(), digits.next()), (Some('d' | 'D'), Some('8'..='9' | 'a'..='f' | 'A'..='F')))
}

/// Where brackets that end begin, and those that begin end.
fn brackets(tokens: &[Token]) -> (BTreeMap<usize, usize>, BTreeMap<usize, usize>) {
    let (mut open, mut begins, mut ends) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Begin { .. } => open.clear(),
            Token::Other('(' | '[' | '{') => open.push(at),
            Token::Other(')' | ']' | '}') => {
                if let Some(begin) = open.pop() {
                    begins.insert(at, begin);
                    ends.insert(begin, at);
                }
            }
            _ => {}
        }
    }
    (begins, ends)
}

fn is_value(piece: &Token) -> bool {
    match piece {
        Token::Name(name) => !WORDS.contains(name),
        Token::Number(_) | Token::Text(_) => true,
        Token::Other(c) => ")]}".contains(*c),
        _ => false,
    }
}

/// A literal, or a name by its attributes.
fn is_plain_key(key: &[Token]) -> bool {
    const LONGEST: usize = 20;
    let key = &key[..key.len().min(LONGEST)];
    // What is given where there is no such key is another expression.
    let end = key.iter().position(|piece| *piece == Token::Other(',')).unwrap_or(key.len());
    let key = &key[..end];
    match key {
        [] => true,
        [Token::Text(_) | Token::Number(_)] | [Token::Other('-'), Token::Number(_)] => true,
        _ => {
            let is_part =
                |piece: &Token| matches!(piece, Token::Name(_) | Token::Text(_) | Token::Other('.' | '[' | ']'));
            let named = key.iter().rfind(|piece| **piece != Token::Other(']'));
            let is_kind = |name: &str| matches!(name, "role" | "type");
            let is_kind = match named {
                Some(Token::Name(name)) => is_kind(name),
                Some(Token::Text(name)) => is_kind(name),
                _ => false,
            };
            is_kind && key.iter().all(is_part)
        }
    }
}
