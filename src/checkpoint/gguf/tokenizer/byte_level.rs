//! Byte-level BPE: `tokenizer.ggml.model` gpt2.
//!
//! A GGUF names its pre-tokenizer and leaves what the name means to llama.cpp (`llm_tokenizer_bpe` in llama-vocab.cpp)
//! or to the original tokenizer.json; [`PRE_TOKENIZERS`] holds that meaning.

use super::super::file::GgufFile;
use super::vocabulary::{CONTROL, Parts, Tokens, USER_DEFINED, added_token};
use crate::error::Result;
use serde_json::{Map, Value, json};

pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const PRE: &str = "tokenizer.ggml.pre";

/// The parts of tokenizer.json.
pub(super) fn parts(file: &GgufFile, tokens: &Tokens) -> Result<Parts> {
    let pre = pre_tokenizer(file)?;
    let vocabulary = tokens.vocabulary(file)?;
    let merges = merges(file, &vocabulary)?;
    let prefix_space = file.bool_opt("tokenizer.ggml.add_space_prefix")?.unwrap_or(false);
    let added = tokens.of_type(&[CONTROL, USER_DEFINED]).map(|(id, token, ty)| added_token(id, token, ty == CONTROL));
    Ok(Parts {
        added: added.collect(),
        adds_bos: pre.adds_bos,
        normalizer: if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre.json(prefix_space),
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: json!({
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
        }),
    })
}

/// How text is cut before BPE, under the names llama.cpp knows it by.
pub(super) struct PreTokenizer {
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

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// DeepSeek's list of cased letters, by their numbers: some look like others that are not among them.
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\
    \u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\
    \u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\
    \u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\
    \u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\
    \u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\
    \u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\
    \u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\
    \u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\
    \u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\
    \u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\
    \u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";

pub(super) const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["smollm", "refact", "starcoder", "codeshell"],
        steps: &[Step::Digits],
        gpt2_split: true,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        steps: &[Step::Split(LLAMA3)],
        gpt2_split: false,
        nfc: false,
        ignore_merges: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        steps: &[Step::Split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        gpt2_split: false,
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        steps: &[Step::Split(LLAMA3)],
        gpt2_split: false,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["qwen35"],
        steps: &[Step::Split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        gpt2_split: false,
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["gpt-4o", "minimax-m2"],
        steps: &[Step::Split(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        gpt2_split: false,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["tekken"],
        steps: &[Step::Split(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        gpt2_split: false,
        nfc: false,
        ignore_merges: true,
        adds_bos: true,
    },
    PreTokenizer {
        names: &["deepseek-v3", "hunyuan-dense"],
        steps: &[
            Step::Split(r"\p{N}{1,3}"),
            Step::Split("[一-龥\u{3040}-ゟ゠-ヿ]+"),
            Step::Split(
                r#"[!"\#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#,
            ),
        ],
        gpt2_split: false,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["deepseek-llm"],
        steps: &[
            Step::Split(r"[\r\n]"),
            Step::Split(DEEPSEEK_LETTERS),
            Step::Split("\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+"),
            Step::Split(r"\s+$"),
            Step::Split("[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+"),
            Step::Digits,
        ],
        gpt2_split: false,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["kimi-k2"],
        steps: &[Step::Split(
            r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        gpt2_split: false,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["seed-coder"],
        steps: &[Step::Split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        )],
        gpt2_split: false,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["command-r"],
        steps: &[Step::Digits],
        gpt2_split: true,
        nfc: true,
        ignore_merges: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["gpt-2", "exaone4"],
        steps: &[],
        gpt2_split: true,
        nfc: false,
        ignore_merges: false,
        adds_bos: false,
    },
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
    let name = file.str_opt(PRE)?.unwrap_or("default");
    PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|p| p.names).copied().collect();
        file.problem(PRE, format!("is {name}, expected one of {}; use the model's safetensors", known.join(", ")))
    })
}

/// Pairs of tokens; a merge is written as both with a space between.
pub(super) fn merges(file: &GgufFile, vocabulary: &Map<String, Value>) -> Result<Vec<Value>> {
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
