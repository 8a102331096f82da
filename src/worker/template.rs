//! Chat templates: Jinja, as transformers renders it.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The longest text that a template may make, in bytes.
const LONGEST: usize = 1 << 20;
/// What a template may use up: one unit for an instruction, and for each 64 bytes it makes on the way.
const FUEL: u64 = 1_000_000;
/// How deep macros may call each other.
const DEEPEST: usize = 50;

/// A chat of one message, and the template that makes a text of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Chat<'a> {
    pub template: Cow<'a, str>,
    /// `bos_token`, `eos_token` and their like, with their texts.
    pub special_tokens: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    pub message: Cow<'a, str>,
}

impl Chat<'_> {
    /// The text, up to where the answer begins.
    pub fn render(&self) -> Result<String, String> {
        let text = self.rendered().map_err(|e| format!("its chat template fails: {e}"))?;
        match text.len() {
            0..=LONGEST => Ok(text),
            bytes => Err(format!("its chat template made {bytes} bytes, expected at most {LONGEST}")),
        }
    }

    fn rendered(&self) -> Result<String, Error> {
        let environment = environment()?;
        let template = environment.template_from_named_str("chat template", &self.template)?;
        template.render(context! {
            messages => [context! { role => "user", content => self.message.as_ref() }],
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
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let raise = |problem: String| Err::<String, _>(Error::new(ErrorKind::InvalidOperation, problem));
    environment.add_function("raise_exception", raise);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEEPEST);
    Ok(environment)
}
