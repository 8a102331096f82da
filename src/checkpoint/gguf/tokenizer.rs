//! A GGUF's tokenizer as the files of a Hugging Face folder: tokenizer.json, tokenizer_config.json and
//! generation_config.json.
//!
//! A GGUF names its pre-tokenizer and leaves what the name means to llama.cpp (`llm_tokenizer_bpe` in llama-vocab.cpp)
//! or to the original tokenizer.json; [`PRE_TOKENIZERS`] holds that meaning.

use super::config::SPECIAL_IDS;
use super::file::GgufFile;
use crate::error::Result;
use serde_json::{Map, Value, json};

/// How text is cut before BPE, under the names llama.cpp knows it by.
struct PreTokenizer {
    names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether the byte-level step cuts with GPT-2's expression too.
    gpt2_split: bool,
    /// Whether text is brought to Unicode's NFC first.
    nfc: bool,
    /// Whether a piece that is a token as a whole stays whole.
    ignore_merges: bool,
    /// Whether a text begins with BOS where the file does not say.
    adds_bos: bool,
}

enum Step {
    /// Every digit on its own.
    Digits,
    /// Every match of an expression on its own.
    Split(&'static str),
}

const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["smollm"],
        steps: &[Step::Digits],
        gpt2_split: true,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        steps: &[Step::Split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        gpt2_split: false,
        nfc: false,
        ignore_merges: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["qwen2"],
        steps: &[Step::Split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        gpt2_split: false,
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer { names: &["gpt-2"], steps: &[], gpt2_split: true, nfc: false, ignore_merges: false, adds_bos: false },
    PreTokenizer {
        names: &["default"],
        steps: &[
            Step::Split(r"[\p{P}\$\+<=>\^~\|]+"),
            Step::Split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"),
            Step::Split(r"\p{N}+"),
            Step::Split(r"[0-9][0-9][0-9]"),
        ],
        gpt2_split: false,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
];

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
const MODEL: &str = "tokenizer.ggml.model";
/// `llama_token_type`: never cut, and hidden in decoded text.
const CONTROL: i32 = 3;
/// `llama_token_type`: never cut.
const USER_DEFINED: i32 = 4;

/// tokenizer.json.
pub(super) fn tokenizer_json(file: &GgufFile) -> Result<Value> {
    let pre = pre_tokenizer(file)?;
    let tokens = file.strs_opt(TOKENS)?.ok_or_else(|| file.problem(TOKENS, "is missing; the file has no tokenizer"))?;
    let mut vocabulary = Map::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if vocabulary.insert((*token).to_owned(), id.into()).is_some() {
            return Err(file.problem(TOKENS, format!("has {token:?} twice, the second at {id}")));
        }
    }
    let merges = merges(file, &vocabulary)?;
    let added = added_tokens(file, &tokens)?;
    let prefix_space = file.bool_opt("tokenizer.ggml.add_space_prefix")?.unwrap_or(false);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre.json(prefix_space),
        "post_processor": post_processor(file, pre, &tokens)?,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocabulary,
            "merges": merges,
        },
    }))
}

/// tokenizer_config.json. The class is the plain one, which takes tokenizer.json as it is.
pub(super) fn tokenizer_config_json(file: &GgufFile, config: &Map<String, Value>) -> Result<Value> {
    let tokens = file.strs_opt(TOKENS)?.unwrap_or_default();
    let mut map = Map::new();
    map.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    map.insert("clean_up_tokenization_spaces".into(), false.into());
    map.insert("model_max_length".into(), config.get("max_position_embeddings").cloned().unwrap_or_default());
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
pub(super) fn generation_config_json(file: &GgufFile) -> Result<Value> {
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

impl PreTokenizer {
    fn json(&self, prefix_space: bool) -> Value {
        let byte_level = json!({
            "type": "ByteLevel",
            "add_prefix_space": prefix_space,
            "trim_offsets": true,
            "use_regex": self.gpt2_split,
        });
        let steps = self.steps.iter().map(|step| match step {
            Step::Digits => json!({"type": "Digits", "individual_digits": true}),
            Step::Split(regex) => {
                json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
            }
        });
        let steps: Vec<Value> = steps.chain([byte_level]).collect();
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

fn pre_tokenizer(file: &GgufFile) -> Result<&'static PreTokenizer> {
    let model = file.str(MODEL)?;
    if model != "gpt2" {
        let problem = format!("is {model}, expected gpt2 (byte-level BPE); use the model's safetensors");
        return Err(file.problem(MODEL, problem));
    }
    let name = file.str_opt(PRE)?.unwrap_or("default");
    PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|p| p.names).copied().collect();
        file.problem(PRE, format!("is {name}, expected one of {}; use the model's safetensors", known.join(", ")))
    })
}

/// Pairs of tokens; a merge is written as both with a space between.
fn merges(file: &GgufFile, vocabulary: &Map<String, Value>) -> Result<Vec<Value>> {
    let merges = file.strs_opt(MERGES)?.ok_or_else(|| file.problem(MERGES, "is missing; convert the model again"))?;
    let pair = |(at, merge): (usize, &str)| {
        // The first character can itself be a space only in files whose tokens are not byte-level.
        let (left, right) = merge
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty())
            .ok_or_else(|| file.problem(MERGES, format!("[{at}] is {merge:?}, expected two tokens")))?;
        let whole = format!("{left}{right}");
        match [left, right, &whole].into_iter().find(|token| !vocabulary.contains_key(*token)) {
            None => Ok(json!([left, right])),
            Some(token) => Err(file.problem(MERGES, format!("[{at}] needs the token {token:?}, which is missing"))),
        }
    };
    merges.into_iter().enumerate().map(pair).collect()
}

/// Tokens that are found in the text before anything else is done.
fn added_tokens(file: &GgufFile, tokens: &[&str]) -> Result<Vec<Value>> {
    let Some(types) = file.i32s_opt(TYPES)? else { return Ok(Vec::new()) };
    if types.len() != tokens.len() {
        let problem = format!("has {} entries, expected {}, one for each token", types.len(), tokens.len());
        return Err(file.problem(TYPES, problem));
    }
    let added = types.iter().zip(tokens).enumerate().filter(|(_, (ty, _))| [CONTROL, USER_DEFINED].contains(*ty));
    Ok(added
        .map(|(id, (ty, token))| {
            json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": *ty == CONTROL,
            })
        })
        .collect())
}

/// Puts BOS before a text and EOS after it, where the file asks for them.
fn post_processor(file: &GgufFile, pre: &PreTokenizer, tokens: &[&str]) -> Result<Value> {
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
    let bos = file.bool_opt("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.adds_bos);
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
    use super::*;
    use tokenizers::Tokenizer;

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
        assert_eq!(tokenizer_json(&open(vocabulary("default").without(PRE))).unwrap(), json("default"));
    }

    #[test]
    fn what_is_not_supported_or_wrong_is_named() {
        assert!(refused(|w| w.str(MODEL, "llama")).contains("is llama, expected gpt2"));
        assert!(refused(|w| w.str(PRE, "tekken")).contains("is tekken, expected one of smollm"));
        assert!(refused(|w| w.without(TOKENS)).contains("no tokenizer"));
        assert!(refused(|w| w.without(MERGES)).contains("merges is missing"));
        assert!(refused(|w| w.strs(MERGES, &["ab"])).contains("[0] is \"ab\", expected two tokens"));
        assert!(refused(|w| w.strs(MERGES, &["z z"])).contains("[0] needs the token \"zz\""));
        assert!(refused(|w| w.strs(TOKENS, &["a", "a"])).contains("\"a\" twice"));
        assert!(refused(|w| w.i32s(TYPES, &[1])).contains("has 1 entries"));
        assert!(refused(|w| w.u32(TYPES, 1)).contains("expected an array of i32"));
    }

    #[test]
    fn special_tokens_are_texts_in_tokenizer_config() {
        let mut writer = vocabulary("smollm");
        writer.str("tokenizer.chat_template", "{{ x }}");
        let config = tokenizer_config_json(&open(&writer), &Map::new()).unwrap();
        assert_eq!((&config["bos_token"], &config["eos_token"]), (&json!("<|begin|>"), &json!("<|end|>")));
        assert_eq!(config["chat_template"], "{{ x }}");
        assert!(config.get("pad_token").is_none());
        writer.u32("tokenizer.ggml.padding_token_id", 9999);
        let problem = tokenizer_config_json(&open(&writer), &Map::new()).unwrap_err().to_string();
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
