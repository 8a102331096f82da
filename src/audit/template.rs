//! What the default chat template does to what is said: chats are rendered, and held against each other.
//!
//! The words in them come from the template's own digest, so that it cannot know them. Told are: a turn of the user or
//! the model that is left out, out of order or given to the other; text that depends on what is said, which is tried with
//! every string of up to 200 bytes that the template itself holds, with single characters, a piece of English and some
//! lengths, texts in other scripts, or on how many turns there are, up to 21; and the text that is added to every chat,
//! which is a default system prompt in many sound models, for a reader to judge. A template that refuses a chat by
//! `raise_exception` has said so to whoever runs it: that is let be where more than one turn is what it refuses. One
//! that fails otherwise was not tried.
//!
//! In `varied` there is more than turns of the two: a system turn, tools and documents, no answer that is asked for, other
//! roles, a value for each variable that the template reads, and some dates; all that is said has to be there, too, and
//! the template's own words change nothing. Each condition that no chat has met is then taken to be met, and it is told
//! where that leaves out what is said or adds text: whether it ever is met is for a reader to judge.
//!
//! What was not tried, as there is too much of it, it takes too long or this renderer cannot do it, is told and counts
//! as a warning; so is what a template uses that published ones do not.
//!
//! A note is what is done where a tag is said (`</think>`, `[INST]`, `/no_think`), which many templates rightly look for.
//! Not seen are:
//! - what is decided without a condition, by arithmetic on lengths or on where something is found;
//! - lengths and numbers of turns that the template computes, where another condition has to be met as well;
//! - what tells this renderer from Jinja by what published templates use, too;
//! - a few words (under five) that are added to every chat alike;
//! - templates of other names.

mod dates;
mod said;
mod varied;

use crate::checkpoint::{Opened, TOKENIZER_CONFIG};
use crate::error::{Error, Result};
use crate::integrity::lint::{Check, Location, Observation, TemplateNames, asked, literals, unusual};
use crate::probe::{ChatTemplate, Turn};
use crate::worker::{Conditions, Date, Met, NoText};
use said::Said;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long all trials of a template may take together.
const TIME: Duration = Duration::from_secs(8);
const TOO_LONG: &str = "all that was tried took the 8 s there are";
/// Numbers of the template that are tried as lengths, and as numbers of turns.
const MOST_NUMBERS: usize = 30;
const MOST_LENGTHS: usize = 8;
/// Turns of the longest chat that is tried.
const MOST_TURNS: usize = 21;
/// And of one that the template has a number for.
const MOST_TURNS_ASKED: usize = 600;
/// Places in a chat.
const BEFORE_MODEL: &str = "before the model's turn";
const BEFORE_USER: &str = "before the user's turn";
const AFTER: &str = "after the last turn";
/// Characters of a text that are shown.
const SHOWN: usize = 200;
/// Of what was not tried, and of effects of conditions, so many are listed.
const LISTED: usize = 10;
/// As few words as tags and roles have are no text that is added.
const FEWEST_WORDS: usize = 5;

/// Looks at a model's default template.
///
/// # Errors
/// What renders it is ended from outside, which is no property of the template.
pub fn observe(opened: &Opened) -> Result<Vec<Observation>> {
    match ChatTemplate::of(opened) {
        Ok(None) => Ok(Vec::new()),
        Ok(Some(template)) => Tried::new(template).all(),
        Err(error) => Ok(vec![observation(Check::TemplateNotTried, TOKENIZER_CONFIG, error.to_string(), Value::Null)]),
    }
}

/// The default template's SHA-256, and which class of tokenizers the checkpoint names; none of what it lacks or what
/// cannot be read, which others tell of.
pub fn identity(opened: &Opened) -> (Option<String>, Option<String>) {
    let config: Option<Value> = opened.settings(TOKENIZER_CONFIG).ok().flatten();
    let class = config.as_ref().and_then(|config| Some(config.get("tokenizer_class")?.as_str()?.to_owned()));
    let template = ChatTemplate::of_readable(opened);
    (template.map(|template| template.sha256()), class)
}

fn observation(check: Check, file: &str, message: String, evidence: Value) -> Observation {
    Observation { check, location: Location::file(file), message, evidence }
}

/// A template under trial.
struct Tried {
    template: ChatTemplate,
    asked: TemplateNames,
    /// Texts that it holds, but for long ones.
    own: Vec<String>,
    /// The template calls it with its conditions.
    function: String,
    /// Conditions that were met.
    met: RefCell<Met>,
    /// A word that no template has.
    word: String,
    /// Contents are lists of parts.
    parts: bool,
    /// When there is no more time.
    end: Instant,
    /// What was not tried, and why.
    left: RefCell<BTreeSet<String>>,
    /// What renders the template was ended.
    ended: RefCell<Option<Error>>,
}

/// What is told of a template, and the text it made.
type Told = (Check, String, Option<String>);

/// What stands around turns, by where.
type Around = BTreeMap<&'static str, String>;

impl Tried {
    fn new(template: ChatTemplate) -> Tried {
        // Letters alone: numbers may be told apart from words.
        let letter = |c: char| char::from_digit(c.to_digit(16).unwrap_or(0) + 10, 26 + 10).unwrap_or('x');
        let word: String = template.sha256().chars().take(12).map(letter).collect();
        let function = format!("met_{word}");
        let asked = asked(template.text(), &function);
        let is_tried = |text: &String| text.len() <= SHOWN && !text.is_empty();
        let own = literals(template.text()).into_iter().filter(is_tried).collect();
        let (met, left, ended) = Default::default();
        let end = Instant::now() + TIME;
        Tried { template, asked, own, function, met, word, parts: false, end, left, ended }
    }

    /// There is no more time, which is told then.
    fn is_over(&self) -> bool {
        let is_over = Instant::now() >= self.end;
        if is_over {
            self.leave(TOO_LONG);
        }
        is_over
    }

    /// Keeps what was not tried, to be told.
    fn leave(&self, what: impl Into<String>) {
        self.left.borrow_mut().insert(what.into());
    }

    /// At most so many are tried.
    fn at_most<T>(&self, most: usize, what: &str, mut all: Vec<T>) -> Vec<T> {
        if all.len() > most {
            self.leave(format!("it has {} {what}, of which {most} were tried", all.len()));
            all.truncate(most);
        }
        all
    }

    fn all(mut self) -> Result<Vec<Observation>> {
        let file = self.template.file_name();
        let observed = |(check, message, text): Told| {
            let evidence = text.map_or(Value::Null, |text| json!({"text": shown(&text)}));
            observation(check, &file, message, evidence)
        };
        let unusual = unusual(self.template.text());
        if !unusual.is_empty() {
            self.leave(format!(
                "it uses what published templates do not, and what may be another thing where it is served: {}",
                unusual.join(", ")
            ));
        }
        let found = match self.plain().and_then(|plain| Ok((plain, self.around()?))) {
            Err(told) => vec![told],
            Ok((plain, around)) => {
                let depends = self.depends();
                // One cause is told once.
                let is_known = depends.iter().any(|(check, ..)| *check != Check::TemplateDependsOnTag);
                let varied = if is_known { Vec::new() } else { self.varied() };
                depends.into_iter().chain(self.adds(&plain, &around)).chain(varied).collect()
            }
        };
        // What was not tried is told, and once.
        let (not_tried, told): (Vec<Told>, Vec<Told>) =
            found.into_iter().partition(|(check, ..)| *check == Check::TemplateNotTried);
        self.left.borrow_mut().extend(not_tried.into_iter().map(|(_, message, _)| message));
        let mut found: Vec<Observation> = told.into_iter().map(observed).collect();
        let left = self.left.take();
        if let Some(first) = left.first() {
            let more = if left.len() == 1 { String::new() } else { format!(" (and {} more)", left.len() - 1) };
            let message = format!("the chat template was not tried in all it may do: {first}{more}");
            let listed: Vec<&String> = left.iter().take(LISTED).collect();
            found.push(observation(Check::TemplateNotTried, &file, message, json!({"not_tried": listed})));
        }
        self.ended.take().map_or(Ok(found), Err)
    }

    /// The text of a chat of one turn; finds out which form of contents the template takes.
    fn plain(&mut self) -> std::result::Result<String, Told> {
        let word = self.word.clone();
        let holds = |made: &std::result::Result<String, NoText>| made.as_ref().is_ok_and(|text| text.contains(&word));
        let mut plain = self.chat(&[&word]);
        if !holds(&plain) {
            // Templates of models that see take parts and make nothing of a text.
            self.parts = true;
            let parts = self.chat(&[&word]);
            self.parts = holds(&parts);
            plain = if self.parts { parts } else { plain };
        }
        match plain {
            Ok(plain) if plain.contains(&word) => Ok(plain),
            Ok(_) => Err(drops("what the user says")),
            Err(NoText::Refused(problem)) => {
                Err((Check::TemplateRefuses, format!("the chat template refuses a plain chat: {problem}"), None))
            }
            Err(NoText::Raised(problem) | NoText::Failed(problem)) => {
                Err((Check::TemplateNotTried, format!("a plain chat: {problem}"), None))
            }
        }
    }

    /// A chat of these turns, the user's first, as one text.
    fn chat(&self, contents: &[&str]) -> std::result::Result<String, NoText> {
        let roles = ["user", "assistant"].into_iter().cycle();
        let turns = roles.zip(contents).map(|(role, content)| self.turn(role, content)).collect();
        self.render(turns, Map::new(), Date::Format, BTreeMap::new()).0
    }

    fn turn<'t>(&self, role: &'t str, content: &'t str) -> Turn<'t> {
        Turn { role: role.into(), content: content.into(), in_parts: self.parts, also: Map::new() }
    }

    /// A chat as one text, and the conditions that it met.
    fn render(
        &self,
        turns: Vec<Turn<'_>>,
        variables: Map<String, Value>,
        date: Date<'_>,
        forced: BTreeMap<usize, bool>,
    ) -> (std::result::Result<String, NoText>, Met) {
        if self.is_over() {
            return (Err(NoText::Failed(TOO_LONG.into())), Met::new());
        }
        let as_it_is = forced.is_empty();
        let conditions = Conditions { function: (&self.function).into(), forced };
        let marked = (self.asked.marked.as_str(), conditions);
        match self.template.render_marked(self.end, marked, turns, variables, date) {
            Ok((made, met)) => {
                if as_it_is {
                    self.met.borrow_mut().extend(&met);
                }
                (made, met)
            }
            Err(error) => {
                let problem = NoText::Failed(self.template.problem(&error));
                if matches!(error, Error::Interrupted | Error::Ended { .. }) {
                    self.ended.replace(Some(error));
                }
                (Err(problem), Met::new())
            }
        }
    }

    /// What stands around the turns of chats of up to [`MOST_TURNS`]: the turns are all there, in their order, and
    /// told apart, and how many they are changes nothing else. A chat may be refused: not all templates take several
    /// turns.
    fn around(&self) -> std::result::Result<Around, Told> {
        let mut around = Around::new();
        let longer = self.asked.numbers.range(MOST_TURNS..).copied().collect::<Vec<usize>>();
        let (longer, longest): (Vec<usize>, Vec<usize>) =
            longer.into_iter().partition(|turns| *turns < MOST_TURNS_ASKED);
        if let Some(longest) = longest.first() {
            self.leave(format!("it has the number {longest}, and no chat has over {MOST_TURNS_ASKED} turns"));
        }
        let longer = self.at_most(MOST_NUMBERS, "numbers", longer).into_iter().map(|turns| (turns | 1) + 2);
        for turns in (1..=MOST_TURNS).step_by(2).chain(longer) {
            let said: Vec<String> = self.words().take(turns).collect();
            let text = match self.chat(&said.iter().map(String::as_str).collect::<Vec<_>>()) {
                Ok(text) => text,
                Err(NoText::Refused(_)) => continue,
                Err(NoText::Raised(problem) | NoText::Failed(problem)) => {
                    return Err((Check::TemplateNotTried, format!("in a chat of {turns} turns: {problem}"), None));
                }
            };
            for (at, part) in parts(&text, &said)?.into_iter().enumerate() {
                // Rounds may be counted.
                let part: String = part.chars().filter(|c| !c.is_numeric()).collect();
                let usual = around.entry(place_of(at, turns)).or_insert_with(|| part.clone());
                if *usual != part {
                    let message =
                        format!("the chat template makes another text in a chat of {turns} turns than in shorter ones");
                    return Err((Check::TemplateDependsOnText, message, Some(part)));
                }
            }
        }
        match confuses_roles(&around) {
            true => Err(drops("which turns are the model's")),
            false => Ok(around),
        }
    }

    /// A word for each turn.
    fn words(&self) -> impl Iterator<Item = String> {
        ('a'..='z').flat_map(move |a| ('a'..='z').map(move |b| format!("{a}{b}{}", self.word)))
    }

    /// Something in what is said that changes what is around it: one tag, and one that is none.
    fn depends(&self) -> Vec<Told> {
        let said = self.said();
        let not_tried = |message: String| (Check::TemplateNotTried, message, None);
        // The only turn, and all turns of longer chats.
        let chats: Vec<Vec<String>> =
            self.lengths().into_iter().map(|turns| self.words().take(turns).collect()).collect();
        let chats: Vec<(Vec<String>, String)> = chats
            .into_iter()
            .filter_map(|words| Some((self.chat(&words.iter().map(String::as_str).collect::<Vec<_>>()).ok()?, words)))
            .map(|(text, words)| (words, text))
            .collect();
        let mut found: Vec<Told> = Vec::new();
        for Said { name, content, tag } in said {
            // What is long is said in short chats.
            for (words, usual) in chats.iter().filter(|(words, _)| words.len() < 4 || content.len() < 4 * SHOWN) {
                let expected = words.iter().fold(usual.clone(), |text, word| text.replace(word, &content));
                let made = match self.chat(&vec![content.as_str(); words.len()]) {
                    Ok(made) if made == expected => continue,
                    Ok(made) | Err(NoText::Refused(made)) => made,
                    Err(NoText::Raised(problem) | NoText::Failed(problem)) => {
                        found.push(not_tried(format!("where what is said has {name}: {problem}")));
                        return found;
                    }
                };
                let message = format!("the chat template makes another text where what is said has {name}");
                match tag {
                    true if found.is_empty() => found.push((Check::TemplateDependsOnTag, message, Some(made))),
                    true => {}
                    false => {
                        found.push((Check::TemplateDependsOnText, message, Some(made)));
                        return found;
                    }
                }
            }
        }
        found
    }

    /// Turns of the chats in which all is said that is tried.
    fn lengths(&self) -> BTreeSet<usize> {
        let own = self.asked.numbers.iter().filter(|turns| (4..MOST_TURNS).contains(*turns));
        let odd: BTreeSet<usize> = own.map(|turns| turns | 1).flat_map(|turns| [turns, turns + 2]).collect();
        let odd = self.at_most(MOST_LENGTHS, "numbers that chats may be long", odd.into_iter().collect());
        [1, 3].into_iter().chain(odd).collect()
    }

    /// Text in every chat, or in every longer one.
    fn adds(&self, plain: &str, around: &Around) -> Option<Told> {
        let is_text = |text: &String| text.split_whitespace().count() >= FEWEST_WORDS;
        let plain = words_outside_tags(&plain.replace(&self.word, " "));
        let known: String = plain.chars().filter(|c| !c.is_numeric()).collect();
        let longer = around.values().map(|part| words_outside_tags(part));
        let longer = longer.filter(|part| is_text(part) && !known.contains(part.as_str()));
        let (chats, first) = match is_text(&plain) {
            true => ("every chat", Some(plain.clone())),
            false => ("every longer chat", None),
        };
        let added: Vec<String> = first.into_iter().chain(longer.collect::<BTreeSet<String>>()).collect();
        let message = format!("the chat template adds to {chats}: {:?}", shown(&added.join(" … ")));
        (!added.is_empty()).then(|| (Check::TemplateAddsText, message, Some(added.join(" … "))))
    }
}

fn drops(what: &str) -> Told {
    (Check::TemplateDropsText, format!("the chat template leaves out {what}"), None)
}

/// What stands before, between and after turns.
fn parts<'t>(text: &'t str, turns: &[String]) -> std::result::Result<Vec<&'t str>, Told> {
    let (mut rest, mut parts) = (text, Vec::new());
    for (at, turn) in turns.iter().enumerate() {
        let Some((before, after)) = rest.split_once(turn.as_str()) else {
            return Err(drops(match (text.contains(turn), at % 2) {
                (true, _) => "the order of the turns",
                (false, 0) => "what the user says in a longer chat",
                (false, _) => "what the model said before",
            }));
        };
        parts.push(before);
        rest = after;
    }
    parts.push(rest);
    Ok(parts)
}

/// Where in a chat of so many turns a part stands. First and last turns may have what others have not.
fn place_of(at: usize, turns: usize) -> &'static str {
    match at {
        _ if at == turns => AFTER,
        0 if turns == 1 => "before the only turn",
        0 => "before the first turn",
        _ if at + 1 == turns => "before the user's last turn",
        _ if at + 2 == turns => "before the model's last turn",
        _ if at % 2 == 1 => BEFORE_MODEL,
        _ => BEFORE_USER,
    }
}

/// The model's turns begin as the user's do, though its answer does not; or the user's as its answer does, though its
/// turns do not. Templates that mark neither are let be.
fn confuses_roles(around: &Around) -> bool {
    let part = |place| around.get(place).map(|part| part.trim()).filter(|part| !part.is_empty());
    match (part(BEFORE_MODEL), part(BEFORE_USER), part(AFTER)) {
        (Some(model), Some(user), Some(after)) => (model == user) != (after == user),
        _ => false,
    }
}

/// A text without the tags in angle or square brackets; more than a few words in them are none.
fn words_outside_tags(text: &str) -> String {
    let (mut opened, mut pieces) = (false, Vec::new());
    for piece in text.split_inclusive(['<', '>', '[', ']']) {
        let inside: Vec<&str> = piece.trim_end_matches(['<', '>', '[', ']']).split_whitespace().collect();
        let is_tag = opened && piece.ends_with(['>', ']']) && inside.len() < FEWEST_WORDS;
        pieces.push((is_tag, inside));
        opened = piece.ends_with(['<', '[']);
    }
    // Tags that are a text together are none.
    let in_tags = pieces.iter().filter(|(is_tag, inside)| *is_tag && inside.len() > 1);
    let is_text = in_tags.map(|(_, inside)| inside.len()).sum::<usize>() >= FEWEST_WORDS;
    let words = pieces.into_iter().filter(|(is_tag, inside)| !*is_tag || is_text && inside.len() > 1);
    words.flat_map(|(_, inside)| inside).collect::<Vec<_>>().join(" ")
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests;
