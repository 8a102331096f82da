//! A GGUF's tokenizer as the files of a Hugging Face folder: tokenizer.json, tokenizer_config.json and
//! generation_config.json.

mod byte_level;
mod sentencepiece;
mod vocabulary;

use super::config::SPECIAL_IDS;
use super::file::GgufFile;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use vocabulary::{TOKENS, Tokens};

const MODEL: &str = "tokenizer.ggml.model";

/// tokenizer.json.
fn tokenizer_json(file: &GgufFile) -> Result<Value> {
    let parts = match file.str(MODEL)? {
        "gpt2" => byte_level::parts,
        "llama" | "gemma4" => sentencepiece::parts,
        model => {
            let kinds = "gpt2 (byte-level BPE), llama or gemma4 (SentencePiece BPE)";
            let what = format!("metadata {MODEL} is {model}, expected {kinds}; use the model's safetensors");
            return Err(Error::Unsupported { path: file.path().to_owned(), what });
        }
    };
    let tokens = Tokens::read(file)?;
    let parts = parts(file, &tokens)?;
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": parts.added,
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": post_processor(file, parts.adds_bos, &tokens.texts)?,
        "decoder": parts.decoder,
        "model": parts.model,
    }))
}

impl GgufFile {
    /// Its tokenizer, as tokenizer.json would hold it.
    ///
    /// # Errors
    /// The file has none, or one of a kind that is not supported.
    pub fn tokenizer_json(&self) -> Result<Value> {
        tokenizer_json(self)
    }

    /// Whether it has a tokenizer, of whatever kind.
    pub fn has_tokenizer(&self) -> bool {
        matches!(self.str_opt(MODEL), Err(_) | Ok(Some(_)))
    }

    /// Special tokens and the chat template, as tokenizer_config.json would hold them.
    ///
    /// # Errors
    /// A special token's number is not in the vocabulary.
    pub fn tokenizer_config_json(&self) -> Result<Value> {
        tokenizer_config_json(self)
    }

    /// The tokens that begin and end a text, as generation_config.json would hold them.
    ///
    /// # Errors
    /// A key has the wrong type.
    pub fn generation_config_json(&self) -> Result<Value> {
        generation_config_json(self)
    }
}

/// tokenizer_config.json. The class is the plain one, which takes tokenizer.json as it is.
fn tokenizer_config_json(file: &GgufFile) -> Result<Value> {
    let tokens = file.strs_opt(TOKENS)?.unwrap_or_default();
    let mut map = Map::new();
    map.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    map.insert("clean_up_tokenization_spaces".into(), false.into());
    let architecture = file.str_opt("general.architecture")?.unwrap_or_default();
    let context = file.u64_opt(&format!("{architecture}.context_length"))?;
    map.insert("model_max_length".into(), json!(context));
    for (name, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
    ] {
        if let Some((token, _)) = special_token(file, key, &tokens)? {
            map.insert(name.into(), token.into());
        }
    }
    if let Some(template) = file.str_opt("tokenizer.chat_template")? {
        map.insert("chat_template".into(), template.into());
    }
    Ok(Value::Object(map))
}

/// generation_config.json. A text ends at EOS and at the end of a turn, where the file names one.
fn generation_config_json(file: &GgufFile) -> Result<Value> {
    let mut map = Map::new();
    for (key, name) in SPECIAL_IDS {
        if let Some(id) = file.u64_opt(key)? {
            map.insert((*name).into(), id.into());
        }
    }
    let eos = file.u64_opt("tokenizer.ggml.eos_token_id")?;
    let turn = file.u64_opt("tokenizer.ggml.eot_token_id")?;
    if let (Some(eos), Some(turn)) = (eos, turn)
        && eos != turn
    {
        map.insert("eos_token_id".into(), json!([eos, turn]));
    }
    map.insert("_from_model_config".into(), true.into());
    Ok(Value::Object(map))
}

/// Puts BOS before a text and EOS after it, where the file asks for them.
fn post_processor(file: &GgufFile, adds_bos: bool, tokens: &[&str]) -> Result<Value> {
    let mut specials = Map::new();
    let mut piece = |wanted: bool, key: &str| -> Result<Option<String>> {
        if !wanted {
            return Ok(None);
        }
        let missing = || file.problem(key, "is missing, but texts are to carry it");
        let (token, id) = special_token(file, key, tokens)?.ok_or_else(missing)?;
        specials.insert(token.into(), json!({"id": token, "ids": [id], "tokens": [token]}));
        Ok(Some(token.to_owned()))
    };
    let bos = file.bool_opt("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
    let bos = piece(bos, "tokenizer.ggml.bos_token_id")?;
    let eos = file.bool_opt("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    let eos = piece(eos, "tokenizer.ggml.eos_token_id")?;
    if specials.is_empty() {
        return Ok(Value::Null);
    }
    let around = |sequence: &str, type_id: u32| -> Vec<Value> {
        let special =
            |token: &Option<String>| token.as_ref().map(|t| json!({"SpecialToken": {"id": t, "type_id": type_id}}));
        let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
        [special(&bos), Some(text), special(&eos)].into_iter().flatten().collect()
    };
    let single = around("A", 0);
    let pair: Vec<Value> = single.iter().cloned().chain(around("B", 1)).collect();
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}))
}

/// The token whose number is under `key`.
fn special_token<'a>(file: &GgufFile, key: &str, tokens: &[&'a str]) -> Result<Option<(&'a str, u64)>> {
    let Some(id) = file.u64_opt(key)? else { return Ok(None) };
    let token = usize::try_from(id).ok().and_then(|at| tokens.get(at));
    let token = token.ok_or_else(|| file.problem(key, format!("is {id}, but there are {} tokens", tokens.len())))?;
    Ok(Some((token, id)))
}

#[cfg(test)]
mod tests {
    use super::super::writer::{Writer, expected, fixture};
    use super::byte_level::{MERGES, PRE, PRE_TOKENIZERS};
    use super::vocabulary::TYPES;
    use super::*;
    use tokenizers::{
        NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer,
    };

    /// The vocabulary of the fixture under another pre-tokenizer.
    fn vocabulary(pre: &str) -> Writer {
        let file = GgufFile::open(&fixture("tiny-llama.gguf")).unwrap();
        let mut writer = Writer::new();
        writer.str(MODEL, "gpt2").str(PRE, pre);
        writer.strs(TOKENS, &file.strs_opt(TOKENS).unwrap().unwrap());
        writer.strs(MERGES, &file.strs_opt(MERGES).unwrap().unwrap());
        writer.i32s(TYPES, &file.i32s_opt(TYPES).unwrap().unwrap());
        for key in ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"] {
            writer.u32(key, file.u64_opt(key).unwrap().unwrap() as u32);
        }
        writer
    }

    fn open(writer: &Writer) -> GgufFile {
        GgufFile::open(writer.file().path()).unwrap()
    }

    fn tokenizer(writer: &Writer) -> Tokenizer {
        tokenizer_json(&open(writer)).unwrap().to_string().parse().unwrap()
    }

    fn refused(change: impl FnOnce(&mut Writer) -> &mut Writer) -> String {
        let mut writer = vocabulary("smollm");
        change(&mut writer);
        tokenizer_json(&open(&writer)).unwrap_err().to_string()
    }

    #[test]
    fn ids_are_those_of_the_tokenizers_that_the_names_mean() {
        let expected = expected("tokens.json");
        let texts = expected["texts"].as_array().unwrap();
        for (pre, ids) in expected["ids"].as_object().unwrap() {
            let tokenizer = tokenizer(&vocabulary(pre));
            for (text, ids) in texts.iter().zip(ids.as_array().unwrap()) {
                let encoded = tokenizer.encode(text.as_str().unwrap(), true).unwrap();
                assert_eq!(json!(encoded.get_ids()), *ids, "{pre}: {text}");
            }
        }
        assert_eq!(expected["ids"].as_object().unwrap().len(), PRE_TOKENIZERS.len());
    }

    #[test]
    fn texts_of_other_scripts_are_cut_as_the_tokenizers_that_the_names_mean_cut_them() {
        let expected = expected("tokens.json");
        let texts = expected["cut"].as_array().unwrap();
        for (pre, pieces) in expected["pieces"].as_object().unwrap() {
            let tokenizer = tokenizer(&vocabulary(pre));
            for (text, pieces) in texts.iter().zip(pieces.as_array().unwrap()) {
                let mut normalized = NormalizedString::from(text.as_str().unwrap());
                if let Some(normalizer) = tokenizer.get_normalizer() {
                    normalizer.normalize(&mut normalized).unwrap();
                }
                let mut cut = PreTokenizedString::from(normalized);
                tokenizer.get_pre_tokenizer().unwrap().pre_tokenize(&mut cut).unwrap();
                let cut = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
                let cut: Vec<&str> = cut.iter().map(|(piece, ..)| *piece).collect();
                assert_eq!(json!(cut), *pieces, "{pre}: {text}");
            }
        }
        assert_eq!(expected["pieces"].as_object().unwrap().len(), PRE_TOKENIZERS.len());
    }

    #[test]
    fn the_file_says_whether_texts_begin_and_end_with_a_special_token() {
        let mut writer = vocabulary("llama-bpe");
        let (begin, end) = (289, 290);
        let ids = |w: &Writer| tokenizer(w).encode("ab", true).unwrap().get_ids().to_vec();
        let text = ids(writer.clone().bool("tokenizer.ggml.add_bos_token", false));
        assert_eq!(ids(&writer), [&[begin], &text[..]].concat());
        assert_eq!(ids(writer.bool("tokenizer.ggml.add_eos_token", true)), [&[begin], &text[..], &[end]].concat());
        let tokenizer = tokenizer(&writer);
        assert_eq!(tokenizer.encode("ab", false).unwrap().get_ids(), text);
        assert_eq!(tokenizer.decode(&ids(&writer), true).unwrap(), "ab");
        assert!(
            refused(|w| w.bool("tokenizer.ggml.add_bos_token", true).without("tokenizer.ggml.bos_token_id"))
                .contains("bos_token_id is missing")
        );
    }

    #[test]
    fn aliases_mean_the_same() {
        let json = |pre| tokenizer_json(&open(&vocabulary(pre))).unwrap();
        assert_eq!(json("llama-bpe"), json("llama3"));
        assert_eq!(json("exaone4"), json("gpt-2"));
        assert_eq!(tokenizer_json(&open(vocabulary("default").without(PRE))).unwrap(), json("default"));
    }

    #[test]
    fn what_is_not_supported_or_wrong_is_named() {
        assert!(refused(|w| w.str(MODEL, "t5")).contains("is t5, expected gpt2"));
        assert!(refused(|w| w.str(PRE, "viking")).contains("is viking, expected one of smollm"));
        assert!(refused(|w| w.without(TOKENS)).contains("no tokenizer"));
        assert!(refused(|w| w.without(MERGES)).contains("merges is missing"));
        assert!(refused(|w| w.strs(MERGES, &["ab"])).contains("[0] is \"ab\", expected two tokens"));
        assert!(refused(|w| w.strs(MERGES, &["z z"])).contains("[0] needs the token \"zz\""));
        assert!(refused(|w| w.strs(TOKENS, &["a", "a"]).without(TYPES)).contains("\"a\" twice"));
        assert!(refused(|w| w.i32s(TYPES, &[1])).contains("has 1 entries"));
        assert!(refused(|w| w.u32(TYPES, 1)).contains("expected an array of i32"));
    }

    #[test]
    fn special_tokens_are_texts_in_tokenizer_config() {
        let mut writer = vocabulary("smollm");
        writer.str("tokenizer.chat_template", "{{ x }}");
        let config = tokenizer_config_json(&open(&writer)).unwrap();
        assert_eq!((&config["bos_token"], &config["eos_token"]), (&json!("<|begin|>"), &json!("<|end|>")));
        assert_eq!(config["chat_template"], "{{ x }}");
        assert!(config.get("pad_token").is_none());
        writer.u32("tokenizer.ggml.padding_token_id", 9999);
        let problem = tokenizer_config_json(&open(&writer)).unwrap_err().to_string();
        assert!(problem.contains("padding_token_id is 9999"), "{problem}");
    }

    #[test]
    fn generation_ends_at_the_end_of_a_turn_too() {
        let mut writer = vocabulary("smollm");
        assert_eq!(generation_config_json(&open(&writer)).unwrap()["eos_token_id"], 290);
        writer.u32("tokenizer.ggml.eot_token_id", 291);
        assert_eq!(generation_config_json(&open(&writer)).unwrap()["eos_token_id"], json!([290, 291]));
    }
}
