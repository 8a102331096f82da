//! The tokenizer against the embedding, and the numbers of tokens that configs name.

use super::added;
use super::check::Check;
use super::header::FolderShard;
use super::observation::{Found, Location};
use super::vocabulary::{LISTED, Vocabulary, is_of_other_input, numbers, of_text, read};
use crate::architecture::names;
use crate::checkpoint::{GENERATION_CONFIG, Opened, TOKENIZER, TOKENIZER_CONFIG, other_tokenizer};
use serde_json::{Map, Value, json};

/// Holds the tokenizer and the numbers that configs name against the embedding.
pub(super) fn compare(opened: &Opened, model: &[&FolderShard], vocabulary: Option<&Vocabulary>, found: &mut Found) {
    let config = opened.config().ok().flatten().map(|config| config.map());
    let generation: Option<Map<String, Value>> = read(opened, GENERATION_CONFIG);
    let tokenizer_config: Option<Map<String, Value>> = read(opened, TOKENIZER_CONFIG);
    if let Some(other) = tokenizer_config.as_ref().and_then(other_tokenizer) {
        let message = format!("has the transformers library read {other} in place of tokenizer.json");
        found.say(Check::OtherTokenizer, Location::file(TOKENIZER_CONFIG), message);
    }
    if tokenizer_config.as_ref().and_then(|config| config.get("split_special_tokens")).is_some_and(is_set) {
        let message = "has special tokens cut up as text, so that a chat's marks are none (split_special_tokens)";
        found.say(Check::OtherTokenizer, Location::file(TOKENIZER_CONFIG), message);
    }
    let named: Vec<(&str, &Map<String, Value>)> = [("config.json", config), (GENERATION_CONFIG, generation.as_ref())]
        .into_iter()
        .filter_map(|(f, m)| Some((f, m?)))
        .collect();
    let stated = config.and_then(|config| of_text(config).get("vocab_size")?.as_u64());
    let rows = rows(model).into_iter().chain(stated).min();
    if let Some(rows) = rows {
        named.iter().for_each(|(file, map)| beyond(rows, file, map, found));
        vocabulary.iter().for_each(|vocabulary| size(rows, vocabulary, found));
    }
    vocabulary.iter().for_each(|vocabulary| added::examine(opened, vocabulary, rows, found));
    if let (Some(vocabulary), Some(tokenizer_config)) = (vocabulary, &tokenizer_config) {
        lacking(vocabulary, tokenizer_config, rows.unwrap_or(u64::MAX), found);
        special(vocabulary, tokenizer_config, &named, found);
    }
}

/// Whether Python takes a setting for set.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// How many tokens the embedding has.
fn rows(model: &[&FolderShard]) -> Option<u64> {
    let mut tensors = model.iter().flat_map(|shard| shard.tensors());
    let embedding = tensors.find(|t| names::is_embedding(&t.name) && t.shape.len() == 2)?;
    embedding.shape.first().map(|rows| *rows as u64)
}

/// Numbers of special tokens that there are no such tokens for.
fn beyond(rows: u64, file: &str, config: &Map<String, Value>, found: &mut Found) {
    const KEYS: [&str; 6] = [
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
    ];
    for key in KEYS {
        let numbers = numbers(of_text(config).get(key).or(config.get(key)));
        // −1 is how some say that there is none.
        let outside: Vec<i64> = numbers.into_iter().filter(|id| *id < -1 || *id >= rows as i64).collect();
        if let Some(first) = outside.first() {
            let message = format!("{key} is {first}, the vocabulary's numbers are 0 to {}", rows.saturating_sub(1));
            let evidence = json!({"key": key, "ids": &outside[..outside.len().min(LISTED)], "vocabulary": rows});
            found.add(Check::TokenIdOutOfRange, Location::file(file), message, evidence);
        }
    }
}

/// Holds the tokenizer's size against the embedding's.
fn size(rows: u64, vocabulary: &Vocabulary, found: &mut Found) {
    let at = || Location::file(TOKENIZER);
    // Converters take the numbers that are written where loaders count on.
    let written = vocabulary.added_tokens.iter().filter_map(|token| Some((token.content.as_str(), token.written?)));
    let beyond = |(text, id): &(&str, u64)| *id >= rows && !is_of_other_input(text);
    let mut outside: Vec<(&str, u64)> = vocabulary.all().chain(written).filter(beyond).collect();
    outside.sort_by_key(|(_, id)| *id);
    outside.dedup();
    if let Some((text, id)) = outside.first() {
        let tokens = crate::error::Count(outside.len(), "token", "tokens");
        let message = format!("has {tokens} that the embedding of {rows} has no row for, the first is {text:?}, {id}");
        outside.truncate(LISTED);
        found.add(Check::TokenBeyondEmbedding, at(), message, json!({"tokens": outside, "embedding": rows}));
    }
    renumbered(vocabulary, rows, found);
    // Embeddings are padded to round numbers, by a few hundred tokens or some hundredths.
    const FEWEST_LACKING: u64 = 1024;
    let have = vocabulary.end();
    let lacking = rows.saturating_sub(have);
    if lacking > FEWEST_LACKING && lacking > rows / 10 {
        let message =
            format!("has numbers up to {}, the embedding {rows} rows: it is another model's", have.saturating_sub(1));
        found.add(Check::VocabularyMismatch, at(), message, json!({"tokenizer": have, "embedding": rows}));
    }
}

/// Added tokens whose numbers loaders do not take from the file. Those beyond the embedding are told already.
fn renumbered(vocabulary: &Vocabulary, rows: u64, found: &mut Found) {
    let inside = vocabulary.added_tokens.iter().filter(|token| token.id < rows);
    let others = inside.filter_map(|token| Some((token.content.as_str(), token.id, token.written?)));
    let others: Vec<(&str, u64, u64)> = others.collect();
    if let Some((text, id, written)) = others.first() {
        let tokens = crate::error::Count(others.len(), "added token", "added tokens");
        let message =
            format!("numbers {tokens} as loaders do not, the first is {text:?}: {written}, which they make {id}");
        let evidence = json!({"tokens": &others[..others.len().min(LISTED)]});
        found.add(Check::VocabularyMismatch, Location::file(TOKENIZER), message, evidence);
    }
}

/// Special tokens that tokenizer_config.json names and tokenizer.json does not have. Loaders add them, with the numbers
/// that follow.
fn lacking(vocabulary: &Vocabulary, tokenizer_config: &Map<String, Value>, rows: u64, found: &mut Found) {
    let tokens = ["bos_token", "eos_token", "pad_token"].map(|name| (name, text(tokenizer_config, name)));
    let mut lacking: Vec<&str> = Vec::new();
    for (name, token) in tokens.into_iter().filter_map(|(name, token)| Some((name, token?))) {
        if vocabulary.id(token).is_some() || lacking.contains(&token) {
            continue;
        }
        let id = vocabulary.end().saturating_add(lacking.len() as u64);
        lacking.push(token);
        let (check, why) = match id >= rows {
            true => (Check::TokenIdOutOfRange, format!("and the embedding's are 0 to {}", rows.saturating_sub(1))),
            false => (Check::SpecialTokenUnknown, "which the weights never saw".into()),
        };
        let message = format!("{name} is {token:?}, which {TOKENIZER} does not have: loaders number it {id}, {why}");
        found.add(check, Location::file(TOKENIZER_CONFIG), message, json!({"token": token, "id": id}));
    }
}

/// The text of a special token, be it there alone or with how it is found.
fn text<'a>(tokenizer_config: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let token = tokenizer_config.get(name)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).filter(|text| !text.is_empty())
}

/// Holds the special tokens that tokenizer_config.json names against the numbers in the configs.
fn special(
    vocabulary: &Vocabulary,
    tokenizer_config: &Map<String, Value>,
    named: &[(&str, &Map<String, Value>)],
    found: &mut Found,
) {
    for (name, key) in [("bos_token", "bos_token_id"), ("eos_token", "eos_token_id")] {
        let token = tokenizer_config.get(name);
        let Some(token) =
            token.and_then(|t| t.as_str().or_else(|| t.get("content")?.as_str())).filter(|t| !t.is_empty())
        else {
            continue;
        };
        let Some(id) = vocabulary.id(token) else {
            let message =
                format!("{name} is {token:?}, which {TOKENIZER} does not have: loaders add it with a new number");
            found.add(Check::SpecialTokenUnknown, Location::file(TOKENIZER_CONFIG), message, json!({"token": token}));
            continue;
        };
        let ids: Vec<i64> = named.iter().flat_map(|(_, map)| numbers(of_text(map).get(key).or(map.get(key)))).collect();
        if !ids.is_empty() && !ids.contains(&(id as i64)) {
            let message = format!("{name} is {token:?}, number {id}; {key} says {}", ids[0]);
            let evidence = json!({"token": token, "id": id, "ids": &ids[..ids.len().min(LISTED)]});
            found.add(Check::SpecialTokenDiffers, Location::file(TOKENIZER_CONFIG), message, evidence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rows: u64, vocabulary: &Vocabulary) -> Vec<&'static str> {
        let mut found = Found::default();
        size(rows, vocabulary, &mut found);
        found.finish().0.iter().map(|o| o.check.id()).collect()
    }

    #[test]
    fn embeddings_are_as_much_larger_as_published_ones_are() {
        // Rows of the embedding and tokens: SmolLM2, Llama 3, Qwen2.5 small and large, Phi-3, Phi-2, DeepSeek LLM, OLMo
        // 2, Gemma 3 with eyes; and a toy.
        for (rows, tokens) in [
            (49152, 49152),
            (128_256, 128_256),
            (151_936, 151_665),
            (152_064, 151_665),
            (32064, 32011),
            (51200, 50295),
            (102_400, 100_016),
            (100_352, 100_278),
            (262_208, 262_145),
            (320, 6),
        ] {
            assert_eq!(told(rows, &Vocabulary::of_tokens(&[("a", tokens - 1)], &[])), [""; 0], "{rows} {tokens}");
        }
        let gemma = Vocabulary::of_tokens(&[("a", 262_143)], &[("<image_soft_token>", 262_144)]);
        assert_eq!(told(262_144, &gemma), [""; 0]);
        // Llama 2's tokenizer beside Qwen's weights, and the other way.
        assert_eq!(told(151_936, &Vocabulary::of_tokens(&[("a", 31_999)], &[])), ["vocabulary-mismatch"]);
        assert_eq!(told(32_000, &Vocabulary::of_tokens(&[("a", 151_642)], &[])), ["token-beyond-embedding"]);
        assert_eq!(
            told(32_000, &Vocabulary::of_tokens(&[("a", 31_999)], &[("[PAD]", 32_000)])),
            ["token-beyond-embedding"]
        );
        let unigram = json!({"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.5]]}});
        assert_eq!(told(1, &serde_json::from_value(unigram).unwrap()), ["token-beyond-embedding"]);
    }

    /// Numbers are those of the tokenizers library.
    #[test]
    fn added_tokens_have_the_numbers_that_loaders_give_them() {
        for (added, rows, numbers, expected) in [
            (vec![("a", 0), ("<x>", 3), ("<y>", 4)], 5, vec![0, 3, 4], [].as_slice()),
            (vec![(" way", 1)], 4, vec![3], &["vocabulary-mismatch"]),
            (vec![(" way", 1)], 3, vec![3], &["token-beyond-embedding"]),
            (vec![("<x>", 3), ("b", 3), ("<x>", 7)], 9, vec![3, 1, 3], &["vocabulary-mismatch"]),
            (vec![("<x>", 7)], 9, vec![3], &["vocabulary-mismatch"]),
        ] {
            let mut vocabulary = Vocabulary::of_tokens(&[("a", 0), ("b", 1), ("c", 2)], &added);
            vocabulary.number();
            let ids: Vec<u64> = vocabulary.added_tokens.iter().map(|added| added.id).collect();
            assert_eq!((ids, told(rows, &vocabulary)), (numbers.clone(), expected.to_vec()), "{added:?}");
            let model: std::collections::BTreeMap<&str, u32> = [("a", 0), ("b", 1), ("c", 2)].into();
            let tokens: Vec<Value> = added
                .iter()
                .map(|(text, id)| {
                    json!({"id": id, "content": text, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true})
                })
                .collect();
            let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens,
                "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
                "model": {"type": "BPE", "vocab": model, "merges": []}});
            let tokenizer: tokenizers::Tokenizer = json.to_string().parse().unwrap();
            let theirs: Vec<u64> =
                added.iter().map(|(text, _)| u64::from(tokenizer.token_to_id(text).unwrap())).collect();
            assert_eq!(theirs, numbers);
        }
    }
}
