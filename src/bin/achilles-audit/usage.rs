//! What is said of a mistake in the command line.

use crate::stderr;
use achilles_audit::escape;
use clap::error::ContextValue;
use std::process::ExitCode;

/// What the parser says in place of arguments: help, the version, or what is wrong. It quotes what was typed.
pub fn print(mut error: clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    let said: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in said {
        let clean = |text: &dyn ToString| escape::printable(&text.to_string());
        let value = match value {
            ContextValue::String(text) => ContextValue::String(clean(&text)),
            ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(|t| clean(t)).collect()),
            ContextValue::StyledStrs(texts) => {
                ContextValue::StyledStrs(texts.iter().map(|t| clean(t).into()).collect())
            }
            other => other,
        };
        error.insert(kind, value);
    }
    stderr::usage(&error.render().to_string());
    ExitCode::from(2)
}
