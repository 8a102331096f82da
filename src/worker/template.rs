//! Chat templates: Jinja, as transformers renders it.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that a template may make besides eight times what was said: three times the longest system prompts published.
const LONGEST: usize = 32 << 10;
/// What a template may use up: one unit for an instruction, and for each 64 bytes it makes on the way.
const FUEL: u64 = 1_000_000;
/// How deep macros may call each other.
const DEEPEST: usize = 50;

/// Characters of a problem that are told: what comes with a checkpoint may have its own words in it.
const LONGEST_PROBLEM: usize = 300;

/// A problem in one line.
pub(super) fn short(problem: &str) -> String {
    problem.lines().next().unwrap_or_default().chars().take(LONGEST_PROBLEM).collect()
}

/// What one side of a chat said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Turn<'a> {
    /// `user`, `assistant` or `system`.
    pub role: Cow<'a, str>,
    /// What it said.
    pub content: Cow<'a, str>,
    /// As a list of parts, one of them, as templates of models that see want it.
    pub in_parts: bool,
    /// What else there is of it, such as the calls of tools.
    #[serde(default)]
    pub also: Map<String, Json>,
}

impl Turn<'_> {
    fn value(&self) -> Value {
        let (role, content) = (self.role.as_ref(), self.content.as_ref());
        let content = match self.in_parts {
            false => Value::from(content),
            true => vec![context! { type => "text", text => content }].into(),
        };
        let also = self.also.iter().map(|(name, value)| (name.as_str(), value_of(value)));
        Value::from_pairs([("role", role.into()), ("content", content)].into_iter().chain(also))
    }
}

/// A chat, and the template that makes a text of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Chat<'a> {
    pub template: Cow<'a, str>,
    /// `bos_token`, `eos_token` and their like, with their texts.
    pub special_tokens: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    pub turns: Vec<Turn<'a>>,
    /// The date may be asked for.
    #[serde(default)]
    pub date: Option<Date<'a>>,
    /// What templates are given besides, tools and the like, or in place of what they are given.
    #[serde(default)]
    pub variables: Map<String, Json>,
    #[serde(default)]
    pub conditions: Option<Conditions<'a>>,
}

/// What `strftime_now` gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Date<'a> {
    /// What it is asked for, such as `%Y`, which stays the same from day to day.
    #[default]
    Format,
    /// This text, whatever it is asked for.
    Text(Cow<'a, str>),
    /// What each letter after a `%` stands for.
    Day(BTreeMap<char, Cow<'a, str>>),
}

impl Date<'_> {
    fn owned(self) -> Date<'static> {
        match self {
            Date::Format => Date::Format,
            Date::Text(text) => Date::Text(text.into_owned().into()),
            Date::Day(letters) => {
                Date::Day(letters.into_iter().map(|(letter, text)| (letter, text.into_owned().into())).collect())
            }
        }
    }

    fn formatted(&self, format: &str) -> String {
        match self {
            Date::Format => format.to_owned(),
            Date::Text(text) => text.clone().into_owned(),
            Date::Day(letters) => {
                let (mut text, mut rest) = (String::new(), format);
                while let Some((before, after)) = rest.split_once('%') {
                    text.push_str(before);
                    // Without the zero in front, as in `%-d`.
                    let (short, letter) = match after.strip_prefix('-') {
                        Some(letter) => (true, letter),
                        None => (false, after),
                    };
                    let Some(c) = letter.chars().next() else { break };
                    let known = letters.get(&c).map_or("", |known| known.as_ref());
                    text.push_str(if short { known.trim_start_matches('0') } else { known });
                    rest = &letter[c.len_utf8()..];
                }
                text + rest
            }
        }
    }
}

/// Why a chat has no text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NoText {
    /// The template refuses it by `raise_exception`.
    Refused(String),
    /// What it does with values is an error, as it mostly is in Jinja.
    Raised(String),
    /// It was not tried, or what renders it failed: that says nothing of the template.
    #[serde(skip)]
    Failed(String),
}

/// A template's conditions are followed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Conditions<'a> {
    /// The function that the template calls with a condition's number and its value, for the value.
    pub function: Cow<'a, str>,
    /// What these are taken to be, whatever they are.
    pub forced: BTreeMap<usize, bool>,
}

/// Conditions by their numbers, and what they were.
pub(crate) type Met = BTreeSet<(usize, bool)>;

impl Conditions<'_> {
    fn follow(&self, environment: &mut Environment<'_>, met: &Arc<Mutex<Met>>) {
        let (met, forced) = (Arc::clone(met), self.forced.clone());
        environment.add_function(self.function.clone().into_owned(), move |condition: usize, value: Value| {
            let taken = forced.get(&condition).copied();
            met.lock().unwrap_or_else(PoisonError::into_inner).insert((condition, taken.unwrap_or(value.is_true())));
            taken.map_or(value, Value::from)
        });
    }
}

impl Chat<'_> {
    /// The text, up to where the answer begins, or why there is none; what this renderer cannot do is a problem.
    pub fn render(&self) -> Result<(Result<String, NoText>, Met), String> {
        let met = Arc::default();
        let made = match self.rendered(&met) {
            Ok(text) => Ok(text),
            Err(e) if is_refusal(&e) => Err(NoText::Refused(short(e.detail().unwrap_or_default()))),
            Err(e) => {
                let problem = format!("its chat template fails: {e}");
                match e.kind() {
                    ErrorKind::InvalidOperation
                    | ErrorKind::UndefinedError
                    | ErrorKind::NonKey
                    | ErrorKind::CannotUnpack
                    | ErrorKind::MissingArgument => Err(NoText::Raised(short(&problem))),
                    _ => return Err(problem),
                }
            }
        };
        let said: usize = self.turns.iter().map(|turn| turn.content.len()).sum();
        let (bytes, most) = (made.as_ref().map_or(0, String::len), LONGEST + 8 * said);
        if bytes > most {
            return Err(format!(
                "its chat template made {bytes} bytes of the {said} that were said, expected at most {most}"
            ));
        }
        let met = met.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((made, met))
    }

    fn rendered(&self, met: &Arc<Mutex<Met>>) -> Result<String, Error> {
        let mut environment = environment()?;
        if let Some(date) = &self.date {
            let date = date.clone().owned();
            environment.add_function("strftime_now", move |format: String| date.formatted(&format));
        }
        if let Some(conditions) = &self.conditions {
            conditions.follow(&mut environment, met);
        }
        let template = with_known_tags(&self.template);
        let template = environment.template_from_named_str("chat template", &template)?;
        let turns: Value = self.turns.iter().map(Turn::value).collect::<Vec<Value>>().into();
        let given = [
            ("messages", turns),
            ("add_generation_prompt", true.into()),
            ("tools", ().into()),
            ("documents", ().into()),
        ];
        let special = self.special_tokens.iter().map(|(name, text)| (name.as_ref(), text.as_ref().into()));
        let variables = self.variables.iter().map(|(name, value)| (name.as_str(), value_of(value)));
        let context: BTreeMap<&str, Value> = given.into_iter().chain(special).chain(variables).collect();
        template.render(Value::from_pairs(context))
    }
}

/// JSON, as a template sees it.
fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => ().into(),
        Json::Bool(truth) => (*truth).into(),
        Json::Number(number) => number.as_i64().map(Value::from).unwrap_or_else(|| number.as_f64().into()),
        Json::String(text) => text.as_str().into(),
        Json::Array(list) => list.iter().map(value_of).collect::<Vec<Value>>().into(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(name, value)| (name.as_str(), value_of(value)))),
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
    environment.add_filter("tojson", to_json);
    environment.add_filter("int", to_int);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_iterable);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEEPEST);
    Ok(environment)
}

/// A whole number, in Jinja 0 of what is none.
fn to_int(state: &State, value: &Value, default: Option<Value>, arguments: Kwargs) -> Result<Value, Error> {
    let default = match default {
        Some(default) => default,
        None => arguments.get::<Option<Value>>("default")?.unwrap_or_else(|| 0.into()),
    };
    minijinja::filters::int(state, value, Some(default), None, arguments)
}

/// As Jinja has it, for texts, dictionaries and what is undefined, too.
fn is_iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), String | Seq | Map | Iterable | Undefined)
}

/// JSON as transformers writes it, by default without escapes of letters.
fn to_json(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent = arguments.get("indent")?;
    if arguments.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(Error::new(ErrorKind::TooManyArguments, "ensure_ascii is not known to this renderer"));
    }
    arguments.assert_all_used()?;
    minijinja::filters::tojson(value, indent, Kwargs::from_iter::<[(&str, Value); 0]>([]))
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

/// Methods of Python's lists.
const OF_LISTS: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];

/// As Python says of a value that has no such method.
fn no_method(value: &Value, name: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{} has no method named {name}", value.kind()))
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
        // What these have in Python is asked of no other value.
        (ValueKind::Undefined | ValueKind::None | ValueKind::Bool | ValueKind::Number, ..) => {
            Err(no_method(value, name))
        }
        (ValueKind::Seq, ..) if !OF_LISTS.contains(&name) => Err(no_method(value, name)),
        _ => unknown_method_callback(state, value, name, args),
    }
}
