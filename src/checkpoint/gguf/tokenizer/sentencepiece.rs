//! SentencePiece BPE: `tokenizer.ggml.model` llama. The vocabulary of Llama 2, Mistral, Gemma and Phi-3, each piece
//! with a score; under gemma4 that of Gemma 4, with its list of pairs.
//!
//! SentencePiece joins the two neighbours whose joint has the best score; tokenizer.json joins by a list of pairs. So
//! every way to cut a piece into two pieces becomes a pair, best score first, as in transformers' `generate_merges`.
//! Where transformers' GGUF loader differs from SentencePiece, SentencePiece is followed: a text that begins with a
//! space gets its prefix all the same (`Prepend`, where the loader has `Metaspace`), and pieces that the user defined
//! are never cut nor joined with their neighbours.

use super::super::file::GgufFile;
use super::byte_level::{self, MERGES};
use super::vocabulary::{BYTE, CONTROL, NORMAL, Parts, Tokens, UNKNOWN, UNUSED, USER_DEFINED, added_token};
use crate::error::Result;
use serde_json::{Value, json};
use std::collections::HashMap;

const SCORES: &str = "tokenizer.ggml.scores";
/// What stands for a space.
const SPACE: &str = "\u{2581}";
/// Pieces in use have up to some 100 bytes; keeps a hostile file from taking quadratic time.
const MAX_PIECE_BYTES: usize = 1024;

/// The parts of tokenizer.json.
pub(super) fn parts(file: &GgufFile, tokens: &Tokens) -> Result<Parts> {
    for key in ["tokenizer.ggml.remove_extra_whitespaces", "tokenizer.ggml.precompiled_charsmap"] {
        if file.get(key).is_some() && file.bool_opt(key).ok().flatten() != Some(false) {
            return Err(file.problem(key, "is set: texts that are changed first are not supported"));
        }
    }
    let prefix_space = file.bool_opt("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let spelled: Vec<String> = (0..tokens.texts.len()).map(|id| spelling(tokens, id, prefix_space)).collect();
    let tokens = Tokens { texts: spelled.iter().map(String::as_str).collect(), types: tokens.types.clone() };
    let vocabulary = tokens.vocabulary(file)?;
    let merges = match file.get(MERGES) {
        Some(_) => byte_level::merges(file, &vocabulary)?,
        None => merges(file, &tokens)?,
    };
    let bytes = tokens.of_type(&[BYTE]).count();
    if ![0, 256].contains(&bytes) {
        let problem = format!("has {bytes} byte tokens, expected all 256 or none");
        return Err(file.problem("tokenizer.ggml.token_type", problem));
    }
    let unknown = tokens.of_type(&[UNKNOWN]).map(|(_, token, _)| token).next();
    Ok(Parts {
        added: added(file, &tokens, prefix_space)?,
        adds_bos: true,
        normalizer: normalizer(prefix_space),
        pre_tokenizer: Value::Null,
        decoder: decoder(prefix_space),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": bytes > 0,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": merges,
        }),
    })
}

fn normalizer(prefix_space: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    match prefix_space {
        true => json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}),
        false => replace,
    }
}

fn decoder(prefix_space: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix_space {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// llama.cpp spells user-defined pieces with spaces. Without a prefix they are found once spaces have been replaced, as
/// in SentencePiece; with one they cannot be, since the prefix would go into the piece, too.
fn spelling(tokens: &Tokens, id: usize, prefix_space: bool) -> String {
    let text = tokens.texts.get(id).copied().unwrap_or_default();
    if tokens.ty(id) == USER_DEFINED && !prefix_space { text.replace(' ', SPACE) } else { text.to_owned() }
}

/// Phi-3's special tokens swallow the spaces after them, all but these. No GGUF says so; llama.cpp has the same list
/// (`LLAMA_TOKEN_ATTR_RSTRIP`), and it is what the model's own tokenizer.json holds.
const PHI3_KEEPS_SPACES: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

fn added(file: &GgufFile, tokens: &Tokens, prefix_space: bool) -> Result<Vec<Value>> {
    let phi3 = file.str_opt("general.architecture")? == Some("phi3");
    let added = tokens.of_type(&[UNKNOWN, CONTROL, USER_DEFINED]).filter(|(_, token, _)| !token.is_empty());
    Ok(added
        .map(|(id, token, ty)| {
            let mut value = added_token(id, token, ty != USER_DEFINED);
            value["normalized"] = (ty == USER_DEFINED && !prefix_space).into();
            value["rstrip"] = (phi3 && !PHI3_KEEPS_SPACES.contains(&token)).into();
            value
        })
        .collect())
}

/// A pair of pieces whose joint is a piece, too.
struct Merge<'a> {
    left: &'a str,
    right: &'a str,
    score: f32,
    characters: (usize, usize),
}

/// All pairs, in the order in which they are to be joined: best score of the joint first, then the longer left and
/// right part; what is left equal stays in the order of the joints' numbers, then of their parts'.
fn merges(file: &GgufFile, tokens: &Tokens) -> Result<Vec<Value>> {
    let missing = || file.problem(SCORES, "is missing; convert the model again");
    let scores = file.f32s_opt(SCORES)?.ok_or_else(missing)?;
    if scores.len() != tokens.texts.len() {
        let problem = format!("has {} entries, expected {}, one for each token", scores.len(), tokens.texts.len());
        return Err(file.problem(SCORES, problem));
    }
    // The only type that is joined: user-defined pieces are found before, and the others never come from text.
    let pieces: HashMap<&str, usize> = tokens.of_type(&[NORMAL]).map(|(id, token, _)| (token, id)).collect();
    let mut merges: Vec<Merge> = Vec::new();
    for (id, (token, score)) in tokens.texts.iter().copied().zip(scores).enumerate() {
        let ty = tokens.ty(id);
        if ty != NORMAL && ty != UNUSED {
            continue;
        }
        if token.len() > MAX_PIECE_BYTES {
            return Err(tokens.problem(file, id, &format!("expected {MAX_PIECE_BYTES} bytes at most")));
        }
        if score.is_nan() {
            return Err(file.problem(SCORES, format!("[{id}] is not a number")));
        }
        let score = score + 0.0; // -0 is 0
        let length = token.chars().count();
        let mut ways: Vec<((usize, usize), Merge)> = Vec::new();
        for (taken, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(a), Some(b)) = (pieces.get(left), pieces.get(right)) {
                ways.push(((*a, *b), Merge { left, right, score, characters: (taken, length - taken) }));
            }
        }
        if ty == UNUSED && !ways.is_empty() {
            let problem = "unused, but made of two pieces: SentencePiece would cut it again, tokenizer.json cannot";
            return Err(tokens.problem(file, id, problem));
        }
        ways.sort_by_key(|(parts, _)| *parts);
        merges.extend(ways.into_iter().map(|(_, merge)| merge));
    }
    merges.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| b.characters.cmp(&a.characters)));
    Ok(merges.iter().map(|merge| json!([merge.left, merge.right])).collect())
}

#[cfg(test)]
mod tests {
    use super::super::super::writer::{Writer, expected, fixture};
    use super::super::tokenizer_json;
    use super::*;
    use std::path::Path;
    use tokenizers::Tokenizer;

    fn tokenizer(path: &Path) -> Tokenizer {
        tokenizer_json(&GgufFile::open(path).unwrap()).unwrap().to_string().parse().unwrap()
    }

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text, false).unwrap().get_ids().to_vec()
    }

    #[test]
    fn ids_are_those_of_sentencepiece() {
        for (model, name) in [("llama-spm", "spm-prefix"), ("gemma", "spm-no-prefix"), ("gemma3", "spm-no-prefix")] {
            let tokenizer = tokenizer(&fixture(&format!("tiny-{model}.gguf")));
            let expected = expected(&format!("{name}.json"));
            let texts = expected["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
            for (text, expected) in texts.zip(expected["ids"].as_array().unwrap()) {
                assert_eq!(json!(ids(&tokenizer, text)), *expected, "{model}: {text:?}");
                assert_eq!(
                    tokenizer.decode(&ids(&tokenizer, text), true).unwrap(),
                    text.replace(SPACE, " "),
                    "{model}"
                );
            }
        }
    }

    /// As Gemma 4's files have it: the pairs are listed.
    #[test]
    fn a_list_of_pairs_is_taken_as_it_is() {
        let gemma = GgufFile::open(&fixture("tiny-gemma.gguf")).unwrap();
        let derived = tokenizer_json(&gemma).unwrap();
        let pairs = derived["model"]["merges"].as_array().unwrap();
        let pairs: Vec<String> =
            pairs.iter().map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect();
        let mut writer = Writer::new();
        writer.str("tokenizer.ggml.model", "gemma4").bool("tokenizer.ggml.add_space_prefix", false);
        writer.strs(MERGES, &pairs.iter().map(String::as_str).collect::<Vec<_>>());
        let tokens = gemma.strs_opt("tokenizer.ggml.tokens").unwrap().unwrap();
        writer.strs("tokenizer.ggml.tokens", &tokens).u32("tokenizer.ggml.bos_token_id", 1);
        writer.i32s("tokenizer.ggml.token_type", &gemma.i32s_opt("tokenizer.ggml.token_type").unwrap().unwrap());
        let own = tokenizer(writer.file().path());
        let expected = expected("spm-no-prefix.json");
        let texts = expected["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
        for (text, expected) in texts.zip(expected["ids"].as_array().unwrap()) {
            assert_eq!(json!(ids(&own, text)), *expected, "{text:?}");
        }
    }

    #[test]
    fn special_tokens_begin_texts_and_are_found_in_them() {
        let llama = tokenizer(&fixture("tiny-llama-spm.gguf"));
        assert_eq!(llama.encode("the", true).unwrap().get_ids()[0], 1);
        assert_eq!(ids(&llama, "<s>the</s>"), [&[1][..], &ids(&llama, "the"), &[2]].concat());
        // Phi-3's special tokens swallow the spaces after them, <s> does not.
        let phi3 = tokenizer(&fixture("tiny-phi3.gguf"));
        assert_eq!(ids(&phi3, "<|user|>\n the"), [&[452][..], &ids(&phi3, "the")].concat());
        assert_eq!(ids(&phi3, "<s> the"), [&[1][..], &ids(&phi3, " the")].concat());
    }

    fn vocabulary() -> Writer {
        let mut writer = Writer::new();
        writer.str("general.architecture", "llama").str("tokenizer.ggml.model", "llama");
        writer.strs("tokenizer.ggml.tokens", &["<unk>", "<s>", "a", "b", "ab", "aba"]);
        writer.i32s("tokenizer.ggml.token_type", &[2, 3, 1, 1, 1, 1]).u32("tokenizer.ggml.bos_token_id", 1);
        writer.f32s(SCORES, &[0.0, 0.0, -3.0, -4.0, -0.0, -1.0]).clone()
    }

    fn refused(change: impl FnOnce(&mut Writer) -> &mut Writer) -> String {
        let mut writer = vocabulary();
        change(&mut writer);
        tokenizer_json(&GgufFile::open(writer.file().path()).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn pairs_are_in_order_of_score_and_unknown_characters_are_one() {
        let file = vocabulary().file();
        let value = tokenizer_json(&GgufFile::open(file.path()).unwrap()).unwrap();
        assert_eq!(value["model"]["merges"], json!([["a", "b"], ["ab", "a"]]));
        assert_eq!(value["model"]["byte_fallback"], false);
        assert_eq!(ids(&tokenizer(file.path()), "xyaba"), [0, 5]);
    }

    #[test]
    fn what_is_not_supported_or_wrong_is_named() {
        assert!(refused(|w| w.without(SCORES)).contains("scores is missing"));
        assert!(refused(|w| w.f32s(SCORES, &[0.0])).contains("has 1 entries"));
        assert!(refused(|w| w.f32s(SCORES, &[f32::NAN; 6])).contains("not a number"));
        assert!(refused(|w| w.i32s("tokenizer.ggml.token_type", &[2, 3, 1, 1, 5, 1])).contains("\"ab\", unused"));
        assert!(refused(|w| w.i32s("tokenizer.ggml.token_type", &[2, 3, 6, 1, 1, 1])).contains("has 1 byte tokens"));
        assert!(refused(|w| w.bool("tokenizer.ggml.remove_extra_whitespaces", true)).contains("is set"));
        let long = "a".repeat(MAX_PIECE_BYTES + 1);
        assert!(
            refused(|w| w.strs("tokenizer.ggml.tokens", &["<unk>", "<s>", &long, "b", "c", "d"])).contains("at most")
        );
    }
}
