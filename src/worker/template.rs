//! Chat templates: Jinja, as transformers renders it.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
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
    /// The text, up to where the answer begins.
    pub fn render(&self) -> Result<String, String> {
        let text = self.rendered().map_err(|e| format!("its chat template fails: {e}"))?;
        let said: usize = self.turns.iter().map(|turn| turn.content.len()).sum();
        let (bytes, most) = (text.len(), LONGEST + 8 * said);
        if bytes > most {
            return Err(format!(
                "its chat template made {bytes} bytes of the {said} that were said, expected at most {most}"
            ));
        }
        Ok(text)
    }

    fn rendered(&self) -> Result<String, Error> {
        let mut environment = environment()?;
        if self.on_any_day {
            environment.add_function("strftime_now", |format: String| format);
        }
        let template = environment.template_from_named_str("chat template", &self.template)?;
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
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let raise = |problem: String| Err::<String, _>(Error::new(ErrorKind::InvalidOperation, problem));
    environment.add_function("raise_exception", raise);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEEPEST);
    Ok(environment)
}
