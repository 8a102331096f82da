//! Chat templates: Jinja, as transformers renders it.

use super::Response;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Bytes that a template may make besides eight times what was said: three times the longest system prompts published.
const LONGEST: usize = 32 << 10;
/// What a template may use up: one unit for an instruction, and for each 64 bytes it makes on the way.
const FUEL: u64 = 1_000_000;
/// How deep macros may call each other.
const DEEPEST: usize = 50;

/// What one side of a chat said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Turn<'a> {
    /// `user`, `assistant` or `system`.
    pub role: Cow<'a, str>,
    /// What it said.
    pub content: Cow<'a, str>,
    /// As a list of parts, one of them, as templates of models that see want it.
    pub in_parts: bool,
}

impl Turn<'_> {
    fn value(&self) -> Value {
        let (role, content) = (self.role.as_ref(), self.content.as_ref());
        match self.in_parts {
            false => context! { role, content },
            true => context! { role, content => [context! { type => "text", text => content }] },
        }
    }
}

/// A chat, and the template that makes a text of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Chat<'a> {
    pub template: Cow<'a, str>,
    /// `bos_token`, `eos_token` and their like, with their texts.
    pub special_tokens: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    pub turns: Vec<Turn<'a>>,
    /// The date may be asked for, and is none.
    pub on_any_day: bool,
}

impl Chat<'_> {
    /// The text, up to where the answer begins, or the template's own refusal.
    pub fn render(&self) -> Result<Response, String> {
        let text = match self.rendered() {
            Ok(text) => text,
            Err(e) if is_refusal(&e) => return Ok(Response::Refused(e.detail().unwrap_or_default().to_owned())),
            Err(e) => return Err(format!("its chat template fails: {e}")),
        };
        let said: usize = self.turns.iter().map(|turn| turn.content.len()).sum();
        let (bytes, most) = (text.len(), LONGEST + 8 * said);
        if bytes > most {
            return Err(format!(
                "its chat template made {bytes} bytes of the {said} that were said, expected at most {most}"
            ));
        }
        Ok(Response::Text(text))
    }

    fn rendered(&self) -> Result<String, Error> {
        let mut environment = environment()?;
        if self.on_any_day {
            environment.add_function("strftime_now", |format: String| format);
        }
        let template = with_known_tags(&self.template);
        let template = environment.template_from_named_str("chat template", &template)?;
        template.render(context! {
            messages => self.turns.iter().map(Turn::value).collect::<Vec<Value>>(),
            add_generation_prompt => true,
            tools => (),
            documents => (),
            ..Value::from_pairs(self.special_tokens.iter().map(|(name, text)| (name.as_ref(), text.as_ref())))
        })
    }
}

/// Set up as transformers sets up Jinja, with limits and without a way to other templates.
fn environment<'a>() -> Result<Environment<'a>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(method);
    let raise =
        |problem: String| Err::<String, _>(Error::new(ErrorKind::InvalidOperation, problem).with_source(Refusal));
    environment.add_function("raise_exception", raise);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEEPEST);
    Ok(environment)
}

/// Behind an error that the template raised itself.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Refusal;

fn is_refusal(error: &Error) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source());
    causes.into_iter().any(|cause| cause.is::<Refusal>())
}

/// What transformers adds to Jinja: `{% generation %}` marks what the model says and makes no text.
fn with_known_tags(template: &str) -> String {
    let mut pieces = template.split("{%");
    let mut known = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let tag = piece.trim_start_matches(['-', '+']);
        let (sign, tag) = (&piece[..piece.len() - tag.len()], tag.trim_start());
        let is_end = |rest: &str| rest.trim_start().trim_start_matches(['-', '+']).starts_with("%}");
        let after = |name| tag.strip_prefix(name).filter(|rest| is_end(rest));
        known.push_str("{%");
        match (after("generation"), after("endgeneration")) {
            (Some(rest), _) => known.extend([sign, " with", rest]),
            (_, Some(rest)) => known.extend([sign, " endwith", rest]),
            _ => known.push_str(piece),
        }
    }
    known
}

/// Methods of Python's strings and bytes that the library does not know.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.kind(), value.as_str(), name) {
        (ValueKind::Bytes, _, "decode") => Ok(String::from_utf8_lossy(value.as_bytes().unwrap_or_default()).into()),
        (ValueKind::String, Some(text), "encode") => Ok(Value::from_bytes(text.as_bytes().to_owned())),
        (ValueKind::String, Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        (ValueKind::String, Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        _ => unknown_method_callback(state, value, name, args),
    }
}
