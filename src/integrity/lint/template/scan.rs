//! What the tokens of a template come to: strings that are joined, attributes that are named, variables that hold either.

use super::lex::Token;
use super::made::Made;
use super::names::{UNSAFE, gadget, in_format_field, is_internal};
use super::{Hit, HitKind};
use std::collections::HashMap;

/// Statements that load another template.
const LOADING: &[&str] = &["include", "import", "from", "extends"];
/// Words of the language: a bracket after them begins a list.
const WORDS: &[&str] = &["in", "if", "else", "elif", "and", "or", "not", "is", "set", "with", "for", "call", "filter"];
/// Filters that take the name of an attribute.
const BY_ATTRIBUTE: &[&str] =
    &["map", "selectattr", "rejectattr", "sort", "groupby", "sum", "unique", "min", "max", "getattr"];
/// Brackets within so many others are not told apart: Jinja gives up long before.
const DEEPEST: usize = 1000;
/// The value of a variable that is longer is not followed.
const LONGEST: usize = 200;

/// Sees the tokens one after the other: a template may have millions.
#[derive(Default)]
pub(super) struct Scan<'a> {
    pub hits: Hits,
    before: Before<'a>,
    /// The attribute that was just named.
    attribute: Option<&'a str>,
    /// Strings that stand beside each other, or with `~`, `+` and parentheses between them, joined.
    strict: Run,
    /// The same with commas and brackets between them too, in which only known names are looked for.
    known: Run,
    /// What the block and the brackets that are open in it hold so far, innermost last.
    open: Vec<Bracket>,
    /// How many more are open within the innermost of them.
    deeper: usize,
    statement: Statement<'a>,
    variables: HashMap<&'a str, Variable>,
}

/// The token before.
#[derive(Default, Clone, Copy, PartialEq)]
enum Before<'a> {
    #[default]
    Nothing,
    Name(&'a str),
    Value,
    Other(char),
}

#[derive(Default)]
struct Run {
    begins: Option<usize>,
    text: String,
    /// Where the last string in it begins.
    last: usize,
}

impl Run {
    fn push(&mut self, offset: usize, text: &str) {
        const LONGEST: usize = 10_000;
        self.begins.get_or_insert(offset);
        self.last = self.text.len();
        if self.text.len() + text.len() <= LONGEST {
            self.text.push_str(text);
        }
    }

    /// `'_' * 3`.
    fn repeat_last(&mut self, times: usize) {
        let last = self.text[self.last..].to_owned();
        if last.len() * times <= LONGEST {
            self.text.truncate(self.last);
            self.text.push_str(&last.repeat(times));
        }
    }
}

struct Bracket {
    kind: Kind,
    offset: usize,
    made: Made,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A whole block; a list, a call or parentheses, which are part of what they stand in.
    Part,
    /// `x[…]`, or the arguments of a filter that takes the name of an attribute.
    Attribute,
    /// A dictionary.
    Apart,
}

/// A `{% %}`.
#[derive(Default)]
struct Statement<'a> {
    /// The block is one.
    is_one: bool,
    /// Its first name.
    word: Option<&'a str>,
    /// The name that it gives a value to.
    target: Option<&'a str>,
    /// The value has begun.
    assigns: bool,
    /// The value is not only strings that are known.
    unknown: bool,
}

/// What a variable may be.
#[derive(Default, Clone)]
struct Variable {
    text: Option<String>,
    computed: bool,
}

impl<'a> Scan<'a> {
    pub fn token(&mut self, offset: usize, token: Token<'a>) {
        self.before = match token {
            Token::Begin { statement } => {
                self.statement = Statement { is_one: statement, ..Statement::default() };
                self.open = vec![Bracket { kind: Kind::Part, offset, made: Made::default() }];
                Before::Nothing
            }
            Token::Text(text) => {
                self.text(offset, &text);
                Before::Value
            }
            Token::Number(number) => {
                if self.before == Before::Other('*') {
                    let times = number.parse().unwrap_or(1);
                    self.strict.repeat_last(times);
                    self.known.repeat_last(times);
                } else {
                    self.end_of_runs();
                }
                Before::Value
            }
            Token::Name(name) => {
                self.name(offset, name);
                if WORDS.contains(&name) { Before::Nothing } else { Before::Name(name) }
            }
            Token::Other(c) => {
                self.other(offset, c);
                Before::Other(c)
            }
            Token::End => {
                self.end_of_block();
                Before::Nothing
            }
        };
    }

    fn made(&mut self, see: impl FnOnce(&mut Made)) {
        if let Some(bracket) = self.open.last_mut() {
            see(&mut bracket.made);
        }
    }

    fn text(&mut self, offset: usize, text: &str) {
        self.made(Made::text);
        self.strict.push(offset, text);
        self.known.push(offset, text);
        if let Some(name) = in_format_field(text) {
            self.hits.add(offset, name, HitKind::Internal);
        }
    }

    fn name(&mut self, offset: usize, name: &'a str) {
        let is_attribute = self.before == Before::Other('.');
        if is_internal(name) || is_attribute && (name.starts_with('_') || UNSAFE.contains(&name)) {
            self.hits.add(offset, name.to_owned(), HitKind::Internal);
        }
        let is_filter = self.before == Before::Other('|');
        if is_filter && name == "attr" {
            self.hits.add(offset, "the filter attr".into(), HitKind::AttrFilter);
        }
        if self.statement.is_one && self.statement.word.is_none() {
            self.statement.word = Some(name);
            if LOADING.contains(&name) {
                self.hits.add(offset, format!("{{% {name} %}}"), HitKind::Loads);
            }
        } else if !self.statement.assigns {
            match name {
                "in" if self.statement.word == Some("for") => self.statement.assigns = true,
                _ if self.statement.word == Some("macro") => {
                    self.statement.target = self.statement.target.or(Some(name))
                }
                _ => self.statement.target = Some(name),
            }
        }
        self.attribute = is_attribute.then_some(name);
        if is_filter {
            self.made(|made| made.call(name));
        }
        match self.variables.get(name).cloned().unwrap_or_default() {
            Variable { text: Some(text), .. } => {
                self.made(Made::text);
                self.strict.push(offset, &text);
                self.known.push(offset, &text);
            }
            Variable { computed, .. } => {
                self.made(|made| made.variable(computed));
                self.end_of_runs();
            }
        }
    }

    fn other(&mut self, offset: usize, c: char) {
        if !"~+()*".contains(c) {
            self.end_of_strict();
        }
        if !"~+()[],*".contains(c) {
            self.end_of_known();
        }
        match c {
            '(' | '[' | '{' => {
                if let (Before::Name(name), Some(method)) = (self.before, self.attribute)
                    && c == '('
                    && name == method
                {
                    self.made(|made| made.call(method));
                }
                let kind = match (c, self.before) {
                    ('{', _) => Kind::Apart,
                    ('[', Before::Name(_) | Before::Value | Before::Other(')' | ']' | '}')) => Kind::Attribute,
                    ('(', Before::Name(name)) if BY_ATTRIBUTE.contains(&name) => Kind::Attribute,
                    _ => Kind::Part,
                };
                match self.open.len() < DEEPEST {
                    true => self.open.push(Bracket { kind, offset, made: Made::default() }),
                    false => self.deeper += 1,
                }
            }
            ')' | ']' | '}' => self.close(),
            '=' if self.open.len() == 1 && matches!(self.statement.word, Some("set" | "with")) => {
                self.statement.assigns = true;
            }
            _ => self.made(|made| made.operator(c)),
        }
    }

    fn close(&mut self) {
        if self.deeper > 0 {
            self.deeper -= 1;
            return;
        }
        if self.open.len() < 2 {
            return;
        }
        let Some(Bracket { kind, offset, made }) = self.open.pop() else { return };
        match kind {
            Kind::Part => self.made(|outer| outer.take(made)),
            Kind::Attribute if made.is_computed() => {
                self.hits.add(offset, "a name that is put together at run time".into(), HitKind::Computed);
            }
            Kind::Attribute | Kind::Apart => {}
        }
    }

    fn end_of_block(&mut self) {
        let text = (!self.statement.unknown && self.strict.begins.is_some()).then(|| self.strict.text.clone());
        self.end_of_runs();
        let computed = self.open.first().is_some_and(|block| block.made.is_computed());
        if let Some(target) = self.statement.target {
            let text = text.filter(|text| text.len() <= LONGEST);
            match (self.statement.assigns, self.statement.word) {
                (true, _) => drop(self.variables.insert(target, Variable { text, computed })),
                // What follows, up to the end of the macro or the assignment, is its value.
                (false, Some("set" | "macro")) => {
                    self.variables.insert(target, Variable { text: None, computed: true });
                }
                _ => {}
            }
        }
        self.open.clear();
        self.deeper = 0;
    }

    fn end_of_runs(&mut self) {
        self.end_of_strict();
        self.end_of_known();
    }

    fn end_of_strict(&mut self) {
        self.statement.unknown |= self.statement.assigns;
        let run = std::mem::take(&mut self.strict);
        if let (Some(offset), true) = (run.begins, is_internal(&run.text)) {
            self.hits.add(offset, run.text, HitKind::Internal);
        }
    }

    fn end_of_known(&mut self) {
        let run = std::mem::take(&mut self.known);
        let is_path = run.text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
        if let (Some(offset), true, Some(name)) = (run.begins, is_path, gadget(&run.text)) {
            self.hits.add(offset, name, HitKind::Internal);
        }
    }
}

#[derive(Default)]
pub(super) struct Hits(pub Vec<Hit>);

impl Hits {
    fn add(&mut self, offset: usize, what: String, kind: HitKind) {
        const MOST: usize = 100;
        let hit = Hit { offset, what, kind };
        if self.0.len() < MOST && !self.0.contains(&hit) {
            self.0.push(hit);
        }
    }
}
