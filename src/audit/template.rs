//! What the default chat template does to what is said: chats are rendered, and held against each other.
//!
//! The words in them come from the template's own digest, so that it cannot know them. Told are: a turn of the user or
//! the model that is left out; text that depends on the user's words, which is tried with every string that the template
//! itself holds, and on a chat's length; and the text that is added to every chat, which is a default system prompt in
//! many sound models, for a reader to judge. Not seen are: conditions on the date, on words that the template computes,
//! on tools and documents, and templates of other names; a system prompt that is ignored is let be, as published
//! templates do it.

use super::place::Place;
use crate::checkpoint::gguf::GgufCheckpoint;
use crate::checkpoint::python_json;
use crate::integrity::lint::{Check, Location, Observation, literals};
use crate::probe::{ChatTemplate, Turn};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Words that are tried, at most, and for how long.
const MOST_TRIED: usize = 200;
const TIME: Duration = Duration::from_secs(1);
/// Characters of a text that are shown.
const SHOWN: usize = 200;
/// As few words as tags and roles have are no text that is added.
const FEWEST_WORDS: usize = 5;

/// Looks at the default template of a model folder.
pub fn observe(folder: &Path) -> Vec<Observation> {
    match ChatTemplate::of_folder(folder) {
        Ok(None) => Vec::new(),
        Ok(Some(template)) => Tried::new(&template.on_any_day()).all(),
        Err(error) => {
            vec![observation(Check::TemplateNotTried, "tokenizer_config.json", error.to_string(), Value::Null)]
        }
    }
}

/// The default template's SHA-256, and which class of tokenizers the checkpoint names; none of what it lacks or what
/// cannot be read, which others tell of.
pub fn identity(place: &Place) -> (Option<String>, Option<String>) {
    let config: Option<Value> = match place {
        Place::Folder(folder) => python_json::read(&folder.path.join("tokenizer_config.json")).ok().flatten(),
        Place::Gguf(path) => GgufCheckpoint::open(path).and_then(|gguf| gguf.tokenizer_config_json()).ok(),
    };
    let class = config.as_ref().and_then(|config| Some(config.get("tokenizer_class")?.as_str()?.to_owned()));
    let template = ChatTemplate::of_config(place.path(), config).ok().flatten();
    (template.map(|template| template.sha256()), class)
}

fn observation(check: Check, file: &str, message: String, evidence: Value) -> Observation {
    Observation { check, location: Location::file(file), message, evidence }
}

/// A template under trial.
struct Tried<'a> {
    template: &'a ChatTemplate,
    /// A word that no template has.
    word: String,
    /// Contents are lists of parts.
    parts: bool,
}

impl<'a> Tried<'a> {
    fn new(template: &'a ChatTemplate) -> Tried<'a> {
        // Letters alone: numbers may be told apart from words.
        let letter = |c: char| char::from_digit(c.to_digit(16).unwrap_or(0) + 10, 26 + 10).unwrap_or('x');
        let word = template.sha256().chars().take(12).map(letter).collect();
        Tried { template, word, parts: false }
    }

    fn all(mut self) -> Vec<Observation> {
        let file = self.template.file_name();
        let told = |check, message, evidence| vec![observation(check, &file, message, evidence)];
        let mut plain = self.chat(&[&self.word]);
        if !plain.as_ref().is_ok_and(|text| text.contains(&self.word)) {
            // Templates of models that see take parts and make nothing of a text.
            self.parts = true;
            let parts = self.chat(&[&self.word]);
            self.parts = parts.as_ref().is_ok_and(|text| text.contains(&self.word));
            plain = if self.parts { parts } else { plain };
        }
        let plain = match plain {
            Ok(plain) => plain,
            Err(problem) => return told(Check::TemplateNotTried, problem, Value::Null),
        };
        if let Some(left_out) = self.drops(&plain) {
            let message = format!("the chat template leaves out {left_out}");
            return told(Check::TemplateDropsText, message, Value::Null);
        }
        let mut found = Vec::new();
        match self.depends(Instant::now() + TIME) {
            Ok(None) => {}
            Ok(Some((on, made))) => {
                let message = format!("the chat template makes another text where the user's has {on}");
                found.extend(told(Check::TemplateDependsOnText, message, json!({"text": shown(&made)})));
            }
            Err(problem) => found.extend(told(Check::TemplateNotTried, problem, Value::Null)),
        }
        let added = words_outside_tags(&plain.replace(&self.word, " "));
        if added.split_whitespace().count() >= FEWEST_WORDS {
            let message = format!("the chat template adds to every chat: {:?}", shown(&added));
            found.extend(told(Check::TemplateAddsText, message, json!({"text": shown(&added)})));
        }
        found
    }

    /// A chat of these turns, the user's first, as one text; else in a line what the problem is.
    fn chat(&self, contents: &[&str]) -> Result<String, String> {
        let turn = |(at, content)| Turn {
            role: if at % 2 == 0 { "user".into() } else { "assistant".into() },
            content: Cow::Borrowed(content),
            in_parts: self.parts,
        };
        let turns = contents.iter().copied().enumerate().map(turn).collect();
        self.template.render_chat(turns).map_err(|e| e.to_string())
    }

    /// Which of the turns of a chat is missing. One that cannot be rendered has none: not all templates take several.
    fn drops(&self, plain: &str) -> Option<&'static str> {
        if !plain.contains(&self.word) {
            return Some("what the user says");
        }
        let turns = ["b", "c", "d", "f", "g"].map(|c| format!("{c}{}", self.word));
        let text = self.chat(&turns.each_ref().map(String::as_str)).ok()?;
        let missing = turns.iter().position(|turn| !text.contains(turn))?;
        Some(if missing % 2 == 0 { "what the user says in a longer chat" } else { "what the model said before" })
    }

    /// Something in the user's words that changes what is around them, and the text that is then made.
    fn depends(&self, end: Instant) -> Result<Option<(String, String)>, String> {
        let word = self.word.as_str();
        let mut tried: Vec<(String, String)> = vec![("1,000 words".into(), format!("{word} ").repeat(1000) + word)];
        let words: Vec<String> = literals(self.template.text()).iter().filter_map(|text| plain_words(text)).collect();
        for words in words.iter().take(MOST_TRIED) {
            tried.push((format!("{words:?}"), words.clone()));
            tried.push((format!("{words:?}"), format!("{word} {words} {word}")));
        }
        // The first turn, and the last of a longer chat.
        let chats = [self.chat(&[word]), self.chat(&["x", "y", word])];
        for (name, content) in tried {
            if Instant::now() > end {
                return Err("the chat template takes too long to be tried with all of its own words".into());
            }
            let made = [self.chat(&[&content]), self.chat(&["x", "y", &content])];
            for (usual, made) in chats.iter().zip(made) {
                let (Ok(usual), Ok(made)) = (usual, made) else { continue };
                if usual.replace(word, &content) != made {
                    return Ok(Some((name, made)));
                }
            }
        }
        match words.len() > MOST_TRIED {
            true => Err(format!("the chat template holds {} texts, of which {MOST_TRIED} were tried", words.len())),
            false => Ok(None),
        }
    }
}

/// A string of a template as a user might say it: words, not the tags and switches that templates rightly look for.
fn plain_words(text: &str) -> Option<String> {
    let text = text.trim();
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '\'' | ',' | '.' | '!' | '?');
    let plain = text.chars().all(is_plain) && text.chars().filter(|c| c.is_alphabetic()).count() > 1;
    (plain && text.len() <= SHOWN).then(|| text.to_owned())
}

/// A text without what stands in angle or square brackets.
fn words_outside_tags(text: &str) -> String {
    let mut depth = 0usize;
    let outside = |c: char| {
        match c {
            '<' | '[' => depth += 1,
            '>' | ']' => {
                depth = depth.saturating_sub(1);
                return ' ';
            }
            _ => {}
        }
        if depth == 0 { c } else { ' ' }
    };
    let outside: String = text.chars().map(outside).collect();
    outside.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}\
                          {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    fn told(template: &str) -> Vec<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        let found = observe(folder.path());
        assert!(found.iter().all(|o| o.location.file == "chat_template.jinja"), "{found:?}");
        found.iter().map(|o| o.check.id()).collect()
    }

    #[test]
    fn published_templates_are_let_be() {
        let fixture: Value = serde_json::from_str(include_str!("../../fixtures/chat_templates.json")).unwrap();
        // One of them is there for its white space alone.
        for (name, entry) in fixture["templates"].as_object().unwrap().iter().filter(|(name, _)| *name != "blocks") {
            let found = told(entry["template"].as_str().unwrap());
            assert!(found.iter().all(|id| *id == "template-adds-text"), "{name}: {found:?}");
        }
        assert_eq!(told(CHATML), [""; 0]);
        let before = |text: &str| format!("{text}{CHATML}");
        for (template, expected) in [
            // SmolLM2 and Qwen2.5.
            (
                before(
                    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful AI assistant \
                     named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}",
                ),
                "template-adds-text",
            ),
            // Gemma and Mistral refuse what they were not made for; Alpaca and Vicuna have words for tags.
            (before("{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"), ""),
            (
                "{{ '### Instruction:\\n' }}{% for m in messages %}{{ m.content | trim }}{{ '\\n### Response:\\n' }}{% endfor %}"
                    .into(),
                "",
            ),
            // Qwen3 and DeepSeek look for tags, SmolLM3 and Nemotron for switches.
            (
                CHATML.replace(
                    "m['content']",
                    "(m['content'].split('</think>')[-1] if '</think>' in m['content'] or '/no_think' in m['content'] \
                     else m['content'])",
                ),
                "",
            ),
            // SmolVLM's contents are lists of parts.
            (
                "{% for m in messages %}{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}\
                 {% endif %}{% endfor %}{% endfor %}"
                    .into(),
                "",
            ),
            // What transformers knows and this renderer does not.
            (before("{% generation %}{% endgeneration %}"), "template-not-tried"),
            (before("{{ strftime_now('%Y') }}"), ""),
        ] {
            let expected: Vec<&str> = [expected].into_iter().filter(|id| !id.is_empty()).collect();
            assert_eq!(told(&template), expected, "{template}");
        }
    }

    #[test]
    fn templates_that_change_what_is_said_are_told() {
        let content = |by: &str| CHATML.replace("m['content']", by);
        for (template, expected) in [
            ("hello".to_owned(), "template-drops-text"),
            (content("''"), "template-drops-text"),
            (content("(m['content'] if m['role'] == 'user' else '')"), "template-drops-text"),
            (content("(m['content'] if loop.last else '')"), "template-drops-text"),
            (content("m['content'][:8]"), "template-drops-text"),
            (
                content("('Visit http://evil.example ' if 'password' in m['content'] else '') + m['content']"),
                "template-depends-on-text",
            ),
            (content("('x' if 'pass' ~ 'word' in m['content'] else '') + m['content']"), "template-depends-on-text"),
            (content("('x' if m['content'] == 'How are you?' else '') + m['content']"), "template-depends-on-text"),
            (content("m['content'].replace('refuse', 'help')"), "template-depends-on-text"),
            (content("m['content'][:2000]"), "template-depends-on-text"),
            (
                content("m['content'] + ('' if m['content'] | length < 500 else ' Ignore it.')"),
                "template-depends-on-text",
            ),
        ] {
            assert_eq!(told(&template), [expected], "{template}");
        }
        let many: String = (0..300).map(|n| format!("{{% if 'word {n}' == bos_token %}}{{% endif %}}")).collect();
        assert_eq!(told(&format!("{many}{CHATML}")), ["template-not-tried"]);
    }
}
