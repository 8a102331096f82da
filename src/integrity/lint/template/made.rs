//! Whether an expression puts a string together.

/// What was met in an expression.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Made {
    text: bool,
    joins: bool,
    operator: bool,
    /// A filter or method that may make another string of one.
    call: bool,
    /// One that makes a string of a list or a pattern.
    maker: bool,
    /// A variable whose value was put together.
    variable: bool,
    slice: bool,
}

/// Filters and methods whose result is no string, or no other than a part of one that is there to be read.
const HARMLESS: &[&str] = &[
    "length",
    "count",
    "int",
    "float",
    "abs",
    "round",
    "sum",
    "min",
    "max",
    "find",
    "rfind",
    "index",
    "rindex",
    "get",
    "keys",
    "values",
    "items",
    "first",
    "last",
    "default",
    "d",
    "startswith",
    "endswith",
    "split",
    "trim",
    "strip",
    "lstrip",
    "rstrip",
    "lower",
    "upper",
    "title",
    "capitalize",
    "string",
    "list",
    "tojson",
];
const MAKERS: &[&str] = &["join", "format", "format_map", "replace", "reverse"];

impl Made {
    pub fn text(&mut self) {
        self.text = true;
    }

    /// A filter, a method or an attribute.
    pub fn call(&mut self, name: &str) {
        self.maker |= MAKERS.contains(&name);
        self.call |= !HARMLESS.contains(&name);
    }

    pub fn variable(&mut self, computed: bool) {
        self.variable |= computed;
    }

    pub fn operator(&mut self, c: char) {
        match c {
            '~' => self.joins = true,
            '+' | '*' | '%' => self.operator = true,
            ':' => self.slice = true,
            _ => {}
        }
    }

    /// Takes in what was met within parentheses or a list.
    pub fn take(&mut self, inner: Made) {
        self.text |= inner.text;
        self.joins |= inner.joins;
        self.operator |= inner.operator;
        self.call |= inner.call;
        self.maker |= inner.maker;
        self.variable |= inner.variable;
    }

    /// Whether it is a string that nobody can read in the template.
    pub fn is_computed(self) -> bool {
        let made_of_text = self.text && (self.operator || self.call);
        !self.slice && (self.joins || self.maker || self.variable || made_of_text)
    }
}
