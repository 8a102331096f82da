//! Chats with more in them than turns of the user and the model, and conditions that no chat has met.

use super::{LISTED, NoText, Told, Tried, drops, shown, words_outside_tags};
use crate::integrity::lint::Check;
use crate::probe::Turn;
use crate::worker::{Date, Met};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Variables that are given a value, roles that the template may know, and runs in which conditions are taken to be
/// other than they are.
const MOST_VARIABLES: usize = 40;
const MOST_ROLES: usize = 150;
const MOST_FORCED: usize = 1000;
/// Turns that have words of their own, a system turn's the last.
const SAID: usize = 6;
/// Words that are text where other chats have none.
const FEWEST_NEW: usize = 2;

/// A chat of some kind.
#[derive(Clone)]
struct Scene<'t> {
    /// Where it is met, as in "where there is a system turn".
    name: String,
    turns: Vec<Turn<'t>>,
    variables: Map<String, Value>,
    date: Date<'t>,
    /// Whether the template has to know such chats, or may fail on them.
    usual: bool,
    /// Of the unusual ones of one kind the template has to know one at least, but for those of no kind.
    kind: Option<String>,
    must_keep: Vec<&'t str>,
}

impl Scene<'_> {
    fn is_kept(&self, text: &str) -> bool {
        let mut rest = Some(text);
        for word in &self.must_keep {
            rest = rest.and_then(|rest| Some(rest.split_once(word)?.1));
        }
        rest.is_some()
    }
}

impl Tried {
    /// What becomes of chats that have more in them.
    pub(super) fn varied(&self) -> Vec<Told> {
        let said: Vec<String> = self.words().take(SAID).collect();
        let said: Vec<&str> = said.iter().map(String::as_str).collect();
        let (plain, varied) = (self.plain_scenes(&said), self.scenes(&said));
        let mut known: BTreeSet<String> = KNOWN.iter().map(|word| (*word).to_owned()).collect();
        for scene in &plain {
            known.extend(self.made(scene).into_iter().flat_map(|text| words(&text)));
        }
        for scene in &varied {
            let given = Value::from(scene.variables.clone()).to_string();
            let also = scene.turns.iter().map(|turn| Value::from(turn.also.clone()).to_string() + &turn.content);
            known.extend(also.chain([given]).flat_map(|text| words(&text)));
            match &scene.date {
                Date::Format => {}
                Date::Text(text) => known.extend(words(text)),
                Date::Day(letters) => known.extend(letters.values().flat_map(|text| words(text))),
            }
        }
        let mut found: Vec<Told> = Vec::new();
        let mut added = Vec::new();
        let (mut tried, mut raised) = (BTreeSet::new(), BTreeMap::new());
        for scene in &varied {
            let text = match self.made(scene) {
                Ok(text) => {
                    tried.extend(&scene.kind);
                    text
                }
                Err(NoText::Failed(problem)) => {
                    found.push((Check::TemplateNotTried, format!("where {}: {problem}", scene.name), None));
                    return found;
                }
                Err(NoText::Refused(problem)) if scene.date != Date::Format => {
                    let message = format!("the chat template refuses a plain chat where {}: {problem}", scene.name);
                    found.push((Check::TemplateRefuses, message, None));
                    return found;
                }
                Err(NoText::Refused(_)) => {
                    tried.extend(&scene.kind);
                    continue;
                }
                Err(NoText::Raised(problem)) => {
                    if scene.usual {
                        self.leave(format!("where {}: {problem}", scene.name));
                    } else if let Some(kind) = &scene.kind {
                        raised.entry(kind).or_insert_with(|| format!("where {}: {problem}", scene.name));
                    }
                    continue;
                }
            };
            if !scene.is_kept(&text) {
                let (check, message, _) = drops(&format!("what is said where {}", scene.name));
                found.push((check, message, Some(text)));
                return found;
            }
            if let Some(told) = self.depends_where(scene, &text) {
                found.push(told);
                return found;
            }
            if let Some(new) = self.new_words(&text, &known) {
                added.push((new, &scene.name));
            }
            // Told once.
            known.extend(words(&self.without_said(&text)));
        }
        for (_, problem) in raised.into_iter().filter(|(kind, _)| !tried.contains(kind)) {
            self.leave(problem);
        }
        found.extend(added.into_iter().map(|(new, name)| {
            let message = format!("the chat template adds where {name}: {:?}", shown(&new));
            (Check::TemplateAddsText, message, Some(new))
        }));
        found.extend(self.system(&said));
        let scenes: Vec<Scene> = plain.into_iter().chain(varied).collect();
        found.extend(self.forced(&scenes, &known));
        found
    }

    fn made(&self, scene: &Scene) -> Result<String, NoText> {
        self.of(scene, scene.turns.clone(), BTreeMap::new()).0
    }

    /// The scene with these turns in place of its own.
    fn of(&self, scene: &Scene, turns: Vec<Turn>, forced: BTreeMap<usize, bool>) -> (Result<String, NoText>, Met) {
        self.render(turns, scene.variables.clone(), scene.date.clone(), forced)
    }

    fn without_said(&self, text: &str) -> String {
        self.words().take(SAID).fold(text.to_owned(), |text, said| text.replace(&said, " "))
    }

    /// Words of a text that no chat is known to have, in their order.
    fn new_words(&self, text: &str, known: &BTreeSet<String>) -> Option<String> {
        let is_new = |word: &&str| words(word).iter().any(|word| !known.contains(word));
        let outside = words_outside_tags(&self.without_said(text));
        let new: Vec<&str> = outside.split_whitespace().filter(is_new).collect();
        (new.len() >= FEWEST_NEW).then(|| new.join(" "))
    }

    /// The template's own words, said in such a chat, change what is around them.
    fn depends_where(&self, scene: &Scene, usual: &str) -> Option<Told> {
        let own = self.own_words();
        let content = |word: &str| format!("{word} {own} {word}");
        let mut expected = usual.to_owned();
        let mut turns = scene.turns.clone();
        let is_plain = |turn: &&mut Turn| turn.content.contains(&self.word) && !turn.also.contains_key("content");
        for turn in turns.iter_mut().filter(is_plain) {
            expected = expected.replace(&*turn.content, &content(&turn.content));
            turn.content = content(&turn.content).into();
        }
        let made = match self.of(scene, turns, BTreeMap::new()).0 {
            Ok(made) | Err(NoText::Refused(made)) => Some(made).filter(|made| *made != expected)?,
            Err(NoText::Raised(problem) | NoText::Failed(problem)) => {
                self.leave(format!("where {} and its own words are said: {problem}", scene.name));
                return None;
            }
        };
        let message = format!("the chat template makes another text where {} and its own words are said", scene.name);
        Some((Check::TemplateDependsOnText, message, Some(made)))
    }

    fn plain_scenes<'t>(&self, said: &[&'t str]) -> Vec<Scene<'t>> {
        [1, 3].map(|turns| self.scene("", said, turns)).into()
    }

    /// A chat of so many turns.
    fn scene<'t>(&self, name: &str, said: &[&'t str], turns: usize) -> Scene<'t> {
        let must_keep: Vec<&str> = said.iter().copied().take(turns).collect();
        let roles = ["user", "assistant"].into_iter().cycle();
        let turns = roles.zip(&must_keep).map(|(role, content)| self.turn(role, content)).collect();
        let (variables, date, kind) = (Map::new(), Date::Format, Some(name.to_owned()));
        Scene { name: name.into(), turns, variables, date, usual: true, kind, must_keep }
    }

    fn scenes<'t>(&'t self, said: &[&'t str]) -> Vec<Scene<'t>> {
        let scene = |name: &str, turns| self.scene(name, said, turns);
        let with = |mut scene: Scene<'t>, name: &str, value: Value| {
            scene.variables.insert(name.into(), value);
            scene
        };
        let mut all = Vec::new();
        for turns in [1, 3] {
            all.push(self.with_system(scene("there is a system turn", turns), said));
        }
        for turns in [1, 2, 3] {
            all.push(with(scene("no answer is asked for", turns), "add_generation_prompt", false.into()));
        }
        for (name, date) in self.dates() {
            for turns in [1, 3] {
                let date = date.clone();
                all.push(Scene { date, ..scene(&format!("the date is {name}"), turns) });
            }
        }
        let unusual = |scene: Scene<'t>| Scene { usual: false, ..scene };
        let mut reasoned = scene("the model's reasoning is given", 3);
        reasoned.turns[1].also.insert("reasoning_content".into(), "reasoning".into());
        all.push(unusual(reasoned));
        let mut parts = scene("what is said is in parts", 3);
        for turn in &mut parts.turns {
            let content = json!([{"type": "image"}, {"type": "text", "text": turn.content}]);
            turn.also.insert("content".into(), if self.parts { turn.content.clone().into() } else { content });
        }
        all.push(Scene { must_keep: Vec::new(), kind: None, ..unusual(parts) });
        let documents = json!([{"title": "title", "text": "text", "content": "content", "doc_id": 1}]);
        all.push(unusual(with(scene("documents are given", 1), "documents", documents)));
        let roles =
            self.at_most(MOST_ROLES, "texts that may be a role", self.own.iter().filter(|own| is_name(own)).collect());
        for name in roles.into_iter().chain([&self.word]) {
            let mut other = scene(&format!("a turn is {name}'s"), 3);
            other.turns[1].role = name.clone().into();
            other.must_keep = vec![said[0], said[2]];
            all.push(unusual(other));
        }
        // Arguments of calls are an object or its text.
        let arguments = json!({"key": "argument"});
        for (content, arguments) in [(json!(""), arguments.clone()), (Value::Null, arguments.to_string().into())] {
            for turns in [1, 3] {
                all.push(unusual(with(scene("tools are given", turns), "tools", tools())));
            }
            let mut called = scene("tools are called", 5);
            called.turns[1].also =
                Map::from_iter([("content".into(), content), ("tool_calls".into(), calls(arguments))]);
            called.turns[1].content = "".into();
            let id = Map::from_iter([("tool_call_id".into(), ID.into()), ("name".into(), "lookup".into())]);
            called.turns[2] = Turn { also: id, ..self.turn("tool", "result") };
            called.turns[3].role = "assistant".into();
            called.must_keep = vec![said[0], said[4]];
            let called = unusual(with(called, "tools", tools()));
            let mut above = self.with_system(called.clone(), said);
            above.turns[0].also.insert("tools".into(), "tools".into());
            all.extend([called, above]);
        }
        for name in self.at_most(MOST_VARIABLES, "variables", self.asked.variables.iter().collect()) {
            for value in [json!(true), json!(false), json!("value")] {
                for turns in [1, 3] {
                    let given = with(scene(&format!("{name} is {value}"), turns), name, value.clone());
                    all.push(Scene { kind: Some(name.clone()), ..unusual(given) });
                }
            }
        }
        all
    }

    fn with_system<'t>(&self, mut scene: Scene<'t>, said: &[&'t str]) -> Scene<'t> {
        scene.turns.insert(0, self.turn("system", said[SAID - 1]));
        scene
    }

    /// What is set above a chat may be ignored, as some published templates do.
    fn system(&self, said: &[&str]) -> Option<Told> {
        let text = self.made(&self.with_system(self.scene("", said, 1), said)).ok()?;
        let message = "the chat template leaves out what a system turn says".to_owned();
        (!text.contains(said[SAID - 1])).then_some((Check::TemplateIgnoresSystem, message, Some(text)))
    }

    /// What the template would do where a condition is met that no chat has met: it is taken to be met, and those that
    /// are asked then in their turn.
    fn forced(&self, scenes: &[Scene], known: &BTreeSet<String>) -> Option<Told> {
        let met_before = self.met.borrow().clone();
        let mut tried = Met::new();
        let (mut effects, mut runs) = (BTreeSet::new(), 0);
        for scene in scenes {
            let mut left = VecDeque::from([(None, BTreeMap::new())]);
            while let Some((last, forced)) = left.pop_front() {
                if runs == MOST_FORCED {
                    self.leave(format!("it has more conditions than could be met in {MOST_FORCED} chats"));
                }
                if runs >= MOST_FORCED || self.is_over() {
                    break;
                }
                runs += usize::from(last.is_some());
                let (made, met) = self.of(scene, scene.turns.clone(), forced.clone());
                for (condition, value) in met {
                    if tried.insert((condition, !value)) {
                        let mut more = forced.clone();
                        more.insert(condition, !value);
                        left.push_back((Some((condition, !value)), more));
                    }
                }
                let Some((condition, value)) = last.filter(|last| !met_before.contains(last)) else { continue };
                let effect = match made {
                    Ok(text) if !scene.is_kept(&text) => Effect::LeavesOut,
                    Ok(text) => match self.new_words(&text, known) {
                        Some(new) => Effect::Adds(shown(&new)),
                        None => continue,
                    },
                    Err(NoText::Refused(_)) => continue,
                    Err(NoText::Raised(_)) => Effect::Fails,
                    Err(NoText::Failed(problem)) => {
                        let condition = self.asked.conditions.get(condition).map_or("", String::as_str);
                        self.leave(format!("where {:?} is {value}: {problem}", shown(condition)));
                        continue;
                    }
                };
                let condition = self.asked.conditions.get(condition).map_or("", String::as_str);
                effects.insert((effect, condition, value));
            }
        }
        let told: Vec<String> = effects
            .iter()
            .map(|(effect, condition, value)| format!("where {:?} is {value} it {effect}", shown(condition)))
            .take(LISTED)
            .collect();
        let first = told.first()?;
        let more = match effects.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let message = format!("the chat template has conditions that no chat has met: {first}{more}");
        Some((Check::TemplateUntried, message, Some(told.join("; "))))
    }
}

/// What a condition comes to that is taken to be met, the worst first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    LeavesOut,
    Adds(String),
    Fails,
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Effect::LeavesOut => f.write_str("leaves out what is said"),
            Effect::Adds(text) => write!(f, "adds {text:?}"),
            Effect::Fails => f.write_str("cannot be tried"),
        }
    }
}

/// Roles, and what Jinja makes of no text.
const KNOWN: [&str; 7] = ["system", "user", "assistant", "tool", "developer", "model", "none"];

/// As Mistral's templates want it.
const ID: &str = "callcall1";

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "lookup", "description": "description", "parameters": {
        "type": "object", "properties": {"key": {"type": "string", "description": "description"}}, "required": ["key"]},
        "return": {"type": "string", "description": "description"}}}])
}

fn calls(arguments: Value) -> Value {
    json!([{"id": ID, "type": "function", "function": {"name": "lookup", "arguments": arguments}}])
}

/// As roles are named.
fn is_name(text: &str) -> bool {
    (2..20).contains(&text.len()) && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

fn words(text: &str) -> Vec<String> {
    let is_word = |word: &&str| word.chars().filter(|c| c.is_alphabetic()).count() > 1;
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(is_word);
    words.map(str::to_lowercase).collect()
}
