//! Globs as users and files write them, within bounds.

use globset::{Glob, GlobSet, GlobSetBuilder};

/// Bytes that the globs of a set may have together: what is compiled of them takes some hundred times that.
const LONGEST: usize = 64 << 10;

/// All of `patterns`. Where globset compiles one by itself (`Glob::compile_matcher`) it panics on a glob whose regular expression is refused,
/// such as 300 nested braces; a set says so.
///
/// # Errors
/// One is not a glob, or they are too long together: said as what is wrong with `what`.
pub(crate) fn set<P: AsRef<str>>(patterns: &[P]) -> Result<GlobSet, String> {
    let bytes: usize = patterns.iter().map(|pattern| pattern.as_ref().len()).sum();
    if bytes > LONGEST {
        return Err(format!("has {bytes} bytes of globs, expected at most {LONGEST}"));
    }
    let mut globs = Vec::new();
    for pattern in patterns {
        let pattern = pattern.as_ref();
        globs.push(Glob::new(pattern).map_err(|e| format!("{pattern:?} is not a glob: {}", e.kind()))?);
    }
    compiled(globs)
}

/// As [`set`], of one pattern, which stands where it is told of.
///
/// # Errors
/// It is not a glob, or too much of one.
pub(crate) fn one(pattern: &str) -> Result<GlobSet, String> {
    compiled([Glob::new(pattern).map_err(|e| format!("is not a glob: {}", e.kind()))?])
}

fn compiled(globs: impl IntoIterator<Item = Glob>) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob);
    }
    set.build().map_err(|e| format!("cannot be compiled: {}", e.kind()))
}

#[cfg(test)]
mod tests {
    use super::set;

    #[test]
    fn what_is_no_glob_or_too_long_is_refused() {
        assert!(set(&["*.md", "{a,b}/*"]).unwrap().is_match("a/x"));
        assert!(set::<&str>(&[]).unwrap().is_empty());
        assert_eq!(set(&["[a"]).unwrap_err(), "\"[a\" is not a glob: unclosed character class; missing ']'");
        let long = "*a".repeat(40_000);
        assert_eq!(set(&[long]).unwrap_err(), "has 80000 bytes of globs, expected at most 65536");
        // As many as there is room for; neither panics.
        let nested = format!("{}{}", "{a,".repeat(300), "}".repeat(300));
        assert!(set(&[nested]).is_err());
        assert!(set(&["{a,b}".repeat(13_000)]).is_ok());
    }
}
