//! Names by which a template reaches Python's internals.

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
pub(super) const UNSAFE: &[&str] = &[
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
/// `__name__`, or `_Class__name` as Python calls what is private to a class.
pub(super) fn is_internal(name: &str) -> bool {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    let dunder = name.strip_prefix("__").and_then(|n| n.strip_suffix("__")).is_some_and(plain);
    let private = |name: &str| {
        let (class, attribute) = name.strip_prefix('_')?.split_once("__")?;
        Some(class.starts_with(|c: char| c.is_ascii_uppercase()) && plain(class) && plain(attribute))
    };
    dunder || private(name).unwrap_or(false)
}

/// The first known name in a text.
pub(super) fn gadget(text: &str) -> Option<String> {
    text.match_indices("__").find_map(|(at, _)| {
        let rest = &text[at + 2..];
        let name = GADGETS.iter().find(|g| rest.strip_prefix(**g).is_some_and(|rest| rest.starts_with("__")))?;
        Some(format!("__{name}__"))
    })
}

/// A known name in a replacement field, such as `{0.__class__}`.
pub(super) fn in_format_field(text: &str) -> Option<String> {
    let in_field = |c: char| c.is_alphanumeric() || "_.[]!".contains(c);
    text.match_indices('{').find_map(|(at, _)| {
        let field = &text[at + 1..];
        gadget(&field[..field.find(|c| !in_field(c)).unwrap_or(field.len())])
    })
}
