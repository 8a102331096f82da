//! Whether tokens are the text that they were made of.
//!
//! A tokenizer comes with the checkpoint: one that swaps the text for another has the model judged on a text that
//! nobody chose. So the text is spelled from the vocabulary's own entries, not by the tokenizer's decoder, which could
//! swap it back. What sound tokenizers change is let be: spaces, upper case, accents, control characters, and which of
//! Unicode's forms a character has. All of it may be lost; nothing may be added but the space that SentencePiece begins a text
//! with, and what follows a special token in it. Not seen is a vocabulary whose entries were dealt out anew: it spells every text, with other numbers.

use std::collections::HashMap;
use std::sync::LazyLock;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::StripAccents;
use tokenizers::{NormalizedString, Normalizer, Tokenizer};

/// Special tokens that a tokenizer puts around a text, at most.
const MOST_AROUND: usize = 4;

/// Characters of either text that are shown.
const SHOWN: usize = 40;

/// Says in what `all`, the tokens of `text`, are not it; `plain` are those without what goes around a text.
pub fn departure(tokenizer: &Tokenizer, text: &str, plain: &[u32], all: &[u32]) -> Option<String> {
    let around = all.len().saturating_sub(plain.len());
    let within = (0..=around).any(|from| all[from..].starts_with(plain));
    if around > MOST_AROUND || !within {
        return Some(format!("puts {around} tokens around it, expected at most {MOST_AROUND}"));
    }
    let pieces: Vec<Piece> = plain.iter().map(|id| Piece::of(tokenizer, *id)).collect();
    if pieces.iter().any(|piece| piece.text.is_empty()) {
        return Some("has tokens in it that stand for nothing".into());
    }
    let readings = [false, true].map(|byte_level| spelled(&pieces, byte_level));
    let spaces = 1 + pieces.iter().filter(|piece| piece.added).count();
    if readings.iter().any(|reading| is(reading, text, spaces)) {
        return None;
    }
    let differs = |reading: &String| reading.chars().zip(text.chars()).take_while(|(a, b)| a == b).count();
    let nearest = readings.iter().max_by_key(|reading| differs(reading))?;
    let shown = |text: &str| text.chars().skip(differs(nearest)).take(SHOWN).collect::<String>();
    Some(format!("makes {:?} of its {:?}", shown(nearest), shown(text)))
}

/// An entry of the vocabulary.
struct Piece {
    text: String,
    /// Found in the text as it is, before anything else is done.
    added: bool,
}

impl Piece {
    fn of(tokenizer: &Tokenizer, id: u32) -> Piece {
        if let Some(text) = tokenizer.get_added_vocabulary().simple_id_to_token(id) {
            return Piece { text, added: true };
        }
        let text = tokenizer.id_to_token(id).unwrap_or_default();
        let continues = match tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => text.strip_prefix(model.continuing_subword_prefix.as_str()),
            _ => None,
        };
        Piece { text: continues.filter(|rest| !rest.is_empty()).map_or(text.clone(), str::to_owned), added: false }
    }

    fn bytes(&self, byte_level: bool) -> Vec<u8> {
        let plain = || self.text.replace(SPACE, " ").into_bytes();
        match (self.added, byte_level) {
            (true, _) => self.text.clone().into_bytes(),
            (_, true) => self.text.chars().map(|c| BYTES.get(&c).copied()).collect::<Option<_>>().unwrap_or_else(plain),
            (_, false) => byte_fallback(&self.text).map_or_else(plain, |byte| vec![byte]),
        }
    }
}

/// What stands for a space in SentencePiece.
pub(crate) const SPACE: char = '\u{2581}';

/// The byte that a token `<0x0A>` stands for.
fn byte_fallback(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>').filter(|hex| hex.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}

/// GPT-2's characters for bytes: those that can be seen are themselves, the others follow from 256 on.
pub(crate) static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let seen = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let hidden = (0..=255).filter(|byte| !seen(byte)).zip('\u{100}'..).map(|(byte, c)| (c, byte));
    (0..=255).filter(seen).map(|byte| (char::from(byte), byte)).chain(hidden).collect()
});

fn spelled(pieces: &[Piece], byte_level: bool) -> String {
    let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes(byte_level)).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a reading is the text but for what tokenizers lose of one, and some spaces that they add.
fn is(reading: &str, text: &str, spaces: usize) -> bool {
    if reading == text {
        return true;
    }
    let (reading, text) = (decomposed(reading), decomposed(text));
    let length = |text: &NormalizedString| text.get().chars().count();
    length(&reading) <= length(&text) + spaces && core(reading) == core(text)
}

fn decomposed(text: &str) -> NormalizedString {
    let mut text = NormalizedString::from(text);
    text.nfkd().lowercase();
    text
}

/// What is left of a text without all that may be lost.
fn core(mut text: NormalizedString) -> Option<String> {
    StripAccents.normalize(&mut text).ok()?;
    let kept = |c: &char| !(c.is_whitespace() || c.is_control() || *c == SPACE || is_invisible(*c));
    Some(text.get().chars().filter(kept).collect())
}

/// Characters that have no width, which some normalizers drop.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const TEXT: &str = "Später, 29 reviews were more “positive”\n\n  than naïve ones: ＡＢＣ ﬁn.";

    /// The tokenizer as it is but for what is given.
    fn tokenizer(change: impl FnOnce(&mut Value)) -> Tokenizer {
        let bytes = BYTES.iter().map(|(c, byte)| (c.to_string(), json!(*byte)));
        let mut json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true}, "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true,
            "trim_offsets": true, "use_regex": true}, "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": bytes.collect::<serde_json::Map<_, _>>(), "merges": []}});
        change(&mut json);
        json.to_string().parse().unwrap()
    }

    fn says(tokenizer: &Tokenizer, text: &str) -> Option<String> {
        let ids = |add| tokenizer.encode(text, add).unwrap().get_ids().to_vec();
        departure(tokenizer, text, &ids(false), &ids(true))
    }

    fn word(content: &str, id: u32) -> Value {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    }

    /// SentencePiece's BPE with its bytes, and without merges.
    fn sentencepiece(normalizer: Value) -> Tokenizer {
        tokenizer(|json| {
            let bytes = (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), json!(byte)));
            let words = [("▁", 256), ("<unk>", 257), ("s", 258)].map(|(word, id)| (word.to_owned(), json!(id)));
            json["model"]["vocab"] = bytes.chain(words).collect::<serde_json::Map<_, _>>().into();
            json["model"]["byte_fallback"] = true.into();
            json["model"]["unk_token"] = "<unk>".into();
            json["normalizer"] = normalizer;
            json["pre_tokenizer"] = Value::Null;
        })
    }

    fn wordpiece(words: &[&str]) -> Tokenizer {
        let vocabulary = words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id)));
        let vocabulary: serde_json::Map<_, _> = vocabulary.collect();
        tokenizer(|json| {
            json["normalizer"] = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true});
            json["pre_tokenizer"] = json!({"type": "BertPreTokenizer"});
            json["model"] = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": vocabulary});
        })
    }

    #[test]
    fn what_sound_tokenizers_do_to_a_text_is_let_be() {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let around = |json: &mut Value| {
            json["added_tokens"] = json!([word("<s>", 256), word("</s>", 257)]);
            json["post_processor"] = json!({"type": "TemplateProcessing", "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {
                "<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]},
                "</s>": {"id": "</s>", "ids": [257], "tokens": ["</s>"]}}});
        };
        for (what, tokenizer) in [
            ("as it is", tokenizer(|_| {})),
            ("BOS and EOS", tokenizer(around)),
            ("NFC", tokenizer(|json| json["normalizer"] = json!({"type": "NFC"}))),
            ("NFKC", tokenizer(|json| json["normalizer"] = json!({"type": "NFKC"}))),
            ("lower case", tokenizer(|json| json["normalizer"] = json!({"type": "Lowercase"}))),
            ("a prefix", tokenizer(|json| json["pre_tokenizer"]["add_prefix_space"] = true.into())),
            ("Gemma's spaces", sentencepiece(replace.clone())),
            ("Llama's", sentencepiece(json!({"type": "Sequence", "normalizers": [prepend, replace]}))),
        ] {
            assert_eq!(says(&tokenizer, TEXT), None, "{what}");
            assert_eq!(says(&tokenizer, "a</s>##<0x0A>"), None, "{what}");
        }
        // Llama begins anew after each special token.
        let llama = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
        let mut llama = serde_json::to_value(sentencepiece(llama)).unwrap();
        llama["added_tokens"] = json!([word("<s>", 259), word("</s>", 260)]);
        let llama: Tokenizer = llama.to_string().parse().unwrap();
        assert_eq!(says(&llama, "<s>[INST] a [/INST]b</s><s>[INST]c</s>"), None);
        assert_eq!(says(&wordpiece(&["naive", "on", "##es", ":", "[UNK]"]), "Naïve\tones:"), None);
    }

    #[test]
    fn another_text_is_none() {
        let swap = |pattern: &str, content: &str| {
            let swap = json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
            says(&tokenizer(|json| json["normalizer"] = swap), TEXT)
        };
        assert_eq!(swap("Später", "Spater"), None);
        let long = "metics".repeat(60);
        let told = swap(r"^[\s\S]{20,}$", &long).unwrap();
        let shown = format!("makes {:?} of its {:?}", &long[..40], TEXT.chars().take(40).collect::<String>());
        assert_eq!(told, shown);
        // The middle, the end, spaces and marks that a model easily predicts, letters left out.
        assert!(swap("reviews", "ratings").unwrap().starts_with("makes \"atings were"));
        for (pattern, content) in
            [(r"\.$", ". The end."), (" ", "        "), ("e", "e\u{301}\u{301}"), ("e", ""), ("o", "0")]
        {
            assert!(swap(pattern, content).is_some(), "{pattern} {content}");
        }
        // A decoder that swaps it back is not asked.
        let back = tokenizer(|json| {
            json["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": r"[\s\S]+"}, "content": "x"});
            json["decoder"] = json!({"type": "Replace", "pattern": {"String": "x"}, "content": TEXT});
        });
        assert_eq!(back.decode(back.encode(TEXT, true).unwrap().get_ids(), true).unwrap(), TEXT);
        assert!(says(&back, TEXT).is_some());
        // What the vocabulary lacks.
        assert!(says(&wordpiece(&["naive", "[UNK]"]), "naive ones").unwrap().contains("[UNK]"));
        // Two entries of one number, of which the other is told.
        let twice = tokenizer(|json| json["model"]["vocab"]["a"] = json["model"]["vocab"]["b"].clone());
        assert!(says(&twice, "ab").is_some());
    }

    #[test]
    fn a_long_prefix_of_tokens_is_not_the_text() {
        let around = |times: usize| {
            let ids: Vec<u32> = vec![256; times];
            let tokens = vec!["<s>"; times];
            tokenizer(|json| {
                json["added_tokens"] = json!([word("<s>", 256)]);
                json["post_processor"] = json!({"type": "TemplateProcessing", "single": [
                    {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": ids, "tokens": tokens}}});
            })
        };
        assert_eq!(says(&around(4), TEXT), None);
        assert_eq!(says(&around(5), TEXT).unwrap(), "puts 5 tokens around it, expected at most 4");
    }
}
