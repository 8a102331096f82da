//! Chat templates (Jinja) that reach for Python's internals.
//!
//! What is looked for is access by constant names: dunder attributes and subscripts, Jinja's list of attributes that
//! its own sandbox refuses, and strings that become such names when adjacent ones are joined (`'__cla' ~ 'ss__'`,
//! `['__', 'class', '__'] | join`). A name computed in other ways is not found.

use std::collections::BTreeSet;

/// A suspicious name in a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    /// Where, in bytes.
    pub offset: usize,
    /// The name.
    pub what: String,
    /// It is the `attr` filter, not a name.
    pub by_filter: bool,
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

/// Every suspicious name, in order; of very many the first hundred that are met.
pub(super) fn examine(template: &str) -> Vec<Hit> {
    let mut scan = Scan { hits: Hits(Vec::new()), before: None, strict: None, known: None };
    lex(template, &mut |offset, token| scan.token(offset, token));
    scan.token(template.len(), Token::Name(""));
    let mut hits = scan.hits;
    // What the lexer took for text or a comment: a template it misreads must not hide a known name.
    for (offset, name) in gadgets(template) {
        if !hits.0.iter().any(|h| h.what.contains(&name)) {
            hits.add(offset, name, false);
        }
    }
    hits.0.sort_by_key(|h| h.offset);
    hits.0
}

/// Sees the tokens one after the other: a template may have millions.
struct Scan {
    hits: Hits,
    /// The token before, if it is a single character.
    before: Option<char>,
    /// Strings that stand beside each other, or with `~`, `+` and parentheses between them, joined; and where they begin.
    strict: Option<(usize, String)>,
    /// The same with commas and brackets between them too, in which only known names are looked for.
    known: Option<(usize, String)>,
}

impl Scan {
    fn token(&mut self, offset: usize, token: Token) {
        let mut before = None;
        match token {
            Token::Text(text) => {
                for run in [&mut self.strict, &mut self.known] {
                    run.get_or_insert_with(|| (offset, String::new())).1.push_str(&text);
                }
            }
            Token::Other(c) => {
                before = Some(c);
                if !"~+()".contains(c) {
                    self.end_of_strict();
                }
                if !"~+()[],".contains(c) {
                    self.end_of_known();
                }
            }
            Token::Name(name) => {
                self.end_of_strict();
                self.end_of_known();
                let attribute = self.before == Some('.') && UNSAFE.contains(&name);
                if is_dunder(name) || attribute {
                    self.hits.add(offset, name.to_owned(), false);
                } else if name == "attr" && self.before == Some('|') {
                    self.hits.add(offset, "the filter attr".into(), true);
                }
            }
        }
        self.before = before;
    }

    fn end_of_strict(&mut self) {
        let Some((offset, joined)) = self.strict.take() else { return };
        if is_dunder(&joined) {
            self.hits.add(offset, joined, false);
        }
    }

    fn end_of_known(&mut self) {
        let Some((offset, joined)) = self.known.take() else { return };
        if let Some((_, name)) = gadgets(&joined).next() {
            self.hits.add(offset, name, false);
        }
    }
}

struct Hits(Vec<Hit>);

impl Hits {
    fn add(&mut self, offset: usize, what: String, by_filter: bool) {
        const MOST: usize = 100;
        let hit = Hit { offset, what, by_filter };
        if self.0.len() < MOST && !self.0.contains(&hit) {
            self.0.push(hit);
        }
    }
}

/// `__name__`.
fn is_dunder(name: &str) -> bool {
    let inner = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"));
    inner.is_some_and(|inner| !inner.is_empty() && inner.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

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

/// Known names in a text, with their offsets.
fn gadgets(text: &str) -> impl Iterator<Item = (usize, String)> {
    text.match_indices("__").filter_map(|(at, _)| {
        let rest = &text[at + 2..];
        let name = GADGETS.iter().find(|g| rest.strip_prefix(**g).is_some_and(|rest| rest.starts_with("__")))?;
        Some((at, format!("__{name}__")))
    })
}

enum Token<'a> {
    Name(&'a str),
    /// A string, its escapes resolved.
    Text(String),
    /// A single character of anything else; the end of a block is `}`.
    Other(char),
}

/// Gives `see` the tokens within `{{ }}` and `{% %}`, and where they begin.
fn lex<'a>(template: &'a str, see: &mut dyn FnMut(usize, Token<'a>)) {
    let mut at = 0;
    let mut raw_ends = true;
    while let Some(begin) = opening(template, at) {
        let rest = &template[begin..];
        if rest.starts_with("{#") {
            at = rest.find("#}").map_or(template.len(), |end| begin + end + 2);
            continue;
        }
        let inner = rest[2..].trim_start_matches(['-', '+']).trim_start();
        let is_raw = rest.starts_with("{%") && inner.strip_prefix("raw").is_some_and(|r| !r.starts_with(is_name));
        if is_raw && raw_ends {
            if let Some(end) = inner.find("endraw") {
                at = template.len() - inner.len() + end + "endraw".len();
                continue;
            }
            // Not looked for again and again.
            raw_ends = false;
        }
        at = block(template, begin + 2, see);
        see(at, Token::Other('}'));
    }
}

/// Where the next block or comment begins.
fn opening(template: &str, from: usize) -> Option<usize> {
    let mut braces = template[from..].match_indices('{').map(|(at, _)| from + at);
    braces.find(|at| template[at + 1..].starts_with(['{', '%', '#']))
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The tokens of one block from `at` on; where it ends.
fn block<'a>(template: &'a str, mut at: usize, see: &mut dyn FnMut(usize, Token<'a>)) -> usize {
    let mut depth = 0usize;
    while let Some(c) = template[at..].chars().next() {
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
                Token::Name(&rest[..end])
            }
            '}' | '%' if depth == 0 && template[at..].starts_with('}') => return at + 1,
            _ => {
                depth = match c {
                    '{' => depth + 1,
                    '}' => depth.saturating_sub(1),
                    _ => depth,
                };
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
            ("text __subclasses__ text", "__subclasses__"),
            ("{{ x|attr(name) }}", "the filter attr"),
        ] {
            assert!(names(template).contains(&expected.to_owned()), "{template}: {:?}", names(template));
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

    /// What a hostile template repeats must not make the search slow: each of these is some 2 MB.
    #[test]
    fn time_grows_with_length_only() {
        let parts = ["{{}}", "{%raw%}", "{#", "{{'__a__',", "{{x.__a__}}", "__class__", "{", "'", "\\x", "{{'__a__'~"];
        let begin = std::time::Instant::now();
        for part in parts {
            examine(&part.repeat(2_000_000 / part.len()));
        }
        assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
    }
}
