//! No circles inside of a room: modules of one folder may use each other, but not so that one comes back to itself.
//!
//! Looked at is every folder by itself, and all that lies below a module counts as that module. What a folder's own
//! `mod.rs` defines, its modules may use; what it only passes on (`use`) is of the module that defines it. Tests are
//! left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::walls::{root, walk};

#[test]
fn no_modules_of_one_folder_use_each_other_in_a_circle() {
    let src = root().join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    let modules = files
        .iter()
        .filter(|file| !file.starts_with(src.join("bin")))
        .map(|file| (name_of(file.strip_prefix(&src).unwrap()), Module::read(&std::fs::read_to_string(file).unwrap())))
        .collect();
    let circles = circles(&modules);
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

/// A module's path below the crate's root, whose own is empty.
type Name = Vec<String>;

#[derive(Default)]
struct Module {
    /// What `use` brings into it: the name here, and the path behind it.
    uses: BTreeMap<String, Vec<String>>,
    /// The paths in its code, those of `use` among them.
    paths: BTreeSet<Vec<String>>,
    /// The modules it declares for tests alone.
    tests: BTreeSet<String>,
}

type Modules = BTreeMap<Name, Module>;

/// Which module of a folder uses which, and where.
type Uses<'m> = BTreeMap<(&'m str, &'m str), BTreeSet<String>>;

/// For each use that is part of a circle a line that shows it: the folder, the circle, and where the use is.
fn circles(modules: &Modules) -> Vec<String> {
    let mut folders: BTreeMap<&[String], Uses> = BTreeMap::new();
    for (user, module) in modules.iter().filter(|(user, _)| !is_test(modules, user)) {
        for path in &module.paths {
            let Some((used, _)) = defining(modules, user, path, 0) else { continue };
            let common = user.iter().zip(used).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (user.get(common), used.get(common)) {
                let uses = folders.entry(&user[..common]).or_default().entry((from, to)).or_default();
                uses.insert(format!("{} uses {}", user.join("::"), path.join("::")));
            }
        }
    }
    let mut found = Vec::new();
    for (folder, uses) in &folders {
        for ((from, to), places) in uses {
            if let Some(back) = way(uses.keys(), to, from) {
                let places = Vec::from_iter(places.iter().map(String::as_str)).join(", ");
                found.push(format!("{}: {from} -> {} ({places})", folder.join("::"), back.join(" -> ")));
            }
        }
    }
    found
}

/// The shortest way along `uses`, with both ends.
fn way<'a>(
    uses: impl Iterator<Item = &'a (&'a str, &'a str)> + Clone,
    from: &'a str,
    to: &str,
) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![from]];
    let mut met = BTreeSet::from([from]);
    let mut at = 0;
    while let Some(way) = ways.get(at).cloned() {
        let end = *way.last()?;
        if end == to {
            return Some(way);
        }
        for (_, next) in uses.clone().filter(|(user, _)| *user == end) {
            if met.insert(next) {
                ways.push([&way[..], &[next]].concat());
            }
        }
        at += 1;
    }
    None
}

fn is_test(modules: &Modules, name: &[String]) -> bool {
    (0..name.len()).any(|depth| modules.get(&name[..depth]).is_some_and(|module| module.tests.contains(&name[depth])))
}

/// The module that defines what `path` means in the module `from`; nothing where it is not of this crate.
fn defining<'a>(
    modules: &'a Modules,
    from: &[String],
    path: &[String],
    depth: usize,
) -> Option<(&'a Name, &'a Module)> {
    if depth > 16 {
        return None;
    }
    let (first, mut rest) = path.split_first()?;
    let mut at = match first.as_str() {
        "crate" => modules.get_key_value(&[][..])?,
        "self" => modules.get_key_value(from)?,
        "super" => modules.get_key_value(&from[..from.len().checked_sub(1)?])?,
        _ => {
            rest = path;
            modules.get_key_value(from)?
        }
    };
    let mut known = rest.len() < path.len();
    while let Some((next, after)) = rest.split_first() {
        let (name, module) = at;
        if next == "super" {
            at = modules.get_key_value(&name[..name.len().checked_sub(1)?])?;
        } else if let Some(child) = modules.get_key_value(&[&name[..], std::slice::from_ref(next)].concat()) {
            at = child;
        } else if let Some(behind) = module.uses.get(next) {
            let passed_on = defining(modules, name, &[&behind[..], after].concat(), depth + 1);
            return passed_on.or(known.then_some(at));
        } else {
            break;
        }
        known = true;
        rest = after;
    }
    known.then_some(at)
}

fn name_of(file: &Path) -> Name {
    let mut name: Name = file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if name.last().is_some_and(|last| last == "mod" || last == "lib") {
        name.pop();
    }
    name
}

impl Module {
    fn read(code: &str) -> Self {
        let tokens = tokens(code);
        let mut module = Self::default();
        let mut rest = &tokens[..];
        while let [first, after @ ..] = rest {
            rest = after;
            if first == "#" && after.get(..6).is_some_and(|tokens| tokens.concat() == "[cfg(test)]") {
                let item = &after[6..];
                let (skipped, after) = item.split_at(end_of_item(item));
                if let Some(at) = skipped.iter().position(|token| token == "mod") {
                    module.tests.extend(skipped.get(at + 1).cloned());
                }
                rest = after;
            } else if first == "use" {
                let (names, after) = rest.split_at(end_of_item(rest));
                for (name, path) in names_used(names) {
                    module.uses.insert(name, path.clone());
                    module.paths.insert(path);
                }
                rest = after;
            } else if is_word(first) {
                let mut path = vec![first.clone()];
                while let [colons, next, after @ ..] = rest
                    && colons == "::"
                    && is_word(next)
                {
                    path.push(next.clone());
                    rest = after;
                }
                if path.len() > 1 {
                    module.paths.insert(path);
                }
            }
        }
        module
    }
}

/// How many tokens an item has, its attributes with it.
fn end_of_item(tokens: &[String]) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        let more = tokens.get(at + 1).is_some_and(|next| next == ";");
        if depth == 0 && (token == ";" || token == "}" && !more) {
            return at + 1;
        }
    }
    tokens.len()
}

/// What stands between `use` and its semicolon, which is the last token: each name it makes, and the path behind it.
fn names_used(tokens: &[String]) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut starts = vec![0];
    let mut renamed = None;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "::" | "as" => {}
            "{" => starts.push(path.len()),
            "," | "}" | ";" => {
                if path.len() > starts[starts.len() - 1] {
                    let mut path = path.clone();
                    path.pop_if(|last| last == "self");
                    found.extend(renamed.take().or(path.last().cloned()).map(|name| (name, path)));
                }
                if token == "}" {
                    starts.pop();
                }
                path.truncate(starts[starts.len() - 1]);
            }
            name if at > 0 && tokens[at - 1] == "as" => renamed = Some(name.to_owned()),
            name => path.push(name.to_owned()),
        }
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Words, `::` and single signs, without comments and without what is quoted.
fn tokens(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(quoted) = raw_string(rest) {
            quoted
        } else if c == '"' {
            1 + end_of_quoted(&rest[1..], '"')
        } else if c == '\'' && (rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'')) {
            1 + end_of_quoted(&rest[1..], '\'')
        } else if is_word(rest) {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push(rest[..length].to_owned());
            length
        } else {
            let length = if rest.starts_with("::") { 2 } else { c.len_utf8() };
            if !c.is_whitespace() {
                found.push(rest[..length].to_owned());
            }
            length
        };
        rest = &rest[length..];
    }
    found
}

/// The bytes up to the quote that ends, that one counted.
fn end_of_quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

/// The length of the raw string that `code` begins with.
fn raw_string(code: &str) -> Option<usize> {
    let marks = code.strip_prefix("br").or(code.strip_prefix("r"))?;
    let text = marks.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(marks.len() - text.len()));
    let length = text.strip_prefix('"')?.find(&end)?;
    Some(code.len() - text.len() + 1 + length + end.len())
}

#[test]
fn circles_are_found() {
    let circle = |files: &[(&str, &str)]| {
        let root = ("lib.rs", "mod room;");
        circles(
            &files.iter().chain([&root]).map(|(file, code)| (name_of(Path::new(file)), Module::read(code))).collect(),
        )
    };
    let room = ("room/mod.rs", "mod a; mod b; pub use a::A; #[cfg(test)] mod tests; fn own() { b::made() }");
    let a = ("room/a.rs", "use super::b::{self, B as Other, deep::C}; // super::tests");
    assert!(circle(&[room, a, ("room/b/mod.rs", "use super::own; \"super::a\""), ("room/b/deep.rs", "")]).is_empty());

    let by_the_parent = ("room/b/deep.rs", "fn f<'a>(x: &'a crate::room::A) {}");
    let found = circle(&[room, a, ("room/b/mod.rs", ""), by_the_parent]);
    assert_eq!(
        found,
        [
            "room: a -> b -> a (room::a uses super::b, room::a uses super::b::B, room::a uses super::b::deep::C)",
            "room: b -> a -> b (room::b::deep uses crate::room::A)"
        ]
    );

    let by_a_name =
        [room, a, ("room/b.rs", "use super::c;"), ("room/c.rs", "use crate::room; fn f() { room::A::new() }")];
    assert_eq!(circle(&by_a_name).len(), 3);

    let of_tests = ("room/b.rs", "#[cfg(test)] use super::a; #[cfg(test)] mod tests { use super::super::a; }");
    assert!(circle(&[room, a, of_tests, ("room/tests.rs", "use super::a;")]).is_empty());
}
