//! Chat templates (Jinja) that reach for Python's internals, or for other files.
//!
//! Only expressions and statements count: what is text, raw or a comment is printed or dropped and reaches nothing.
//! What is looked for in them are attributes and subscripts that Jinja's own sandbox refuses, strings that become such
//! names when they are joined or repeated, through variables too (`'__cla' ~ 'ss__'`, `['__', 'class', '__'] | join`,
//! `u = '_' * 2`), and names that are put together at run time in other ways, whatever they become.

mod asked;
mod lex;
mod made;
mod unusual;

pub use asked::{TemplateNames, asked};
pub use unusual::unusual;

use lex::{Token, lex};
use made::Made;
use std::collections::{BTreeSet, HashMap};

/// A suspicious piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    /// Where, in bytes.
    pub offset: usize,
    /// The name, or what it is in words.
    pub what: String,
    pub kind: HitKind,
}

/// What a hit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HitKind {
    /// A name that leads to Python's internals.
    Internal,
    /// The filter `attr`.
    AttrFilter,
    /// The name of an attribute that is put together at run time.
    Computed,
    /// Another template is loaded.
    Loads,
}

/// Names between two underscores on each side by which known escapes go, wherever in a template they stand.
const GADGETS: &[&str] = &[
    "class",
    "globals",
    "subclasses",
    "mro",
    "base",
    "bases",
    "builtins",
    "import",
    "init",
    "getattribute",
    "getattr",
    "dict",
    "code",
    "closure",
    "reduce",
    "reduce_ex",
    "loader",
    "spec",
    "call",
    "func",
    "self",
    "enter",
    "exit",
    "del",
];
/// Attributes that Jinja's sandbox refuses (`jinja2.sandbox`, UNSAFE_*_ATTRIBUTES) besides those with underscores.
const UNSAFE: &[&str] = &[
    "mro",
    "gi_frame",
    "gi_code",
    "cr_frame",
    "cr_code",
    "ag_code",
    "ag_frame",
    "func_globals",
    "func_code",
    "func_closure",
    "im_class",
    "im_func",
    "im_self",
    "f_globals",
    "f_locals",
    "f_builtins",
    "f_back",
    "tb_frame",
];

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

/// Strings that a template holds, once each: those that are joined as they are and as one.
pub fn literals(template: &str) -> BTreeSet<String> {
    let (mut all, mut joined) = (BTreeSet::new(), String::new());
    lex(template, &mut |_, token| match token {
        Token::Text(text) => {
            joined.push_str(&text);
            all.insert(text);
        }
        Token::Other(c) if "~+()".contains(c) => {}
        _ => {
            all.insert(std::mem::take(&mut joined));
        }
    });
    all.insert(joined);
    all
}

/// Every suspicious piece, in order; of very many the first hundred that are met.
pub(super) fn examine(template: &str) -> Vec<Hit> {
    let mut scan = Scan::default();
    lex(template, &mut |offset, token| scan.token(offset, token));
    scan.hits.0.sort_by_key(|h| h.offset);
    scan.hits.0
}

/// Sees the tokens one after the other: a template may have millions.
#[derive(Default)]
struct Scan<'a> {
    hits: Hits,
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
    fn token(&mut self, offset: usize, token: Token<'a>) {
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
struct Hits(Vec<Hit>);

impl Hits {
    fn add(&mut self, offset: usize, what: String, kind: HitKind) {
        const MOST: usize = 100;
        let hit = Hit { offset, what, kind };
        if self.0.len() < MOST && !self.0.contains(&hit) {
            self.0.push(hit);
        }
    }
}

/// `__name__`, or `_Class__name` as Python calls what is private to a class.
fn is_internal(name: &str) -> bool {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    let dunder = name.strip_prefix("__").and_then(|n| n.strip_suffix("__")).is_some_and(plain);
    let private = |name: &str| {
        let (class, attribute) = name.strip_prefix('_')?.split_once("__")?;
        Some(class.starts_with(|c: char| c.is_ascii_uppercase()) && plain(class) && plain(attribute))
    };
    dunder || private(name).unwrap_or(false)
}

/// The first known name in a text.
fn gadget(text: &str) -> Option<String> {
    text.match_indices("__").find_map(|(at, _)| {
        let rest = &text[at + 2..];
        let name = GADGETS.iter().find(|g| rest.strip_prefix(**g).is_some_and(|rest| rest.starts_with("__")))?;
        Some(format!("__{name}__"))
    })
}

/// A known name in a replacement field, such as `{0.__class__}`.
fn in_format_field(text: &str) -> Option<String> {
    let in_field = |c: char| c.is_alphanumeric() || "_.[]!".contains(c);
    text.match_indices('{').find_map(|(at, _)| {
        let field = &text[at + 1..];
        gadget(&field[..field.find(|c| !in_field(c)).unwrap_or(field.len())])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(template: &str) -> Vec<String> {
        examine(template).into_iter().map(|h| h.what).collect()
    }

    #[test]
    fn names_that_escape_are_found() {
        for (template, expected) in [
            ("{{ x.__class__ }}", "__class__"),
            ("{{ x.__anything__ }}", "__anything__"),
            ("{{ x['__class__'] }}", "__class__"),
            ("{%- set a = cycler.__init__ -%}", "__init__"),
            ("{{ x[\"__globals__\"] }}", "__globals__"),
            ("{{ x['__cla'~'ss__'] }}", "__class__"),
            ("{{ x['__odd'~ ('ly') + '__'] }}", "__oddly__"),
            ("{{ x['__cla' 'ss__'] }}", "__class__"),
            ("{{ x[['__','class','__']|join] }}", "__class__"),
            (r"{{ x['\x5f\x5fclass\x5f\x5f'] }}", "__class__"),
            (r"{{ x['\u005f\137cla\N{low line}ss__'] }}", "__cla_ss__"),
            ("{{ '{0.__class__}'.format(x) }}", "__class__"),
            ("{{ {'a': {}}['a'].__class__ }}", "__class__"),
            ("{{ '}}' ~ x.__odd__ }}", "__odd__"),
            ("{{ x.gi_frame.f_back }}", "gi_frame"),
            ("{% raw %}{{ \" {% endraw %}{{ x.__odd__ }}", "__odd__"),
            ("{{ self._TemplateReference__context }}", "_TemplateReference__context"),
            ("{{ self['_TemplateReference__context'] }}", "_TemplateReference__context"),
            ("{{ x._private }}", "_private"),
            ("{% set u='_'*2 %}{{ ''[u~'class'~u] }}", "__class__"),
            ("{% set u='_' %}{% set k=u~u~'class'~u~u %}{{ ''[k] }}", "__class__"),
            ("{% set u = '_' * 2 %}{{ x[u + 'odd' + u] }}", "__odd__"),
            ("{{ x|map(attribute='__class__.__mro__')|list }}", "__class__"),
            ("{% if x[['__', 'init', '__']|join('')] %}{% endif %}", "__init__"),
            ("{{ {'a': (1, [2])}['a'].__odd__ }}", "__odd__"),
            ("{{ '%}' ~ x.__odd__ }}{% if '}}' in x.__odder__ %}", "__odder__"),
            ("{% raw %}{% endrawx %}{% endraw %}{{ x.__odd__ }}", "__odd__"),
            ("{% raw %}{{ x }}{%- endraw -%}{{ x.__odd__ }}", "__odd__"),
            ("{{ x|attr(name) }}", "the filter attr"),
            ("{% include '/etc/passwd' %}", "{% include %}"),
            ("{%- import 'x' as y %}", "{% import %}"),
            ("{%+ from 'x' import y %}", "{% from %}"),
            ("{% extends x %}", "{% extends %}"),
        ] {
            assert!(names(template).contains(&expected.to_owned()), "{template}: {:?}", names(template));
        }
    }

    #[test]
    fn names_put_together_at_run_time_are_found() {
        for template in [
            "{{ ''[a ~ 'class' ~ a] }}",
            "{{ x['%c%cclass'|format(95, 95)] }}",
            "{{ x['ssalc'|reverse] }}",
            "{{ x['class'.center(9, u)] }}",
            "{{ x[['a', b]|join] }}",
            "{{ x[('_' + y)] }}",
            "{{ x['a%s' % y] }}",
            "{% set k = a ~ 'class' %}{{ x[k] }}",
            "{% for k in ['x y'.replace('x', y)] %}{{ z[k] }}{% endfor %}",
            "{{ x|map(attribute=a~'class'~a)|list }}",
            "{% set k %}__class__{% endset %}{{ x[k] }}",
            "{% macro k(a, b) %}__class__{% endmacro %}{{ x[k(1, 2)] }}",
        ] {
            let kinds: Vec<HitKind> = examine(template).into_iter().map(|h| h.kind).collect();
            assert_eq!(kinds, [HitKind::Computed], "{template}");
        }
    }

    #[test]
    fn plain_templates_pass() {
        for template in [
            "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m.content ~ '<|im_end|>' }}{% endfor %}",
            "{% if x.attr is defined %}{{ x.attr }}{% endif %}{{ tool | tojson(indent=4) }}",
            "{%- set ns = namespace(is_first=false, text='__') -%}{{ ns.text ~ '__' }}{{ '____' }}",
            "{% raw %}{{ x.__odd__ }}{% endraw %}",
            "{# x.__odd__ #}if __name__ == '__main__': {{ raise_exception('a\\'b') }}",
            "{{ a.mro_count }}{{ mro }}",
            "Call __init__ or __class__ of {0.__class__}, as {{ 'in __init__ of' }}{# x.__class__ #}",
            "{{ 'call __init__ to start' }}{{ raise_exception('bad __role__ in {\"a\": x.__class__}') }}",
            "{% set _ = ns.update(a=1) %}{{ messages[loop.index0 + 1]['role'] }}{{ x[-1] }}{{ x[i % 2] }}",
            "{{ m['role' if m.role is defined else 'from'] }}{{ x[messages|length - 1] }}{{ types[p.get('type')] }}",
            "{{ m.content[:m.content.find('a' ~ b)] }}{{ x['a'] ~ y['b'] }}{{ x[y['a'] + 1] }}",
            "{% set k = m['role'] | trim %}{{ names[k] }}{% for k in d.keys() | sort %}{{ d[k] }}{% endfor %}",
            "{% set parts = m.content.split('</think>') %}{{ parts[parts | length - 1] }}",
            "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}{{ users[0] }}",
            "",
            "{{",
            "{{ '",
            "{{ '\\",
            "{%",
            "{# ",
            "{% raw %}",
            "{",
        ] {
            assert_eq!(names(template), Vec::<String>::new(), "{template}");
        }
    }

    /// Templates as their models are published with.
    #[test]
    fn published_templates_pass() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/chat_templates.json");
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for (name, template) in all["templates"].as_object().unwrap() {
            assert_eq!(names(template["template"].as_str().unwrap()), Vec::<String>::new(), "{name}");
        }
    }

    /// What a hostile template repeats must not make the search slow: each of these is some 2 MB.
    #[test]
    fn time_grows_with_length_only() {
        let parts = [
            "{{}}",
            "{%raw%}",
            "{#",
            "{{'__a__',",
            "{{x.__a__}}",
            "__class__",
            "{",
            "'",
            "\\x",
            "{{'__a__'~",
            "{%set a=a~a~'_'%}",
            "{{[",
            "{{a['b'*9*9",
        ];
        let begin = std::time::Instant::now();
        for part in parts {
            examine(&part.repeat(2_000_000 / part.len()));
        }
        assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
    }
}
