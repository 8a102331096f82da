//! Chat templates: Jinja, as transformers renders it. They come with the checkpoint and are hostile input.

use crate::checkpoint::{Opened, SpecialToken, TOKENIZER_CONFIG, sha256_hex};
use crate::error::{Error, Result};
use crate::files::read_text;
use crate::worker::{Chat, Conditions, Date, Met, NoText, Request, Response, Turn, Worker};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The longest template, in bytes.
const LONGEST: usize = 1 << 20;

/// Where templates lie that are chosen by name.
const ADDITIONAL: &str = "additional_chat_templates";

fn holds_templates(folder: &Path) -> bool {
    let mut names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.any(|name| name.to_string_lossy().ends_with(".jinja"))
}

/// A checkpoint's chat template. It is run by a [`worker`](crate::worker).
#[derive(Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    template: String,
    /// `bos_token`, `eos_token` and their like, with their texts.
    special_tokens: BTreeMap<&'static str, String>,
    worker: Worker,
}

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    unk_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    /// Of several of one name the last counts.
    Named(Vec<Named>),
    ByName(BTreeMap<String, String>),
}

impl Templates {
    fn default_one(self) -> Option<String> {
        const DEFAULT: &str = "default";
        match self {
            Templates::One(template) => Some(template),
            Templates::Named(all) => {
                all.into_iter().rev().find(|named| named.name == DEFAULT).map(|named| named.template)
            }
            Templates::ByName(mut all) => all.remove(DEFAULT),
        }
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl ChatTemplate {
    /// Finds the template where transformers does: in additional_chat_templates (default.jinja or file.jinja), else in
    /// chat_template.jinja, else in tokenizer_config.json (of several the one named `default`), or in a GGUF's
    /// metadata.
    ///
    /// # Errors
    /// A file cannot be read or is malformed, or the template is absurdly long.
    pub fn of(opened: &Opened) -> Result<Option<ChatTemplate>> {
        ChatTemplate::find(opened, opened.settings(TOKENIZER_CONFIG)?)
    }

    /// As [`ChatTemplate::of`], where a tokenizer_config.json that is no JSON counts as none.
    pub(crate) fn of_readable(opened: &Opened) -> Option<ChatTemplate> {
        match opened.settings::<Value>(TOKENIZER_CONFIG) {
            Ok(_) => ChatTemplate::of(opened),
            Err(_) => ChatTemplate::find(opened, None),
        }
        .ok()
        .flatten()
    }

    fn find(opened: &Opened, config: Option<TokenizerConfig>) -> Result<Option<ChatTemplate>> {
        let root = opened.root();
        let mut special_tokens = BTreeMap::new();
        let mut inside = None;
        let config_path = if opened.is_gguf() { root.to_owned() } else { root.join(TOKENIZER_CONFIG) };
        if let Some(config) = config {
            for (name, token) in [
                ("bos_token", config.bos_token),
                ("eos_token", config.eos_token),
                ("unk_token", config.unk_token),
                ("pad_token", config.pad_token),
            ] {
                if let Some(text) = token.and_then(SpecialToken::into_text) {
                    special_tokens.insert(name, text);
                }
            }
            inside = config.chat_template;
        }
        // transformers calls that of chat_template.jinja `file`, and takes one of that name for it.
        let files = ["default.jinja", "file.jinja"].map(|file| root.join(ADDITIONAL).join(file));
        let files = files.into_iter().chain([root.join("chat_template.jinja")]);
        let (path, template) = match files.into_iter().find(|file| file.exists()) {
            Some(file) => (file.clone(), Some(read_text(&file, LONGEST as u64)?)),
            None if holds_templates(&root.join(ADDITIONAL)) => {
                let problem =
                    format!("holds chat templates and none named default, which hides other files' own; {RAW}");
                return Err(Error::file(root.join(ADDITIONAL), problem));
            }
            None => {
                let template = inside.map(Templates::default_one).map(|template| {
                    let none = || Error::file(&config_path, format!("has no chat template named default; {RAW}"));
                    template.ok_or_else(none)
                });
                (config_path.clone(), template.transpose()?)
            }
        };
        match template {
            Some(template) if template.len() > LONGEST => {
                let problem =
                    format!("its chat template has {} bytes, expected at most {LONGEST}; {RAW}", template.len());
                Err(Error::file(path, problem))
            }
            template => Ok(template.map(|template| ChatTemplate::new(path, template, special_tokens))),
        }
    }

    /// A template's text, and the texts of `bos_token`, `eos_token` and their like; `path` is for messages.
    pub fn new(path: PathBuf, template: String, special_tokens: BTreeMap<&'static str, String>) -> ChatTemplate {
        let worker = Worker::new(&path, RAW);
        ChatTemplate { path, template, special_tokens, worker }
    }

    /// The name of the file that holds it.
    pub fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What an error says of the template, for whoever knows which file it is in and asked for no prompts.
    pub(crate) fn problem(&self, error: &Error) -> String {
        let text = error.to_string();
        let problem = text.strip_prefix(&format!("{}: ", self.path.display())).unwrap_or(&text);
        problem.strip_suffix(&format!("; {RAW}")).unwrap_or(problem).to_owned()
    }

    /// SHA-256 of the template, lower-case hex.
    pub fn sha256(&self) -> String {
        sha256_hex(self.template.as_bytes())
    }

    /// The template as it is written, in Jinja.
    pub fn text(&self) -> &str {
        &self.template
    }

    /// A chat whose user said `message`, up to where the answer begins, special tokens spelled out. As transformers'
    /// `apply_chat_template(…, add_generation_prompt=True)`, but for `strftime_now`: templates that use it give another
    /// text each day, so it is not there.
    ///
    /// # Errors
    /// The template is malformed, fails, or uses up too much time or memory.
    pub fn render(&self, message: &str) -> Result<String> {
        let turns = vec![Turn { role: "user".into(), content: message.into(), in_parts: false, also: Map::new() }];
        let special_tokens = self.special_tokens();
        let template = (&self.template).into();
        let chat = Chat { template, special_tokens, turns, date: None, variables: Map::new(), conditions: None };
        match self.answer(None, chat)?.0 {
            Ok(text) => Ok(text),
            Err(NoText::Refused(refusal)) => {
                Err(self.worker.wrong(&format!("its chat template refuses this chat: {refusal}")))
            }
            Err(NoText::Raised(problem) | NoText::Failed(problem)) => Err(self.worker.wrong(&problem)),
        }
    }

    /// As [`ChatTemplate::render`], of any chat, with other variables and on any date, by a text that stands for the
    /// template and has its conditions marked: the text or why there is none, and which conditions were met. There is
    /// no answer beyond `end`.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], but for what the template raises.
    pub(crate) fn render_marked<'a>(
        &'a self,
        end: Instant,
        (marked, conditions): (&'a str, Conditions<'a>),
        turns: Vec<Turn<'a>>,
        variables: Map<String, Value>,
        date: Date<'a>,
    ) -> Result<(std::result::Result<String, NoText>, Met)> {
        let (special_tokens, conditions) = (self.special_tokens(), Some(conditions));
        let chat = Chat { template: marked.into(), special_tokens, turns, date: Some(date), variables, conditions };
        self.answer(Some(end), chat)
    }

    fn special_tokens(&self) -> BTreeMap<Cow<'_, str>, Cow<'_, str>> {
        self.special_tokens.iter().map(|(name, text)| ((*name).into(), text.into())).collect()
    }

    fn answer(&self, end: Option<Instant>, chat: Chat<'_>) -> Result<(std::result::Result<String, NoText>, Met)> {
        match self.worker.ask_until(end, &Request::Render(chat))? {
            Response::Rendered { made, met } => Ok((made, met)),
            other => Err(self.worker.astray(&other)),
        }
    }
}

/// What to do without a template.
const RAW: &str = "use --no-chat-template to give the prompts as they are";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;
    use std::time::Duration;

    fn template(text: &str, special_tokens: &[(&'static str, &str)]) -> ChatTemplate {
        let special_tokens = special_tokens.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        ChatTemplate::new("chat_template.jinja".into(), text.into(), special_tokens)
    }

    #[test]
    fn the_default_template_is_the_one_that_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        let served =
            || ChatTemplate::of(&Opened::folder_at(dir.path())).unwrap().map(|template| template.text().to_owned());
        assert_eq!(served(), None);
        for (config, expected) in [
            (r#"{"chat_template": "one", "pad_token": {"__type": "AddedToken"}, "x": NaN}"#, "one"),
            (r#"{"chat_template": {"tool_use": "no", "default": "by name"}}"#, "by name"),
            (
                r#"{"chat_template": [{"name": "default", "template": "first"}, {"name": "default", "template": "last"}]}"#,
                "last",
            ),
        ] {
            write("tokenizer_config.json", config);
            assert_eq!(served().as_deref(), Some(expected));
        }
        write("additional_chat_templates/tool_use.jinja", "of tools");
        assert!(ChatTemplate::of(&Opened::folder_at(dir.path())).is_err());
        write("chat_template.jinja", "a file");
        assert_eq!(served().as_deref(), Some("a file"));
        write("additional_chat_templates/file.jinja", "called file");
        assert_eq!(served().as_deref(), Some("called file"));
        write("additional_chat_templates/default.jinja", "another file");
        assert_eq!(served().as_deref(), Some("another file"));
    }

    #[test]
    fn texts_are_those_of_transformers() {
        let fixture: Json = serde_json::from_str(include_str!("../../fixtures/chat_templates.json")).unwrap();
        let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
        assert_eq!(fixture["special_tokens"], serde_json::json!({"bos_token": "<s>", "eos_token": "</s>"}));
        let templates = fixture["templates"].as_object().unwrap();
        assert!(templates.len() >= 4);
        for (name, entry) in templates {
            let chat = template(entry["template"].as_str().unwrap(), &special);
            assert_eq!(chat.render(fixture["message"].as_str().unwrap()).unwrap(), entry["rendered"], "{name}");
        }
    }

    #[test]
    fn what_transformers_adds_to_jinja_is_known() {
        let marked =
            "{% for m in messages %}\n  {%- generation +%}\n[{{ m.content }}]\n{% endgeneration -%}\n x{% endfor %}";
        let chat = template(&format!("{marked}{{{{ 'a{{% generation' }}}}"), &[]);
        assert_eq!(chat.render("Hi").unwrap(), "\n[Hi]\nxa{% generation");
        let chat = template("{{ 'abc'.encode('utf-8').decode().removeprefix('a').removesuffix('x') }}", &[]);
        assert_eq!(chat.render("Hi").unwrap(), "bc");
    }

    #[test]
    fn hostile_templates_end_in_one_line() {
        let nested = format!("{}{}", "(".repeat(100_000), ")".repeat(100_000));
        let nested = format!("{{{{ {nested} }}}}");
        let long = format!("{{{{ 'a' * {} }}}}", 2 * LONGEST);
        for (what, text, says) in [
            ("no Jinja", "{% for %}", "syntax error"),
            (
                "an endless loop",
                "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
                "fuel",
            ),
            ("recursion", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
            ("deep nesting", nested.as_str(), "recursion limits"),
            (
                "doubling",
                "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
                "fuel",
            ),
            ("a long repetition", "{{ 'a' * 999999999999 }}", "fuel"),
            ("a long text", long.as_str(), "made 2097152 bytes"),
            ("another file", "{% include '/etc/passwd' %}", "include"),
            ("an unknown function", "{{ open('/etc/passwd') }}", "unknown"),
            ("its own error", "{{ raise_exception('no\nuser\u{1b}[31m') }}", "no"),
        ] {
            let started = Instant::now();
            let problem = template(text, &[]).render("hello").unwrap_err().to_string();
            assert!(started.elapsed() < Duration::from_secs(5), "{what} took {:?}", started.elapsed());
            assert!(problem.contains(says), "{what}: {problem}");
            assert!(
                problem.starts_with("chat_template.jinja: its chat template ") && problem.ends_with(RAW),
                "{problem}"
            );
            assert_eq!(problem.lines().count(), 1, "{what}: {problem}");
        }
    }
}
