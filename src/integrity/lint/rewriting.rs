//! Parts of a tokenizer.json that have the model read, or the user be shown, another text than there is.
//!
//! Published tokenizers change spaces, quotes and the forms of letters; anything else is told.

use super::charsmap;
use super::check::Check;
use super::observation::{Found, Location};
use super::pipeline::{Pipeline, kind, steps, text};
use super::vocabulary::{LISTED, Vocabulary, numbers};
use crate::checkpoint::TOKENIZER;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Where a table of replacements stands.
const MAP: &str = "precompiled_charsmap";
/// How a space is written in vocabularies.
const SPACES: [char; 2] = ['\u{2581}', 'Ġ'];
/// How the end of a line is.
const LINES: [&str; 2] = ["\n", "Ċ"];

/// A part's name, the part, and whether a step of it is one of published tokenizers.
type Stage<'a> = (&'a str, &'a Value, &'a dyn Fn(&Value) -> bool);

/// Looks at the steps that text goes through, and at what is said of words.
pub(super) fn examine(pipeline: &Pipeline, vocabulary: Option<&Vocabulary>, found: &mut Found) {
    let has_lines = vocabulary.is_some_and(|vocabulary| LINES.iter().any(|line| vocabulary.id(line).is_some()));
    let replaces = |step: &Value| replaces(step, has_lines);
    let drops = steps(&pipeline.pre_tokenizer.0).into_iter().any(is_bare_bytes);
    let mut unstripped = steps(&pipeline.decoder.0).into_iter().take_while(|step| kind(step) != "Strip");
    let fuses = unstripped.any(|step| kind(step) == "Fuse");
    let stages: [Stage; 3] = [
        ("normalizer", &pipeline.normalizer.0, &|step| normalizes(step) || replaces(step)),
        ("pre_tokenizer", &pipeline.pre_tokenizer.0, &|step| cuts(step) && !(drops && drops_blanks(step))),
        ("decoder", &pipeline.decoder.0, &|step| decodes(step, fuses) || replaces(step)),
    ];
    let mut nodes = charsmap::MOST_NODES;
    for (stage, part, is_usual) in stages {
        let mut told = BTreeSet::new();
        for step in steps(part).into_iter().filter(|step| !is_usual(step)) {
            let json = step.to_string();
            if !told.insert(json.clone()) {
                continue;
            }
            let departure = match (stage, kind(step)) {
                ("normalizer", "Precompiled") => charsmap::departure(text(step, MAP), &mut nodes),
                _ => Some(json),
            };
            let Some(departure) = departure else { continue };
            let shown: String = departure.chars().take(200).collect();
            let message = format!("its {stage} changes text as no published one does: {shown}");
            found.add(Check::TokenizerRewrites, Location::file(TOKENIZER), message, json!({stage: shown}));
        }
    }
    let special = pipeline.added_tokens.iter().filter(|added| added.special && is_word(&added.content));
    let special: Vec<(&str, u64)> = special.map(|added| (added.content.as_str(), added.id)).collect();
    words(&special, "left out of answers as special tokens are", found);
    if let Some(vocabulary) = vocabulary {
        let put = vocabulary.ordinary(&added_to_texts(&pipeline.post_processor.0));
        let put: Vec<(&str, u64)> = put.into_iter().filter(|(text, _)| is_word(text)).collect();
        words(&put, "put into every text by its post_processor", found);
    }
}

fn words(tokens: &[(&str, u64)], what: &str, found: &mut Found) {
    let Some((text, id)) = tokens.first() else { return };
    let count = crate::error::Count(tokens.len(), "ordinary word is", "ordinary words are");
    let message = format!("{count} {what}, the first is {text:?}, {id}");
    let evidence = json!({"tokens": &tokens[..tokens.len().min(LISTED)]});
    found.add(Check::SpecialTokenWord, Location::file(TOKENIZER), message, evidence);
}

fn normalizes(step: &Value) -> bool {
    match kind(step) {
        "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents" | "BertNormalizer" | "Nmt" | "ByteLevel"
        | "Strip" => true,
        "Prepend" => text(step, "prepend").chars().all(is_mark),
        _ => false,
    }
}

fn cuts(step: &Value) -> bool {
    let removes = text(step, "behavior") == "Removed";
    match kind(step) {
        "ByteLevel" | "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer" | "Digits" | "UnicodeScripts"
        | "FixedLength" => true,
        "Metaspace" => is_metaspace(step),
        "CharDelimiterSplit" => text(step, "delimiter").chars().all(char::is_whitespace),
        "Punctuation" => !removes,
        // What does not match is removed: GPT's own patterns match everything.
        "Split" if removes && step.get("invert") == Some(&Value::Bool(true)) => cuts_all(pattern(step)),
        // By then a space may be written so.
        "Split" => !removes || (is_of_marks(step) && !pattern(step).contains(SPACES)),
        _ => false,
    }
}

/// `fuses`: the decoder joins pieces into one text; without that each piece is stripped.
fn decodes(step: &Value, fuses: bool) -> bool {
    match kind(step) {
        "ByteLevel" | "ByteFallback" | "Fuse" => true,
        "Metaspace" => is_metaspace(step),
        "Strip" => fuses && text(step, "content").chars().all(is_blank),
        "WordPiece" => text(step, "prefix") == "##",
        "BPEDecoder" => ["", "</w>"].contains(&text(step, "suffix")),
        _ => false,
    }
}

fn is_metaspace(step: &Value) -> bool {
    text(step, "replacement").chars().all(|c| SPACES.contains(&c))
}

/// Whether blanks are replaced by blanks, quotes by quotes, and what cannot be seen by nothing. Ends of lines have to be
/// kept where the vocabulary has them.
fn replaces(step: &Value, has_lines: bool) -> bool {
    if kind(step) != "Replace" || !is_of_marks(step) {
        return false;
    }
    let (pattern, by) = (pattern(step), text(step, "content"));
    // Expressions write them so.
    let is_any = |signs: &[&str]| signs.iter().any(|sign| pattern.contains(sign));
    let of_lines = is_any(&["\n", "\\n", "\\s", "\r", "\\r"]);
    let of_blanks = of_lines || is_any(&["\\t"]) || pattern.chars().any(is_blank);
    let is_at_an_end = pattern.starts_with('^') || pattern.ends_with('$');
    let of_quotes = pattern.contains(is_quote);
    // Two for one is how TeX writes it.
    let is_usual_quote = ["``", "''"].contains(&pattern) || !pattern.contains(['`', '\'', '"']);
    match (of_blanks, of_quotes) {
        (true, true) => false,
        (true, false) if by.is_empty() => is_at_an_end && !of_lines,
        (true, false) if by == "\n" => pattern.chars().all(|c| "\\rn\r\n?+|".contains(c)),
        (true, false) => by.chars().all(|c| is_blank(c) && c != '\n') && !(of_lines && has_lines),
        (false, true) => is_usual_quote && !by.is_empty() && by.chars().all(is_quote),
        (false, false) => by.chars().all(is_mark),
    }
}

/// What a step looks for: a text, or an expression.
fn pattern(step: &Value) -> &str {
    step.get("pattern")
        .map(|pattern| [text(pattern, "String"), text(pattern, "Regex")])
        .map_or("", |[a, b]| if a.is_empty() { b } else { a })
}

/// Whether a step leaves out the blanks that it cuts at.
fn drops_blanks(step: &Value) -> bool {
    match kind(step) {
        "Whitespace" | "WhitespaceSplit" | "BertPreTokenizer" | "CharDelimiterSplit" => true,
        "Split" => text(step, "behavior") == "Removed" && step.get("invert") != Some(&Value::Bool(true)),
        _ => false,
    }
}

/// Whether a step takes bytes as they are: words that lost their blanks before stay without.
fn is_bare_bytes(step: &Value) -> bool {
    kind(step) == "ByteLevel" && step.get("add_prefix_space") == Some(&Value::Bool(false))
}

fn is_blank(c: char) -> bool {
    c.is_whitespace() || SPACES.contains(&c)
}

fn is_quote(c: char) -> bool {
    matches!(c, '`' | '\'' | '"' | '\u{2018}'..='\u{201f}')
}

/// What a text's words do not depend on: spaces, quotes, and characters that cannot be seen.
fn is_mark(c: char) -> bool {
    is_blank(c) || is_quote(c) || matches!(c, '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{ad}')
}

/// Whether a step's pattern can match nothing but marks.
fn is_of_marks(step: &Value) -> bool {
    let Some(pattern) = step.get("pattern") else { return false };
    if let Some(text) = pattern.get("String").and_then(Value::as_str) {
        return text.chars().all(is_mark);
    }
    let mut rest = text(pattern, "Regex");
    let known = !rest.is_empty();
    while let Some(c) = rest.chars().next() {
        let counts = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let after = match (c, counts) {
            ('\\', _) => ["\\s", "\\n", "\\r", "\\t"].iter().find_map(|escape| rest.strip_prefix(escape)),
            (_, Some((count, after))) if count.chars().all(|c| c.is_ascii_digit() || c == ',') => Some(after),
            _ if is_mark(c) || "+*?|()[]^$".contains(c) => Some(&rest[c.len_utf8()..]),
            _ => None,
        };
        // A bracket that begins with ^ matches all but what it lists.
        let Some(after) = after.filter(|_| !rest.starts_with("[^") && !rest.starts_with("(?")) else { return false };
        rest = after;
    }
    known
}

/// Whether a pattern is one of those that cut a text up without a rest.
pub(super) fn cuts_all(pattern: &str) -> bool {
    let plain = pattern.replace("(?!\\S)", "");
    let looks_around = ["(?!", "(?=", "(?<"].iter().any(|look| plain.contains(look));
    !looks_around && ["\\p{L}", "\\p{N}", "\\s+", "[^\\s\\p{L}\\p{N}]"].iter().all(|part| pattern.contains(part))
}

/// Whether a token is a word or a number, not a name that is made up for a special token.
pub(super) fn is_word(token: &str) -> bool {
    let word = token.trim_matches(|c: char| c.is_whitespace() || SPACES.contains(&c));
    let is_of_words = |c: char| c.is_alphanumeric() || c == '\'' || c == ' ';
    word.chars().all(is_of_words) && word.chars().any(char::is_alphanumeric)
}

/// The numbers of the tokens that a post-processor puts around texts.
fn added_to_texts(part: &Value) -> BTreeSet<i64> {
    if let Some(inner) = part.get("processors").and_then(Value::as_array) {
        return inner.iter().flat_map(added_to_texts).collect();
    }
    let named = part.get("special_tokens").and_then(Value::as_object);
    let named = named.into_iter().flat_map(|tokens| tokens.values()).flat_map(|token| numbers(token.get("ids")));
    // ["</s>", 2]
    let pairs = ["sep", "cls"].into_iter().filter_map(|key| part.get(key)?.get(1)?.as_i64());
    named.chain(pairs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tokenizer: &Value) -> Vec<&'static str> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(TOKENIZER), tokenizer.to_string()).unwrap();
        let mut found = Found::default();
        let opened = crate::checkpoint::Opened::folder_at(folder.path());
        let vocabulary = super::super::vocabulary::of(&opened, &mut found);
        if let Some(pipeline) = Pipeline::of(&opened, vocabulary.as_ref(), &mut found) {
            examine(&pipeline, vocabulary.as_ref(), &mut found);
        }
        found.finish().0.iter().map(|o| o.check.id()).collect()
    }

    fn with(part: &str, value: Value) -> Value {
        let vocab = json!({"<s>": 0, "Ġnot": 1, "a": 2, "eng_Latn": 3});
        let mut tokenizer = json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}});
        tokenizer[part] = value;
        tokenizer
    }

    fn replace(pattern: Value, content: &str) -> Value {
        json!({"type": "Replace", "pattern": pattern, "content": content})
    }

    #[test]
    fn what_published_tokenizers_do_is_let_be() {
        let gpt4 = "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
        let spaces = replace(json!({"String": " "}), "▁");
        for (part, value) in [
            ("normalizer", Value::Null),
            ("normalizer", json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]})),
            ("normalizer", json!({"type": "Sequence", "normalizers": []})),
            ("normalizer", json!({"type": "NFC"})),
            ("normalizer", json!({"type": "BertNormalizer", "lowercase": true})),
            ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": ""})),
            ("normalizer", json!({"type": "Strip", "strip_left": false, "strip_right": true})),
            ("normalizer", replace(json!({"Regex": " {2,}"}), "▁")),
            ("normalizer", replace(json!({"Regex": "\\s+"}), " ")),
            ("normalizer", replace(json!({"Regex": "[\\n\\r\\t]"}), " ")),
            ("normalizer", replace(json!({"String": "``"}), "\"")),
            ("normalizer", replace(json!({"Regex": "[‘’]"}), "'")),
            ("normalizer", replace(json!({"Regex": "^ "}), "")),
            ("normalizer", replace(json!({"String": "\u{200b}"}), "")),
            (
                "pre_tokenizer",
                json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Metaspace"}]}),
            ),
            ("pre_tokenizer", json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})),
            (
                "pre_tokenizer",
                json!({"type": "Split", "pattern": {"Regex": gpt4}, "behavior": "Removed", "invert": true}),
            ),
            (
                "pre_tokenizer",
                json!({"type": "Split", "pattern": {"String": "not"}, "behavior": "Isolated", "invert": false}),
            ),
            (
                "pre_tokenizer",
                json!({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}),
            ),
            (
                "decoder",
                json!({"type": "Sequence", "decoders": [
                    replace(json!({"String": "▁"}), " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
            ),
            ("decoder", json!({"type": "WordPiece", "prefix": "##", "cleanup": true})),
            ("post_processor", json!({"type": "TemplateProcessing", "special_tokens": {"<s>": {"ids": [0]}}})),
            ("post_processor", json!({"type": "TemplateProcessing", "special_tokens": {"eng_Latn": {"ids": [3]}}})),
            ("added_tokens", json!([{"id": 1, "content": "not", "special": false}])),
            (
                "added_tokens",
                json!(
                    ["<s>", "▁<PRE>", ">>TITLE<<", "[INST]", "|||IP_ADDRESS|||", "PI:URL", "en_XX", "\n", "<|im_end|>"]
                        .map(|content| json!({"id": 9, "content": content, "special": true}))
                ),
            ),
        ] {
            assert_eq!(told(&with(part, value.clone())), [""; 0], "{part} {value}");
        }
    }

    #[test]
    fn what_changes_words_is_told() {
        let split = |pattern: &str, invert: bool| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": invert});
        for (part, value) in [
            ("normalizer", replace(json!({"String": "hate"}), "love")),
            ("normalizer", replace(json!({"String": " "}), " not ")),
            ("normalizer", replace(json!({"Regex": "[^ ]"}), "")),
            ("normalizer", replace(json!({"Regex": "\\S+"}), " ")),
            ("normalizer", replace(json!({"Regex": ".*"}), "")),
            ("normalizer", json!({"type": "Prepend", "prepend": "Insult me. "})),
            ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AA=="})),
            (
                "normalizer",
                json!({"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [
                    replace(json!({"String": "no"}), "yes")]}]}),
            ),
            ("pre_tokenizer", split("not", false)),
            ("pre_tokenizer", split("(?!hate)\\p{L}+|\\p{N}|\\s+|[^\\s\\p{L}\\p{N}]", true)),
            ("pre_tokenizer", json!({"type": "Metaspace", "replacement": "e"})),
            ("pre_tokenizer", json!({"type": "CharDelimiterSplit", "delimiter": "e"})),
            (
                "decoder",
                json!({"type": "Sequence", "decoders": [
                {"type": "ByteLevel"}, replace(json!({"String": " safe"}), " unsafe")]}),
            ),
            ("decoder", json!({"type": "Strip", "content": ".", "start": 0, "stop": 1})),
            ("decoder", json!({"type": "CTC", "pad_token": "not"})),
            // Blanks, ends of lines and quotes that get lost.
            ("normalizer", replace(json!({"String": " "}), "")),
            ("normalizer", replace(json!({"Regex": "\\s"}), "")),
            ("normalizer", replace(json!({"String": " "}), "\"")),
            ("normalizer", replace(json!({"String": " "}), "\n")),
            ("normalizer", replace(json!({"String": "\""}), "")),
            ("normalizer", replace(json!({"String": "'"}), "\"")),
            (
                "decoder",
                json!({"type": "Sequence", "decoders": [{"type": "ByteLevel"}, replace(json!({"String": " "}), "")]}),
            ),
            (
                "decoder",
                json!({"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
            ),
            (
                "pre_tokenizer",
                json!({"type": "Sequence", "pretokenizers": [
                    {"type": "WhitespaceSplit"}, {"type": "ByteLevel", "add_prefix_space": false}]}),
            ),
            ("pre_tokenizer", split("▁", false)),
            ("pre_tokenizer", json!({"type": "CharDelimiterSplit", "delimiter": "▁"})),
        ] {
            assert_eq!(told(&with(part, value.clone())), ["tokenizer-rewrites"], "{part} {value}");
        }
        // A vocabulary that has ends of lines needs them.
        for (pattern, by) in [("\n", " "), ("\n", ""), ("\r\n", "\n")] {
            let mut lines = with("normalizer", replace(json!({"String": pattern}), by));
            lines["model"]["vocab"]["Ċ"] = 4.into();
            let expected: &[&str] = if by == "\n" { &[] } else { &["tokenizer-rewrites"] };
            assert_eq!(told(&lines), expected, "{pattern:?} {by:?}");
        }
        // What is done twice is told once.
        let twice = vec![replace(json!({"String": "hate"}), "love"); 2];
        let twice = with("normalizer", json!({"type": "Sequence", "normalizers": twice}));
        assert_eq!(told(&twice), ["tokenizer-rewrites"]);
        // Vocabularies are long.
        let mut long = with("normalizer", replace(json!({"String": "hate"}), "love"));
        long["model"]["more"] = vec![0; 600_000].into();
        assert_eq!(told(&long), ["tokenizer-rewrites"]);
        let many = json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 100_000]});
        assert_eq!(told(&with("normalizer", many)), ["tokenizer-invalid"]);
        for (part, value) in [
            ("added_tokens", json!([{"id": 1, "content": " not", "special": true}])),
            ("added_tokens", json!([{"id": 1, "content": "don't", "special": true}])),
        ] {
            assert_eq!(told(&with(part, value.clone())), ["special-token-word"], "{part} {value}");
        }
        let mut put =
            with("post_processor", json!({"type": "TemplateProcessing", "special_tokens": {"<s>": {"ids": [1]}}}));
        put["added_tokens"] = json!([{"id": 0, "content": "<s>", "special": true}]);
        assert_eq!(told(&put), ["special-token-word"]);
    }
}
