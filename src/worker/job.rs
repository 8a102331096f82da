//! What is asked of the libraries that run what comes with a checkpoint, or read a corpus.

use super::parquet;
use super::template::{Chat, Met, NoText, short};
use super::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request<'a> {
    /// Read this tokenizer.json, which what follows is asked of.
    Tokenizer(Cow<'a, str>),
    /// The ids of a text.
    Ids { text: Cow<'a, str>, add_special_tokens: bool },
    /// The text of ids.
    Text { ids: Cow<'a, [u32]>, skip_special_tokens: bool },
    /// The text of a chat.
    Render(Chat<'a>),
    /// Open this Parquet file, whose column of that name what follows is asked of.
    Parquet { path: Cow<'a, Path>, column: Cow<'a, str> },
    /// Some of its next texts.
    NextTexts,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    /// What was to be read can be.
    Ready,
    Ids(Vec<u32>),
    Text(String),
    /// A chat's text or why there is none, and which conditions were met on the way.
    Rendered {
        made: Result<String, NoText>,
        met: Met,
    },
    /// Texts; none where there are no more.
    Texts(Vec<String>),
    /// Why there is no answer, in one line.
    Failed(String),
}

impl Request<'_> {
    /// Bytes of the file that is run, and of the text that it is run on.
    pub fn bytes(&self) -> (u64, u64) {
        let (file, text) = match self {
            Request::Tokenizer(json) => (json.len(), 0),
            Request::Ids { text, .. } => (0, text.len()),
            Request::Text { ids, .. } => (0, size_of_val::<[u32]>(ids)),
            Request::Render(chat) => (0, chat.turns.iter().map(|turn| turn.content.len()).sum()),
            // Limits have amounts of their own for them.
            Request::Parquet { .. } | Request::NextTexts => (0, 0),
        };
        (file as u64, text as u64)
    }
}

const UNREAD: &str = "was not read yet";

/// What is there to answer with.
#[derive(Debug, Default)]
pub(crate) struct Job {
    tokenizer: Option<Tokenizer>,
    parquet: Option<parquet::Texts>,
}

impl Job {
    pub fn answer(&mut self, request: &Request<'_>) -> Response {
        let answered = match request {
            Request::Tokenizer(json) => Tokenizer::read(json).map(|read| {
                self.tokenizer = Some(read);
                Response::Ready
            }),
            Request::Ids { text, add_special_tokens } => {
                self.tokenizer().and_then(|t| t.ids(text, *add_special_tokens)).map(Response::Ids)
            }
            Request::Text { ids, skip_special_tokens } => {
                self.tokenizer().and_then(|t| t.text(ids, *skip_special_tokens)).map(Response::Text)
            }
            Request::Render(chat) => chat.render().map(|(made, met)| Response::Rendered { made, met }),
            Request::Parquet { path, column } => parquet::Texts::open(path, column).map(|texts| {
                self.parquet = Some(texts);
                Response::Ready
            }),
            Request::NextTexts => match &mut self.parquet {
                Some(texts) => texts.next().map(Response::Texts),
                None => Err(UNREAD.to_owned()),
            },
        };
        answered.unwrap_or_else(|problem| Response::Failed(short(&problem)))
    }

    fn tokenizer(&self) -> Result<&Tokenizer, String> {
        self.tokenizer.as_ref().ok_or_else(|| UNREAD.to_owned())
    }
}
