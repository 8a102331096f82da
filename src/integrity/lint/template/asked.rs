//! What a template asks: its conditions, the variables that whoever renders it may give, and the numbers that it
//! compares with.

use super::lex::{Token, lex};
use std::collections::BTreeSet;

/// What a template asks.
#[derive(Debug, Default)]
pub struct TemplateNames {
    /// The template, each condition `c` of it, number `n`, as `function(n, (c))`.
    pub marked: String,
    /// The conditions, as they are written: what is asked by `if` and `elif`, what `and` and `or` join, and what
    /// compares.
    pub conditions: Vec<String>,
    /// Names that it reads and never sets, or asks whether they are there.
    pub variables: BTreeSet<String>,
    /// Whole numbers.
    pub numbers: BTreeSet<usize>,
}

/// Names that the language, the library or the chat gives.
const GIVEN: &[&str] = &[
    "and",
    "or",
    "not",
    "if",
    "else",
    "elif",
    "in",
    "is",
    "true",
    "false",
    "none",
    "True",
    "False",
    "None",
    "recursive",
    "loop",
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "strftime_now",
    "caller",
    "self",
    "varargs",
    "kwargs",
];

/// Reads a template that has no `function` of its own.
pub fn asked(template: &str, function: &str) -> TemplateNames {
    let mut scan = Scan { template, function, ..Scan::default() };
    lex(template, &mut |offset, token| scan.token(offset, token));
    let mut read: BTreeSet<&str> = scan.read.difference(&scan.set).copied().collect();
    read.append(&mut scan.defined);
    let (mut marked, mut from) = (String::new(), 0);
    scan.marks.sort_by_key(|(at, _)| *at);
    for (at, mark) in &scan.marks {
        marked.extend([&template[from..*at], mark]);
        from = *at;
    }
    marked.push_str(&template[from..]);
    let variables = read.into_iter().filter(|name| !GIVEN.contains(name)).map(str::to_owned).collect();
    TemplateNames { marked, conditions: scan.conditions, variables, numbers: scan.numbers }
}

/// An expression that ends where another begins, such as one side of an `and`.
#[derive(Default)]
struct Segment {
    begins: Option<usize>,
    /// It decides on something.
    decides: bool,
}

/// A word or a sign of a block, without its text.
#[derive(PartialEq)]
enum Piece<'a> {
    Name(&'a str),
    Sign(char),
    Value,
}

#[derive(Default)]
struct Scan<'a> {
    template: &'a str,
    function: &'a str,
    marks: Vec<(usize, String)>,
    conditions: Vec<String>,
    numbers: BTreeSet<usize>,
    /// Where the block begins.
    block: usize,
    pieces: Vec<Piece<'a>>,
    /// A segment for each open bracket, and the block's own.
    open: Vec<Segment>,
    read: BTreeSet<&'a str>,
    set: BTreeSet<&'a str>,
    defined: BTreeSet<&'a str>,
}

impl<'a> Scan<'a> {
    fn token(&mut self, offset: usize, token: Token<'a>) {
        match token {
            Token::Begin { statement } => {
                (self.block, self.open) = (offset, vec![Segment::default()]);
                // A statement's first word is none of an expression.
                self.pieces = if statement { Vec::new() } else { vec![Piece::Value] };
            }
            Token::Name(name) => {
                self.name(offset, name);
                self.pieces.push(Piece::Name(name));
            }
            Token::Number(number) => {
                self.numbers.extend(number.parse::<usize>().ok());
                self.goes_on(offset, false);
                self.pieces.push(Piece::Value);
            }
            Token::Text(_) => {
                self.goes_on(offset, false);
                self.pieces.push(Piece::Value);
            }
            // The sign that white space is cut off by.
            Token::Other('-' | '+') if offset == self.block + 2 => {}
            Token::Other(c) => {
                self.sign(offset, c);
                self.pieces.push(Piece::Sign(c));
            }
            Token::End => {
                let inside = self.template[..offset].strip_suffix("%}").or(self.template[..offset].strip_suffix("}}"));
                if let Some(inside) = inside {
                    self.ends(inside.strip_suffix(['-', '+']).unwrap_or(inside).len(), false);
                }
                self.names();
            }
        }
    }

    fn word(&self) -> Option<&'a str> {
        match self.pieces.first() {
            Some(Piece::Name(word)) => Some(word),
            _ => None,
        }
    }

    fn name(&mut self, offset: usize, name: &'a str) {
        let is_attribute = self.pieces.last() == Some(&Piece::Sign('.'));
        let is_loops = self.open.len() == 1 && self.word() == Some("for");
        match name {
            _ if self.pieces.is_empty() => self.next(matches!(name, "if" | "elif")),
            _ if is_attribute => self.goes_on(offset, false),
            "and" | "or" => {
                self.ends(offset, true);
                self.next(true);
            }
            "if" => {
                self.ends(offset, false);
                self.next(true);
            }
            "else" => self.ends(offset, false),
            "recursive" if is_loops => self.ends(offset, false),
            "in" if is_loops && !self.pieces.contains(&Piece::Name("in")) => self.next(false),
            "in" | "is" => self.goes_on(offset, true),
            _ => self.goes_on(offset, false),
        }
    }

    fn sign(&mut self, offset: usize, c: char) {
        let around = |at: usize| self.template.as_bytes().get(at).copied().unwrap_or_default();
        match c {
            '(' | '[' | '{' => {
                self.goes_on(offset, false);
                self.open.push(Segment::default());
            }
            ')' | ']' | '}' => {
                self.ends(offset, false);
                if self.open.len() > 1 {
                    self.open.pop();
                }
            }
            ',' | ':' => self.ends(offset, false),
            '=' if around(offset + 1) != b'=' && !b"=!<>".contains(&around(offset.wrapping_sub(1))) => self.next(false),
            '=' | '<' | '>' => self.goes_on(offset, true),
            _ => self.goes_on(offset, false),
        }
    }

    fn goes_on(&mut self, offset: usize, decides: bool) {
        if let Some(segment) = self.open.last_mut() {
            segment.begins.get_or_insert(offset);
            segment.decides |= decides;
        }
    }

    fn next(&mut self, decides: bool) {
        if let Some(segment) = self.open.last_mut() {
            *segment = Segment { begins: None, decides };
        }
    }

    fn ends(&mut self, offset: usize, decides: bool) {
        let Some(segment) = self.open.last_mut().map(std::mem::take) else { return };
        let Some(begins) = segment.begins.filter(|begins| (segment.decides || decides) && *begins < offset) else {
            return;
        };
        self.marks.push((begins, format!("{}({}, (", self.function, self.conditions.len())));
        self.marks.push((offset, "))".into()));
        self.conditions.push(self.template[begins..offset].trim().to_owned());
    }

    /// Which names a block reads and sets.
    fn names(&mut self) {
        let pieces = std::mem::take(&mut self.pieces);
        let word = match pieces.first() {
            Some(Piece::Name(word)) => *word,
            _ => "",
        };
        let mut is_target = matches!(word, "for" | "macro" | "set" | "with" | "call");
        for (at, piece) in pieces.iter().enumerate().skip(1) {
            let next = pieces.get(at + 1);
            match piece {
                Piece::Name("in") if word == "for" => is_target = false,
                Piece::Sign('=') if word == "set" => is_target = false,
                Piece::Name(name) => match &pieces[at - 1] {
                    Piece::Sign('.' | '|') | Piece::Name("is") => {}
                    _ if is_target => drop(self.set.insert(name)),
                    _ if next == Some(&Piece::Sign('(')) => {}
                    // The name of an argument.
                    _ if next == Some(&Piece::Sign('=')) && pieces.get(at + 2) != Some(&Piece::Sign('=')) => {}
                    _ => {
                        self.read.insert(name);
                        let rest = pieces[at + 1..].iter().take(3);
                        let asks = rest.filter(|piece| **piece != Piece::Name("not"));
                        if asks.take(2).eq([&Piece::Name("is"), &Piece::Name("defined")]) {
                            self.defined.insert(name);
                        }
                    }
                },
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_marked_where_they_stand() {
        for (template, expected) in [
            (
                "{%- if a -%}x{% elif not b.if %}{% endif %}",
                "{%- if f(0, (a ))-%}x{% elif f(1, (not b.if ))%}{% endif %}",
            ),
            ("{{- a and b[c == 'and'] or d }}", "{{- f(0, (a ))and f(2, (b[f(1, (c == 'and'))] ))or f(3, (d ))}}"),
            ("{{ 'x' if a else b }}{{ -1 }}", "{{ 'x' if f(0, (a ))else b }}{{ -1 }}"),
            ("{% for a, b in c if a != b recursive %}", "{% for a, b in c if f(0, (a != b ))recursive %}"),
            (
                "{% set a = b <= 2 %}{{ x(k=a in b, l=1) }}",
                "{% set a = f(0, (b <= 2 ))%}{{ x(k=f(1, (a in b)), l=1) }}",
            ),
            ("{{ {'k': a is defined}[b:c] }}", "{{ {'k': f(0, (a is defined))}[b:c] }}"),
            ("{% raw %}{% if a %}{% endraw %}{# {{ a == b }} #}{{ a | join(', ') }}{{ a == ", ""),
        ] {
            let expected = if expected.is_empty() { template } else { expected };
            assert_eq!(asked(template, "f").marked, expected);
        }
    }

    #[test]
    fn variables_are_what_is_read_and_never_set() {
        let template = "{% if not date is defined %}{% set date = 'today' %}{% endif %}{% set a = tools %}{{ a }}\
                        {% for m in messages %}{{ m.content | trim }}{{ range(7) }}{{ x(indent=4) if think is true }}\
                        {% endfor %}{% macro p(q, r=none) %}{{ q }}{% endmacro %}";
        let asked = asked(template, "f");
        assert_eq!(asked.variables.iter().collect::<Vec<_>>(), ["date", "think"]);
        assert_eq!(asked.numbers.into_iter().collect::<Vec<_>>(), [4, 7]);
    }
}
