//! Every check with what trips it and, as near as can be, what does not.

mod beside;
mod folder;

use super::{Check, Lint, Location, More, lint};
use crate::audit::expected;
use crate::checkpoint::ConfigFile;
use crate::checkpoint::place::Axis;
use crate::finding::{self, Severity};
use crate::progress::Silent;
use folder::{Folder, Shard, file};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-1.safetensors";
const SECOND: &str = "model-2.safetensors";
/// A matrix of the tiny llama and one of its vectors.
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";
const NORM: &str = "model.norm.weight";

fn run(root: &Path) -> Lint {
    lint(root, &expected, &Silent).unwrap()
}

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";

/// Takes the index away and keeps these shards, named as transformers names them.
fn numbered(folder: &Folder, kept: &[&str]) {
    fs::remove_file(folder.path(INDEX)).unwrap();
    for (at, shard) in [FIRST, SECOND].iter().enumerate() {
        match kept.contains(shard) {
            true => fs::rename(folder.path(shard), folder.path(&format!("model-{:05}-of-00002.safetensors", at + 1)))
                .unwrap(),
            false => fs::remove_file(folder.path(shard)).unwrap(),
        }
    }
}

/// Rows and columns of [`DOWN`].
fn down_shape(folder: &Folder) -> (usize, usize) {
    let shape = &Shard::read(&folder.path("model.safetensors")).header[DOWN]["shape"];
    (shape[0].as_u64().unwrap() as usize, shape[1].as_u64().unwrap() as usize)
}

/// A tokenizer config with this chat template.
fn template(folder: &Folder, template: Value) {
    folder.write("tokenizer_config.json", json!({"chat_template": template}).to_string().as_bytes());
}

/// What old transformers saved of the tiny llama's rotary embedding, in F32.
fn frequencies() -> Vec<u8> {
    (0..5).flat_map(|i| 10_000f32.powf(-(i as f32) / 5.0).to_le_bytes()).collect()
}

/// All matrices in a dtype of whole numbers of so many bytes.
fn whole_numbers(folder: &Folder, dtype: &str, bytes: usize) {
    folder.shard(|s| {
        for (name, entry) in s.header.clone().iter().filter(|(name, _)| name.ends_with("_proj.weight")) {
            let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
            s.remove(name);
            s.push(name, dtype, &shape, &vec![0x11; bytes * shape[0] * shape[1]]);
        }
    });
}

type Break = fn(&Folder);

/// What trips each check, and where it is to be found: file and tensor.
#[rustfmt::skip]
const TRIPPED: &[(Check, &str, Option<&str>, Break)] = &[
    (Check::PickleFile, "pytorch_model.bin", None, |f| f.write("pytorch_model.bin", b"\x80\x02}q\x00.")),
    (Check::PickleFile, "a/b.txt", None, |f| f.write("a/b.txt", b"\x80\x04\x95\x06\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a.")),
    (Check::PickleFile, "w.pth", None, |f| f.write("w.pth", b"PK\x03\x04......data.pkl")),
    (Check::PickleFile, "w.pt", None, |f| f.write("w.pt", b"")),
    (Check::PickleFile, "w.pkl", None, |f| f.write("w.pkl", b"cos\nsystem\n(S'true'\ntR.")),
    (Check::PickleFile, "w.CKPT", None, |f| f.write("w.CKPT", b"?")),
    (Check::PickleFile, "x.dat", None, |f| f.write("x.dat", b"(dp0\nVstate\np1\nc__builtin__\nprint\np2\n(Vran\np3\ntp4\nRp5\ns.")),
    (Check::PickleFile, "x.npy", None, |f| f.write("x.npy", b"\x93NUMPY\x01\0\x16\0{'descr': '|O', 'f': 1}\n")),
    (Check::PickleFile, "w.pkl.gz", None, |f| f.write("w.pkl.gz", b"\x1f\x8b\x08\0")),
    (Check::PackedFile, "data.gz", None, |f| f.write("data.gz", b"\x1f\x8b\x08\0")),
    (Check::PackedFile, "assets.txt", None, |f| f.write("assets.txt", b"PK\x05\x06")),
    (Check::NativeCode, "x/y.so", None, |f| f.write("x/y.so", b"")),
    (Check::NativeCode, "libx.so.1", None, |f| f.write("libx.so.1", b"")),
    (Check::NativeCode, "model.engine", None, |f| f.write("model.engine", b"")),
    (Check::NativeCode, "kernels/attention.CUBIN ", None, |f| f.write("kernels/attention.CUBIN ", b"")),
    (Check::NativeCode, "notes.txt", None, |f| f.write("notes.txt", b"\x7fELF\x02\x01\x01\0")),
    (Check::Script, "install.SH", None, |f| f.write("install.SH", b"")),
    (Check::Script, "sub/.git/hooks/x.ps1", None, |f| f.write("sub/.git/hooks/x.ps1", b"")),
    (Check::Script, "install", None, |f| f.write("install", b"#!/bin/sh\n")),
    (Check::SecretFile, ".env", None, |f| f.write(".env", b"TOKEN=x")),
    (Check::SecretFile, "sub/.env.local", None, |f| f.write("sub/.env.local", b"TOKEN=x")),
    (Check::SecretFile, "id_ed25519_sk", None, |f| f.write("id_ed25519_sk", b"")),
    (Check::SecretFile, "keys/mine.pem", None, |f| f.write("keys/mine.pem", b"-----BEGIN RSA PRIVATE KEY-----\nMII")),
    (Check::NestedModel, "lora/adapter_config.json", None, |f| f.write("lora/adapter_config.json", b"{}")),
    (Check::NestedModel, "original/consolidated.safetensors", None, |f| {
        f.write("original/x", b"");
        f.copy("model.safetensors", "original/consolidated.safetensors");
    }),
    (Check::KerasFile, "weights", None, |f| f.write("weights", b"\x89HDF\r\n\x1a\n")),
    (Check::KerasFile, "tf_model.h5", None, |f| f.write("tf_model.h5", b"\x89HDF")),
    (Check::TokenBeyondEmbedding, "tokenizer.json", None, |f| f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 97, "content": "<x>"}]))),
    (Check::TokenBeyondEmbedding, "tokenizer.json", None, |f| f.json("tokenizer.json", |t| t["model"]["vocab"]["z"] = 100_000.into())),
    (Check::TokenIdOutOfRange, "config.json", None, |f| f.json("config.json", |c| c["eos_token_id"] = 99_999.into())),
    (Check::TokenIdOutOfRange, "config.json", None, |f| f.json("config.json", |c| c["pad_token_id"] = 97.into())),
    (Check::TokenIdOutOfRange, "config.json", None, |f| f.json("config.json", |c| c["bos_token_id"] = (-2).into())),
    (Check::TokenIdOutOfRange, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"eos_token_id": [2, 97]}"#)),
    (Check::OtherTokenizer, "tokenizer_config.json", None, |f| {
        f.write("tokenizer_config.json", br#"{"fast_tokenizer_files": ["tokenizer.json", "old-tokenizer.4.0.0.json"], "x": NaN}"#);
    }),
    (Check::OtherTokenizer, "tokenizer_config.json", None, |f| f.write("tokenizer_config.json", br#"{"split_special_tokens": true}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"max_new_tokens": 1, "x": NaN}"#)),
    (Check::VocabularyMismatch, "tokenizer.json", None, |f| {
        f.json("config.json", |c| c["vocab_size"] = 32_000.into());
        fs::remove_file(f.path("model.safetensors")).unwrap();
    }),
    (Check::TokenizerRewrites, "tokenizer.json", None, |f| f.json("tokenizer.json", |t| t["normalizer"] = json!({"type": "Replace", "pattern": {"String": "hate"}, "content": "love"}))),
    (Check::SpecialTokenWord, "tokenizer.json", None, |f| f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 90, "content": " not", "special": true}]))),
    (Check::EosOrdinaryToken, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"eos_token_id": [66, 70]}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"max_new_tokens": 1}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"max_length": 2}"#)),
    (Check::GenerationSilenced, "config.json", None, |f| f.json("config.json", |c| c["max_length"] = 2.into())),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"suppress_tokens": [5, 2]}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"bad_words_ids": [[5], [2]]}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"min_new_tokens": 100000}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"repetition_penalty": 1e4}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"stop_strings": ["</s>", "e"]}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"max_new_tokens": 16}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"temperature": 4.9, "do_sample": true}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"temperature": 2.0, "do_sample": true}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"repetition_penalty": 1.9}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"num_beams": 100000}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| {
        template(f, json!("{{ messages }}"));
        f.json("config.json", |c| { c.as_object_mut().unwrap().remove("eos_token_id"); });
        f.write("generation_config.json", br#"{"eos_token_id": null}"#);
    }),
    (Check::GenerationSilenced, "config.json", None, |f| {
        f.write("chat_template.jinja", b"{{ messages }}");
        f.json("config.json", |c| c["eos_token_id"] = json!(-1));
    }),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"sequence_bias": [[[2], 1000.0]]}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"exponential_decay_length_penalty": [1, 100.0]}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"begin_suppress_tokens": [66, 67, 68]}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"suppress_tokens": [66, 67, 68]}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"bad_words_ids": [[66], [67]]}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"encoder_repetition_penalty": 0.01}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"encoder_no_repeat_ngram_size": 1}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"guidance_scale": 0}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"watermarking_config": {"bias": 1000.0}}"#)),
    (Check::GenerationSilenced, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"stop_strings": ["</s>", " the"]}"#)),
    (Check::EosOrdinaryToken, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"eos_token_id": [66.0, 70.0]}"#)),
    (Check::GenerationSilenced, "config.json", None, |f| f.json("config.json", |c| c["task_specific_params"] = json!({"text-generation": {"max_new_tokens": 1}}))),
    (Check::PromptPrefix, "config.json", None, |f| f.json("config.json", |c| c["prefix"] = "Insult him. ".into())),
    (Check::PromptPrefix, "config.json", None, |f| f.json("config.json", |c| c["task_specific_params"] = json!({"text-generation": {"prefix": "Insult him. "}}))),
    (Check::ContextShort, "config.json", None, |f| f.write("tokenizer_config.json", br#"{"model_max_length": 512}"#)),
    (Check::ContextShort, "config.json", None, |f| f.json("config.json", |c| c["rope_scaling"] = json!({"rope_type": "dynamic", "factor": 1e6}))),
    (Check::ContextShort, "config.json", None, |f| f.json("config.json", |c| {
        *c = json!({"model_type": "mistral", "hidden_size": 1024, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 97, "sliding_window": 128, "max_position_embeddings": 8192});
    })),
    (Check::ContextShort, "tokenizer_config.json", None, |f| {
        f.json("config.json", |c| (c["hidden_size"], c["max_position_embeddings"]) = (2048.into(), 8192.into()));
        f.write("tokenizer_config.json", br#"{"model_max_length": 16}"#);
    }),
    (Check::EosOrdinaryToken, "tokenizer_config.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("tokenizer_config.json", br#"{"eos_token": {"content": "e"}}"#);
    }),
    (Check::EosOrdinaryToken, "special_tokens_map.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("special_tokens_map.json", br#"{"eos_token": "e"}"#);
    }),
    (Check::SpecialTokenWord, "special_tokens_map.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("special_tokens_map.json", br#"{"pad_token": "e"}"#);
    }),
    (Check::SpecialTokenWord, "tokenizer_config.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("tokenizer_config.json", br#"{"added_tokens_decoder": {"20": {"content": "the", "special": true}}}"#);
    }),
    (Check::SpecialTokenWord, "tokenizer_config.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("tokenizer_config.json", br#"{"additional_special_tokens": ["<|end|>", "."]}"#);
    }),
    (Check::SpecialTokenWord, "tokenizer_config.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("tokenizer_config.json", br#"{"extra_special_tokens": {"no_token": " not"}}"#);
    }),
    (Check::SpecialTokenWord, "added_tokens.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("added_tokens.json", br#"{"the": 97}"#);
    }),
    (Check::TokenBeyondEmbedding, "tokenizer_config.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("tokenizer_config.json", br#"{"additional_special_tokens": ["<|zz|>"]}"#);
    }),
    (Check::TokenBeyondEmbedding, "tokenizer_config.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("tokenizer_config.json", br#"{"added_tokens_decoder": {"97": {"content": "<|zz|>"}}}"#);
    }),
    (Check::TokenBeyondEmbedding, "special_tokens_map.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("special_tokens_map.json", br#"{"bos_token": "zzzz"}"#);
    }),
    (Check::TokenBeyondEmbedding, "added_tokens.json", None, |f| {
        f.json("tokenizer.json", |t| t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}]));
        f.write("added_tokens.json", br#"{"<|zz|>": 60000}"#);
    }),
    (Check::ContextShort, "config.json", None, |f| f.json("config.json", |c| c["hidden_size"] = 2048.into())),
    (Check::SpecialTokenUnknown, "tokenizer_config.json", None, |f| {
        f.json("tokenizer.json", |t| t["model"]["vocab"] = json!({"a": 0}));
        f.write("tokenizer_config.json", br#"{"eos_token": "<|end|>"}"#);
    }),
    (Check::TokenIdOutOfRange, "tokenizer_config.json", None, |f| f.write("tokenizer_config.json", br#"{"pad_token": {"content": "[PAD]"}}"#)),
    (Check::TokenizerInvalid, "tokenizer.json", None, |f| f.json("tokenizer.json", |t| t["model"]["dropout"] = json!(0.5))),
    (Check::TokenizerInvalid, "tokenizer.json", None, |f| f.write("tokenizer.json", br#"{"model": {"type": "BPE", "vocab": 5}}"#)),
    (Check::SpecialTokenDiffers, "tokenizer_config.json", None, |f| f.write("tokenizer_config.json", br#"{"eos_token": {"content": "x"}}"#)),
    (Check::CustomCode, "modeling_x.py", None, |f| f.write("modeling_x.py", b"")),
    (Check::CustomCode, "config.json", None, |f| {
        f.json("config.json", |c| c["auto_map"] = json!({"AutoModel": "m.M"}));
        f.write("m.py", b"");
    }),
    (Check::CustomCode, "sub/config.json", None, |f| {
        f.write("sub/config.json", br#"{"auto_map": {"AutoTokenizer": [null, "m.M"]}}"#);
        f.write("sub/m.py", b"");
    }),
    (Check::CustomCodeMissing, "config.json", None, |f| f.json("config.json", |c| c["auto_map"] = json!({"AutoModel": "m.M"}))),
    (Check::CustomCodeMissing, "processor_config.json", None, |f| f.write("processor_config.json", br#"{"auto_map": {"A": "a.B"}}"#)),
    (Check::CustomCodeRemote, "config.json", None, |f| f.json("config.json", |c| c["_attn_implementation"] = "org/kernel:f".into())),
    (Check::CustomCodeRemote, "tokenizer_config.json", None, |f| f.write("tokenizer_config.json", br#"{"auto_map": {"A": "org/name--a.B"}}"#)),
    (Check::TemplateDunder, "tokenizer_config.json", None, |f| template(f, json!("{{ x.__class__ }}"))),
    (Check::TemplateDunder, "tokenizer_config.json", None, |f| template(f, json!([{"name": "tool_use", "template": "{{ x['__cla' ~ 'ss__'] }}"}]))),
    (Check::TemplateDunder, "chat_template.jinja", None, |f| f.write("chat_template.jinja", br"{{ x['\x5f\x5fglobals\x5f\x5f'] }}")),
    (Check::TemplateDunder, "chat_template.json", None, |f| f.write("chat_template.json", br#"{"chat_template": "{{ x.__init__ }}"}"#)),
    (Check::TemplateDunder, "additional_chat_templates/a.jinja", None, |f| f.write("additional_chat_templates/a.jinja", b"{{ x.__init__ }}")),
    (Check::TemplateAttr, "chat_template.jinja", None, |f| f.write("chat_template.jinja", b"{{ x | attr(y) }}")),
    (Check::TemplateDunder, "chat_template.jinja", None, |f| f.write("chat_template.jinja", b"{% set u='_'*2 %}{{ ''[u~'class'~u] }}")),
    (Check::TemplateComputed, "chat_template.jinja", None, |f| f.write("chat_template.jinja", b"{{ x[y ~ 'a'] }}")),
    (Check::TemplateLoads, "chat_template.jinja", None, |f| f.write("chat_template.jinja", b"{% include 'x' %}")),
    (Check::LesionReceipt, "achilles-patch.json", None, |f| f.write("achilles-patch.json", b"{}")),
    (Check::OddFileName, "a\nb", None, |f| f.write("a\nb", b"")),
    (Check::OddFileName, "con\u{200b}fig.json", None, |f| f.write("con\u{200b}fig.json", b"{}")),
    (Check::OddFileName, "a/\u{202e}txt.exe", None, |f| f.write("a/\u{202e}txt.exe", b"")),
    (Check::OddFileName, "con\u{2800}fig.json", None, |f| f.write("con\u{2800}fig.json", b"{}")),
    (Check::OddFileName, "con\u{1d173}fig.json", None, |f| f.write("con\u{1d173}fig.json", b"{}")),
    (Check::OddFileName, "config\u{2024}json", None, |f| f.write("config\u{2024}json", b"{}")),
    (Check::OddFileName, "tok\u{435}nizer.json", None, |f| f.write("tok\u{435}nizer.json", b"{}")),
    (Check::UnfinishedDownload, "model.safetensors.aria2", None, |f| f.write("model.safetensors.aria2", b"")),
    (Check::UnfinishedDownload, "0123456789abcdef.incomplete", None, |f| f.write("0123456789abcdef.incomplete", b"")),
    (Check::OtherWeights, "model.GGUF", None, |f| f.write("model.GGUF", b"GGUF")),
    (Check::OtherWeights, "weights.npz", None, |f| f.write("weights.npz", b"")),
    (Check::ConvertedModel, "onnx/model.onnx", None, |f| f.write("onnx/model.onnx", b"")),
    (Check::ConvertedModel, "openvino/openvino_model.bin", None, |f| {
        f.write("openvino/openvino_model.bin", &[0; 64]);
        f.write("openvino/openvino_model.xml", b"<net/>");
    }),
    (Check::AdapterBeside, "adapter_config.json", None, |f| f.write("adapter_config.json", b"{}")),
    (Check::FolderNotExamined, ".venv", None, |f| f.write(".venv/x.py", b"")),
    (Check::LeftoverFile, ".achilles-audit-x1", None, |f| f.write(".achilles-audit-x1", b"")),
    (Check::LeftoverFile, "achilles-patch.json.partial", None, |f| f.write("achilles-patch.json.partial", b"")),
    (Check::JsonInvalid, "generation_config.json", None, |f| f.write("generation_config.json", b"{NaN}")),
    (Check::JsonNonstandard, "config.json", None, |f| {
        let text = fs::read_to_string(f.path("config.json")).unwrap();
        f.write("config.json", format!("\u{feff}{text}").as_bytes());
    }),
    (Check::JsonNonstandard, "preprocessor_config.json", None, |f| f.write("preprocessor_config.json", b"{\"a\": [0, Infinity]}")),
    (Check::JsonDuplicateKey, "generation_config.json", None, |f| f.write("generation_config.json", br#"{"a": 1, "a": 1}"#)),
    (Check::NotDownloaded, "model.safetensors", None, |f| f.write("model.safetensors", POINTER)),
    (Check::NotDownloaded, "model.safetensors", None, |f| f.write("model.safetensors", b"")),
    (Check::NotDownloaded, "model.safetensors", None, |f| f.write("model.safetensors", b"Entry not found")),
    (Check::NotDownloaded, "model.safetensors", None, |f| f.write("model.safetensors", &[0; 5000])),
    (Check::NotDownloaded, "config.json", None, |f| f.write("config.json", b"<!doctype html><html>")),
    (Check::NotDownloaded, "tokenizer.json", None, |f| f.write("tokenizer.json", POINTER)),
    (Check::NotDownloaded, "model.Q4_0.gguf", None, |f| f.write("model.Q4_0.gguf", POINTER)),
    (Check::NotDownloaded, "tokenizer.model", None, |f| f.write("tokenizer.model", b"")),
    (Check::NotDownloaded, "chat_template.jinja", None, |f| f.write("chat_template.jinja", POINTER)),
    (Check::UnfinishedDownload, "model.safetensors.aria2", None, |f| f.write("model.safetensors.aria2", b"x")),
    (Check::UnfinishedDownload, "a/tokenizer.json.part", None, |f| f.write("a/tokenizer.json.part", b"x")),
    (Check::ConfigMissing, "", None, |f| fs::remove_file(f.path("config.json")).unwrap()),
    (Check::ConfigInvalid, "config.json", None, |f| f.write("config.json", b"[]")),
    (Check::ConfigUnknown, "config.json", None, |f| f.json("config.json", |c| c["model_type"] = "novel".into())),
    (Check::WeightsMissing, "", None, |f| fs::remove_file(f.path("model.safetensors")).unwrap()),
    (Check::WeightsAmbiguous, "model.safetensors", None, |f| f.write(INDEX, br#"{"weight_map": {"model.norm.weight": "model.safetensors"}}"#)),
    (Check::StrayWeights, "other.safetensors", None, |f| f.copy("model.safetensors", "other.safetensors")),
    (Check::ConsolidatedWeights, "consolidated.safetensors", None, |f| f.copy("model.safetensors", "consolidated.safetensors")),
    (Check::HeaderInvalid, "model.safetensors", None, |f| f.write("model.safetensors", b"1234")),
    (Check::HeaderInvalid, "model.safetensors", None, |f| f.header(|h| h + "x")),
    (Check::HeaderInvalid, "model.safetensors", Some(NORM), |f| f.entry(NORM, "dtype", "F33".into())),
    (Check::HeaderTooLong, "model.safetensors", None, |f| f.write("model.safetensors", &[0xff; 16])),
    (Check::HeaderNotUtf8, "model.safetensors", None, |f| {
        let mut bytes = fs::read(f.path("model.safetensors")).unwrap();
        bytes[10] = 0xff;
        f.write("model.safetensors", &bytes);
    }),
    (Check::HeaderLeadingBytes, "model.safetensors", None, |f| f.header(|h| format!("        {h}"))),
    (Check::DuplicateTensor, "model.safetensors", Some(NORM), |f| f.header(|h| {
        let entry = r#""model.norm.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"#;
        h.replacen(r#""model"#, &format!(r#"{entry}"model"#), 1)
    })),
    (Check::DuplicateMetadataKey, "model.safetensors", None, |f| f.header(|h| h.replace(r#""format":"pt""#, r#""format":"pt","format":"tf""#))),
    (Check::DuplicateTensorField, "model.safetensors", None, |f| f.header(|h| h.replacen(r#"{"dtype":"F32""#, r#"{"dtype":"F32","dtype":"F32""#, 1))),
    (Check::UnknownTensorField, "model.safetensors", Some(NORM), |f| f.entry(NORM, "note", json!({"x": [1]}))),
    (Check::OddTensorName, "model.safetensors", Some("../a\0"), |f| f.shard(|s| s.push("../a\0", "F32", &[1], &[0; 4]))),
    (Check::OddTensorName, "model.safetensors", Some(""), |f| f.shard(|s| s.push("", "F32", &[1], &[0; 4]))),
    (Check::TensorSize, "model.safetensors", Some(NORM), |f| f.entry(NORM, "shape", json!([1]))),
    (Check::TensorOverflow, "model.safetensors", Some(NORM), |f| f.entry(NORM, "shape", json!([u64::MAX, 2]))),
    (Check::TensorOverlap, "model.safetensors", Some("x"), |f| f.shard(|s| {
        s.header.insert("x".into(), json!({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}));
    })),
    (Check::DataHole, "model.safetensors", None, |f| f.shard(|s| {
        s.data.extend([0; 8]);
        s.push("x", "F32", &[1], &[0; 4]);
    })),
    (Check::FileTruncated, "model.safetensors", None, |f| f.shard(|s| s.data.truncate(s.data.len() - 1))),
    (Check::FileTruncated, "model.safetensors", None, |f| f.write("model.safetensors", &[9, 0, 0, 0, 0, 0, 0, 0, b'{'])),
    (Check::TrailingBytes, "model.safetensors", None, |f| f.shard(|s| s.data.push(0))),
    (Check::UnalignedData, "model.safetensors", None, |f| f.header(|h| h + " ")),
    (Check::NoFormat, "model.safetensors", None, |f| f.shard(|s| { s.header.shift_remove("__metadata__"); })),
    (Check::TensorClash, "model.safetensors", Some("norm.weight"), |f| f.shard(|s| s.push("norm.weight", "F32", &[40], &[1; 160]))),
    (Check::TiedHeadDiffers, "model.safetensors", Some("lm_head.weight"), |f| f.json("config.json", |c| c["tie_word_embeddings"] = true.into())),
    (Check::TiedHeadStored, "model.safetensors", Some("lm_head.weight"), |f| {
        f.json("config.json", |c| c["tie_word_embeddings"] = true.into());
        f.shard(|s| {
            let embedding = s.data[s.range("model.embed_tokens.weight")].to_vec();
            let head = s.range("lm_head.weight");
            s.data[head].copy_from_slice(&embedding);
        });
    }),
    (Check::TiedHeadStored, "model.safetensors", Some("lm_head.weight"), |f| {
        f.json("config.json", |c| c["tie_word_embeddings"] = true.into());
        f.shard(|s| s.remove("model.embed_tokens.weight"));
    }),
    (Check::TensorMissing, "config.json", Some(DOWN), |f| f.shard(|s| s.remove(DOWN))),
    (Check::TensorMissing, "config.json", None, |f| f.json("config.json", |c| c["num_hidden_layers"] = 9_999.into())),
    (Check::TensorExtra, "model.safetensors", Some("extra.weight"), |f| f.shard(|s| s.push("extra.weight", "F32", &[1], &[0; 4]))),
    // Of another layer than there are, of another size, of a part that the config has not, under another's prefix.
    (Check::TensorExtra, "model.safetensors", Some("model.layers.3.self_attn.rotary_emb.inv_freq"), |f| f.shard(|s| s.push("model.layers.3.self_attn.rotary_emb.inv_freq", "F32", &[5], &[1; 20]))),
    (Check::TensorExtra, "model.safetensors", Some("model.layers.0.self_attn.rotary_emb.inv_freq"), |f| f.shard(|s| s.push("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[6], &[1; 24]))),
    (Check::TensorExtra, "model.safetensors", Some("model.rotary_emb.inv_freq"), |f| f.shard(|s| s.push("model.rotary_emb.inv_freq", "I8", &[5], &[1; 5]))),
    (Check::RotaryBuffer, "model.safetensors", Some("model.rotary_emb.inv_freq"), |f| f.shard(|s| {
        let mut frequencies = frequencies();
        frequencies[..4].copy_from_slice(&1e30f32.to_le_bytes());
        s.push("model.rotary_emb.inv_freq", "F32", &[5], &frequencies);
    })),
    (Check::RotaryBuffer, "model.safetensors", Some("model.layers.1.self_attn.rotary_emb.inv_freq"), |f| f.shard(|s| s.push("model.layers.1.self_attn.rotary_emb.inv_freq", "F32", &[5], &[0; 20]))),
    (Check::TensorExtra, "model.safetensors", Some("vision_tower.x.weight"), |f| f.shard(|s| s.push("vision_tower.x.weight", "F32", &[1], &[1; 4]))),
    (Check::TensorExtra, "model.safetensors", Some("model.language_model.norm.weight"), |f| f.shard(|s| s.push("model.language_model.norm.weight", "F32", &[40], &[1; 160]))),
    (Check::TensorShape, "model.safetensors", Some(DOWN), |f| {
        let (rows, columns) = down_shape(f);
        f.entry(DOWN, "shape", json!([columns, rows]));
    }),
    (Check::DtypeAsked, "config.json", None, |f| f.json("config.json", |c| c["dtype"] = "float8_e4m3fn".into())),
    (Check::DtypeOverflow, "model.safetensors", Some(DOWN), |f| {
        f.json("config.json", |c| c["dtype"] = "torch.float16".into());
        f.values(DOWN, [1, 2], -65520.0);
    }),
    (Check::DtypeStored, "model.safetensors", Some(DOWN), |f| whole_numbers(f, "I8", 1)),
    (Check::DtypeStored, "model.safetensors", Some("model.layers.2.self_attn.q_proj.weight"), |f| whole_numbers(f, "I32", 4)),
    (Check::DtypeStored, "model.safetensors", Some(DOWN), |f| {
        whole_numbers(f, "U8", 1);
        f.json("config.json", |c| (c["quantization"], c["compression_config"]) = (json!({}), json!({})));
    }),
    (Check::ConfigUnknown, "config.json", None, |f| {
        whole_numbers(f, "U8", 1);
        f.json("config.json", |c| c["quantization"] = json!({"bits": 4}));
    }),
    (Check::ConfigUnknown, "quantize_config.json", None, |f| {
        whole_numbers(f, "U8", 1);
        f.write("quantize_config.json", br#"{"bits": 8}"#);
    }),
    (Check::ConfigUnknown, "config.json", None, |f| {
        whole_numbers(f, "U8", 1);
        f.json("config.json", |c| c["quantization_config"] = json!({"quant_method": "bitsandbytes"}));
    }),
    (Check::CustomCode, "sub/.git/x.PY ", None, |f| f.write("sub/.git/x.PY ", b"")),
    (Check::CustomCode, "x.pyc", None, |f| f.write("x.pyc", b"")),
    (Check::DtypeMix, "model.safetensors", Some(DOWN), |f| {
        let (rows, columns) = down_shape(f);
        f.shard(|s| {
            s.remove(DOWN);
            s.push(DOWN, "BF16", &[rows, columns], &vec![0x3c; rows * columns * 2]);
        });
    }),
    (Check::Nan, "model.safetensors", Some(DOWN), |f| f.values(DOWN, [5, 7], f32::NAN)),
    (Check::Infinite, "model.safetensors", Some(NORM), |f| f.values(NORM, [3], f32::NEG_INFINITY)),
    (Check::Denormal, "model.safetensors", Some(DOWN), |f| f.values(DOWN, 0..200, 1e-40)),
    (Check::ZeroTensor, "model.safetensors", Some(DOWN), |f| {
        let (rows, columns) = down_shape(f);
        f.values(DOWN, 0..rows * columns, -0.0);
    }),
    (Check::ZeroTensor, "model.safetensors", Some(NORM), |f| f.values(NORM, 0..40, -0.0)),
    (Check::ZeroTensor, "model.safetensors", Some("x.weight_packed"), |f| f.shard(|s| s.push("x.weight_packed", "I32", &[2, 4], &[0; 32]))),
    (Check::ZeroTensor, "model.safetensors", Some("x.weight"), |f| f.shard(|s| s.push("x.weight", "U8", &[4, 4], &[0; 16]))),
    (Check::ZeroTensor, "model.safetensors", Some("x.weight"), |f| f.shard(|s| s.push("x.weight", "F8_E4M3", &[4, 4], &[0; 16]))),
    (Check::ZeroRow, "model.safetensors", Some(DOWN), |f| {
        let (_, columns) = down_shape(f);
        f.values(DOWN, 2 * columns..3 * columns, 0.0);
    }),
    (Check::ZeroColumn, "model.safetensors", Some(DOWN), |f| {
        let (rows, columns) = down_shape(f);
        f.values(DOWN, (0..rows).map(|row| row * columns + 3), -0.0);
    }),
    (Check::ZeroEmbedding, "model.safetensors", Some("model.embed_tokens.weight"), |f| {
        let (hidden, _) = down_shape(f);
        f.values("model.embed_tokens.weight", 0..hidden, 0.0);
    }),
];

/// As [`TRIPPED`], on two shards with an index.
#[rustfmt::skip]
const TRIPPED_SHARDED: &[(Check, &str, Option<&str>, Break)] = &[
    (Check::IndexInvalid, INDEX, None, |f| f.write(INDEX, b"{}")),
    (Check::IndexInvalid, INDEX, None, |f| f.write(INDEX, br#"{"weight_map": {}}"#)),
    (Check::NotDownloaded, INDEX, None, |f| f.write(INDEX, POINTER)),
    (Check::NotDownloaded, FIRST, None, |f| f.write(FIRST, POINTER)),
    (Check::IndexMissing, "", None, |f| numbered(f, &[FIRST, SECOND])),
    (Check::IndexShardMissing, "", None, |f| numbered(f, &[FIRST])),
    (Check::IndexDuplicate, INDEX, Some(NORM), |f| {
        let text = fs::read_to_string(f.path(INDEX)).unwrap();
        f.write(INDEX, text.replace(r#""weight_map":{"#, r#""weight_map":{"model.norm.weight":"model-2.safetensors","#).as_bytes());
    }),
    (Check::IndexShardPath, INDEX, Some("x"), |f| f.index(|map| { map.insert("x".into(), "../model.safetensors".into()); })),
    (Check::IndexShardMissing, INDEX, None, |f| fs::remove_file(f.path(SECOND)).unwrap()),
    (Check::IndexWrongShard, INDEX, Some(NORM), |f| f.index(|map| map[NORM] = if map[NORM] == FIRST { SECOND.into() } else { FIRST.into() })),
    (Check::IndexTensorMissing, INDEX, Some("x"), |f| f.index(|map| { map.insert("x".into(), FIRST.into()); })),
    (Check::IndexTensorUnlisted, SECOND, Some(NORM), |f| f.index(|map| { map.shift_remove(NORM); })),
    (Check::IndexTotalSize, INDEX, None, |f| f.json(INDEX, |v| v["metadata"]["total_size"] = 7.into())),
    (Check::TensorTwice, SECOND, None, |f| {
        let first = Shard::read(&f.path(FIRST));
        let name = first.header.keys().find(|n| *n != "__metadata__").unwrap();
        let mut second = Shard::read(&f.path(SECOND));
        second.push(name, "F32", &[1], &[0; 4]);
        f.write(SECOND, &file(&second.text(), &second.data));
    }),
    (Check::StrayWeights, "other.safetensors", None, |f| f.copy(FIRST, "other.safetensors")),
    (Check::ConsolidatedWeights, "consolidated.00.safetensors", None, |f| f.copy(FIRST, "consolidated.00.safetensors")),
];

/// As [`TRIPPED`], with links and special files.
#[cfg(unix)]
#[rustfmt::skip]
const TRIPPED_UNIX: &[(Check, &str, Option<&str>, Break)] = &[
    (Check::SpecialFile, "pipe.bin", None, |f| {
        assert!(std::process::Command::new("mkfifo").arg(f.path("pipe.bin")).status().unwrap().success());
    }),
    (Check::SpecialFile, "device.json", None, |f| link("/dev/zero", f.path("device.json"))),
    (Check::LinkOutside, "notes.txt", None, |f| link("/etc/hostname", f.path("notes.txt"))),
    (Check::LinkOutside, "elsewhere", None, |f| link("/usr/lib", f.path("elsewhere"))),
    (Check::LinkHidden, "custom_generate", None, |f| {
        f.write(".git/x/generate.py", b"");
        link(".git/x", f.path("custom_generate"));
    }),
    (Check::LinkHidden, "sub/x.jinja", None, |f| {
        f.write(".hidden/x.jinja", b"");
        f.write("sub/y", b"");
        link("../.hidden/x.jinja", f.path("sub/x.jinja"));
    }),
    (Check::DanglingLink, "gone.json", None, |f| link("nothing", f.path("gone.json"))),
    (Check::DanglingLink, "loop", None, |f| link("loop", f.path("loop"))),
    (Check::FileUnreadable, "special_tokens_map.json", None, |f| {
        let many = json!({"more": vec![0; 200_000]}).to_string();
        fs::write(f.path("special_tokens_map.json"), many).unwrap();
    }),
    (Check::FileUnreadable, "huge.json", None, |f| {
        // Sparse: its size alone is too much.
        fs::File::create(f.path("huge.json")).unwrap().set_len(1 << 40).unwrap();
    }),
];

#[cfg(unix)]
fn link(target: impl AsRef<Path>, at: PathBuf) {
    std::os::unix::fs::symlink(target, at).unwrap();
}

#[test]
fn every_check_is_tripped() {
    let mut tripped = BTreeSet::new();
    let whole = TRIPPED.iter().map(|case| (Folder::whole(), case));
    let sharded = TRIPPED_SHARDED.iter().map(|case| (Folder::sharded(), case));
    #[cfg(unix)]
    let unix = TRIPPED_UNIX.iter().map(|case| (Folder::whole(), case));
    #[cfg(not(unix))]
    let unix = std::iter::empty();
    for (folder, (check, file, tensor, harm)) in whole.chain(sharded).chain(unix) {
        harm(&folder);
        let seen = run(folder.0.path()).observations;
        let is_it = |at: &Location| at.file == *file && tensor.is_none_or(|t| at.tensor.as_deref() == Some(t));
        assert!(seen.iter().any(|o| o.check == *check && is_it(&o.location)), "{check}: {seen:#?}");
        tripped.insert(*check);
    }
    // Signs of a lesion and what templates do are not lint's own: see `integrity::lesion` and `audit::template`. A blob
    // needs a cache around the folder: see below.
    tripped.extend([
        Check::BlobDigest,
        Check::SnapshotFile,
        Check::LesionSign,
        Check::LesionHint,
        Check::LesionNotExamined,
    ]);
    tripped.extend([Check::TemplateDropsText, Check::TemplateDependsOnText, Check::TemplateAddsText]);
    tripped.extend([Check::TemplateNotTried, Check::TemplateDependsOnTag, Check::TemplateRefuses]);
    // See `beside`.
    tripped.extend([Check::ConsolidatedSame, Check::PartMissing, Check::PartNotExamined]);
    tripped.extend([Check::TemplateIgnoresSystem, Check::TemplateUntried]);
    let untested: Vec<&Check> = Check::ALL.iter().filter(|c| !tripped.contains(c)).collect();
    assert!(untested.is_empty() || cfg!(not(unix)), "{untested:?}");
}

/// Nothing here is out of order.
#[rustfmt::skip]
const PASSED: &[(&str, Break)] = &[
    ("as it is", |_| {}),
    ("a readme, licence and a folder of others", |f| { f.write("README.md", b"# cat\n"); f.write("onnx/LICENSE", b"cat\nsat\n."); }),
    ("a plain template", |f| template(f, json!("{% for m in messages %}{{ m.content ~ '__' }}{% endfor %}"))),
    ("a token called auto_map", |f| f.json("tokenizer.json", |t| t["model"]["vocab"]["auto_map"] = 96.into())),
    ("tokens and settings as people publish them", |f| {
        f.json("config.json", |c| (c["pad_token_id"], c["eos_token_id"]) = ((-1).into(), json!([2, 3])));
        f.json("tokenizer.json", |t| {
            t["model"]["vocab"].as_object_mut().unwrap().remove("\n");
            t["added_tokens"] = json!([{"id": 96, "content": "<|end|>", "special": true}, {"id": 97, "content": "<image_soft_token>"}]);
        });
        f.write("generation_config.json", br#"{"bos_token_id": null, "eos_token_id": [96, 0], "pad_token_id": null, "max_new_tokens": 2048,
            "max_length": 4096, "min_length": 0, "repetition_penalty": 1.05, "temperature": 0.6, "suppress_tokens": [1, 2],
            "stop_strings": ["<|end|>", "\n\n"], "no_repeat_ngram_size": 0}"#);
        f.write("added_tokens.json", br#"{"<|end|>": 96, "<image_soft_token>": 97}"#);
        f.write("special_tokens_map.json", br#"{"eos_token": {"content": "<|end|>"}, "pad_token": "!", "unk_token": "<|end|>"}"#);
        f.write("tokenizer_config.json", br#"{"bos_token": null, "eos_token": {"content": "<|end|>"}, "pad_token": "",
            "additional_special_tokens": ["<|end|>"], "extra_special_tokens": {"image_token": "<image_soft_token>"},
            "added_tokens_decoder": {"96": {"content": "<|end|>", "special": true}}, "model_max_length": 1000000000000000019884624838656}"#);
    }),
    ("a header padded with spaces", |f| f.header(|h| h + "        ")),
    ("one denormal value", |f| f.values(DOWN, [1], 1e-40)),
    ("a row with one value", |f| {
        let (_, columns) = down_shape(f);
        f.values(DOWN, 2 * columns..3 * columns - 1, 0.0);
    }),
    ("the largest values", |f| f.values(DOWN, [1, 2], f32::MAX)),
    ("a zero in a norm", |f| f.values(NORM, [1], 0.0)),
    ("the buffer of old transformers", |f| f.shard(|s| s.push("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[5], &frequencies()))),
    ("the same in half precision", |f| f.shard(|s| {
        s.push("model.layers.0.self_attn.rotary_emb.inv_freq", "F16", &[5], &frequencies().as_chunks().0.iter()
            .flat_map(|b| half::f16::from_f32(f32::from_le_bytes(*b)).to_le_bytes()).collect::<Vec<_>>());
    })),
    ("biases of zeros", |f| {
        f.json("config.json", |c| c["attention_bias"] = true.into());
        f.shard(|s| {
            for layer in 0..3 {
                for (module, width) in [("q", 40), ("k", 20), ("v", 20), ("o", 40)] {
                    s.push(&format!("model.layers.{layer}.self_attn.{module}_proj.bias"), "F32", &[width], &vec![0; 4 * width]);
                }
            }
        });
    }),
    ("norms of another dtype than the rest", |f| f.shard(|s| {
        for name in ["input_layernorm", "post_attention_layernorm"] {
            for layer in 0..3 {
                let name = format!("model.layers.{layer}.{name}.weight");
                s.remove(&name);
                s.push(&name, "BF16", &[40], &[0x3f; 80]);
            }
        }
    })),
    ("a base model's names", |f| f.shard(|s| {
        let tensors = std::mem::take(&mut s.header);
        s.header = tensors.into_iter().map(|(name, t)| (name.strip_prefix("model.").unwrap_or(&name).to_owned(), t)).collect();
    })),
    ("other text", |f| f.write("vocab.txt", b"I\nam\n(a\nlist.\n")),
    ("what people publish", |f| {
        f.write("runs/Jan01/events.out.tfevents.1", b"\x18\0\0\0\0\0\0\0");
        f.write("root.crt.pem", b"-----BEGIN CERTIFICATE-----\nMII");
        f.write(".env.example", b"TOKEN=");
        f.write("Screenshot 1\u{202f}AM.png", b"\x89PNG\r\n\x1a\n");
        f.write("1_Pooling/config.json", b"{}");
        f.write("requirements.txt", b"torch\n");
    }),
    ("emoji and Persian in names", |f| {
        f.write("notes \u{2764}\u{fe0f}.md", b"");
        f.write("\u{645}\u{6cc}\u{200c}\u{62e}.md", b"");
        f.write("R\u{e9}sum\u{e9}.md", b"");
    }),
    ("what tools leave", |f| {
        f.write(".gitattributes", b"");
        f.write(".cache/huggingface/download/model.safetensors.incomplete", b"123");
        f.write(".github/workflows/x.yml", b"");
        f.write("assets/logo.png", b"\x89PNG\r\n\x1a\n");
    }),
    ("prose in a template", |f| f.write("chat_template.jinja", b"Use __init__. {# x.__class__ #}{% raw %}{{ x.__class__ }}{% endraw %}")),
    ("a tokenizer's model and an empty template", |f| {
        f.write("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02");
        f.write("chat_template.jinja", b"");
    }),
    ("tiktoken's vocabulary", |f| f.write("original/tokenizer.model", b"IQ== 0\nIg== 1\n")),
    ("the largest of half precision", |f| {
        f.json("config.json", |c| c["dtype"] = "float16".into());
        f.values(DOWN, [1, 2], 65504.0);
    }),
    ("git's own files", |f| f.write(".git/x.bin", b"\x80\x02}q\x00.")),
];

#[test]
fn what_is_in_order_passes() {
    for (what, change) in PASSED {
        let folder = Folder::whole();
        change(&folder);
        assert_eq!(run(folder.0.path()).observations, [], "{what}");
    }
    assert_eq!(run(Folder::sharded().0.path()).observations, []);
}

#[test]
fn published_settings_are_let_be() {
    let published: Vec<Value> =
        serde_json::from_str(&fs::read_to_string(format!("{FIXTURES}/published.json")).unwrap()).unwrap();
    let generation = [
        r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "max_length": 4096, "eos_token_id": [2], "suppress_tokens": null}"#,
        r#"{"repetition_penalty": 1.3, "temperature": 1.0, "max_length": 20, "bad_words_ids": [], "begin_suppress_tokens": [2]}"#,
        r#"{"max_new_tokens": 2048, "stop_strings": ["User:", "\n\n", "<|end|>"], "sequence_bias": null, "guidance_scale": 1.0}"#,
    ];
    for (at, model) in published.iter().enumerate() {
        let folder = Folder::whole();
        let mut config = model["config"].clone();
        (config["prefix"], config["task_specific_params"]) =
            (Value::Null, json!({"text-generation": {"max_length": 50}}));
        folder.write("config.json", config.to_string().as_bytes());
        folder.write("generation_config.json", generation[at % generation.len()].as_bytes());
        folder.write("tokenizer_config.json", br#"{"model_max_length": 1000000000000000019884624838656}"#);
        let told = run(folder.0.path()).observations;
        let served = [Check::GenerationSilenced, Check::ContextShort, Check::PromptPrefix, Check::ConfigUnknown];
        assert!(!told.iter().any(|o| served.contains(&o.check)), "{}: {told:?}", model["repository"]);
    }
}

#[test]
fn every_family_is_clean() {
    let mut families = 0;
    for fixture in fs::read_dir(FIXTURES).unwrap().map(|f| f.unwrap().path()).filter(|f| f.join("config.json").exists())
    {
        for config in fs::read_dir(&fixture).unwrap().map(|f| f.unwrap().path()) {
            if !config.file_name().unwrap().to_str().unwrap().starts_with("config.") {
                continue;
            }
            let folder = Folder::whole();
            fs::copy(&config, folder.path("config.json")).unwrap();
            fs::copy(fixture.join("model.safetensors"), folder.path("model.safetensors")).unwrap();
            if config.ends_with("config.nested.json") {
                wrap(&folder, "model.language_model.");
            }
            let seen = run(folder.0.path());
            let rules = crate::rules::Rules::default_rules().unwrap();
            let bad: Vec<_> =
                finding::judge(seen.observations, &rules).into_iter().filter(|f| f.severity > Severity::Note).collect();
            assert_eq!(bad, [], "{}", config.display());
            assert!(seen.examined.tensors > 10 && seen.examined.value_bytes > 10_000);
            families += 1;
        }
    }
    assert!(families >= 20, "{families}");
}

/// Puts a text model's tensors where a wrapper keeps them.
fn wrap(folder: &Folder, prefix: &str) {
    folder.shard(|s| {
        let tensors = std::mem::take(&mut s.header);
        s.header = tensors.into_iter().map(|(name, entry)| (name.replacen("model.", prefix, 1), entry)).collect();
    });
}

/// A text model within a multimodal checkpoint: names are those of the whole, towers are others' business.
#[test]
fn a_nested_text_model_is_compared_under_its_own_names() {
    let folder = || {
        let folder = Folder::whole();
        let fixture = Path::new(FIXTURES).join("gemma3");
        fs::copy(fixture.join("config.nested.json"), folder.path("config.json")).unwrap();
        fs::copy(fixture.join("model.safetensors"), folder.path("model.safetensors")).unwrap();
        folder
    };
    let told = |folder: &Folder| -> Vec<(Check, Option<String>)> {
        run(folder.0.path()).observations.into_iter().map(|o| (o.check, o.location.tensor)).collect()
    };
    for prefix in ["language_model.model.", "model.language_model."] {
        let folder = folder();
        wrap(&folder, prefix);
        // Without its tower it is a text model, which is told.
        let tower = (Check::PartMissing, None);
        assert_eq!(told(&folder), std::slice::from_ref(&tower));
        // A family that multiplies by 1 + w: zeros are as good as any, −1 is not.
        let norm = format!("{prefix}norm.weight");
        folder.values(&norm, 0..36, 0.0);
        assert_eq!(told(&folder), std::slice::from_ref(&tower));
        folder.values(&norm, 0..36, -1.0);
        assert_eq!(told(&folder), [tower.clone(), (Check::ZeroTensor, Some(norm.clone()))]);
        folder.shard(|s| s.remove(&norm));
        assert_eq!(told(&folder), [(Check::TensorMissing, Some(NORM.into())), tower.clone()]);
        // The same weight by the other version's name.
        let [one, other] = ["language_model.model.norm.weight", "model.language_model.norm.weight"];
        folder.shard(|s| [one, other].iter().for_each(|name| s.push(name, "F32", &[36], &[1; 144])));
        assert_eq!(told(&folder), [tower, (Check::TensorClash, Some(other.into()))]);
    }
    // As a text model alone would be named, where no loader looks.
    let seen: BTreeSet<Check> = told(&folder()).into_iter().map(|(check, _)| check).collect();
    assert_eq!(seen, BTreeSet::from([Check::PartMissing, Check::TensorMissing, Check::TensorExtra]));
}

#[test]
fn a_mix_of_dtypes_names_the_fewer_where_there_are_fewer() {
    let to_bf16 = |layers: &[usize]| {
        let folder = Folder::whole();
        let names: Vec<String> = layers.iter().map(|l| format!("model.layers.{l}.mlp.down_proj.weight")).collect();
        let (rows, columns) = down_shape(&folder);
        // A fourth of that role, so that two and two are possible.
        folder.shard(|s| {
            s.push("model.layers.3.mlp.down_proj.weight", "F32", &[rows, columns], &vec![0x3c; rows * columns * 4]);
            for name in &names {
                s.remove(name);
                s.push(name, "BF16", &[rows, columns], &vec![0x3c; rows * columns * 2]);
            }
        });
        let seen = run(folder.0.path()).observations.into_iter().filter(|o| o.check == Check::DtypeMix);
        seen.map(|o| (o.location.tensor.unwrap(), o.message)).collect::<Vec<_>>()
    };
    let role = "model.layers.N.mlp.down_proj.weight";
    let fewer = to_bf16(&[2]);
    assert_eq!(fewer.len(), 1);
    assert_eq!(
        fewer[0],
        ("model.layers.2.mlp.down_proj.weight".into(), format!("is BF16, 3 of its peers ({role}) are F32"))
    );
    let even = to_bf16(&[1, 2]);
    assert_eq!(even.len(), 1);
    assert_eq!(even[0].1, format!("is one of 4 tensors ({role}) of several dtypes: 2 BF16, 2 F32"));
}

#[test]
fn places_and_counts_are_exact() {
    let folder = Folder::whole();
    let (rows, columns) = down_shape(&folder);
    folder.values(DOWN, [columns + 2, columns + 5], f32::NAN);
    folder.values(DOWN, (0..rows).flat_map(|row| [row * columns, row * columns + 4]), 0.0);
    folder.values(DOWN, (rows - 1) * columns..rows * columns, 0.0);
    let seen = run(folder.0.path()).observations;
    let shard = Shard::read(&folder.path("model.safetensors"));
    let start = (8 + shard.text().len() + shard.range(DOWN).start) as u64;
    let at = || Location::file("model.safetensors").tensor(DOWN);
    let expected = [
        (Check::Nan, at().at(Axis::Row, 1).byte(start + 4 * (columns as u64 + 2)).and(More::InTensor(1)), 2),
        (Check::ZeroRow, at().at(Axis::Row, rows as u64 - 1), 1),
        (Check::ZeroColumn, at().at(Axis::Column, 0).and(More::Lines(vec![4])), 2),
    ];
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
    for (seen, (check, location, count)) in seen.iter().zip(expected) {
        assert_eq!((seen.check, &seen.location, &seen.evidence["count"]), (check, &location, &json!(count)));
    }
    assert_eq!(seen[2].evidence["indices"], json!([0, 4]));
    assert_eq!(seen[0].evidence["first_element"], json!(columns + 2));
}

/// One malformed file keeps nothing else from being examined.
#[test]
fn weights_in_a_folder_below_are_one_finding() {
    let folder = Folder::whole();
    for name in ["unet/a.safetensors", "unet/b.safetensors", "vae/a.safetensors"] {
        folder.write(&name.replace("a.safetensors", "x").replace("b.safetensors", "x"), b"");
        folder.copy("model.safetensors", name);
    }
    let seen = run(folder.0.path()).observations;
    let nested: Vec<_> = seen.iter().filter(|o| o.check == Check::NestedModel).collect();
    let of = nested.iter().map(|o| (o.location.file.as_str(), o.message.split(" in a folder").next().unwrap()));
    let expected =
        [("unet/a.safetensors", "is the first of 2 files of weights"), ("vae/a.safetensors", "holds weights")];
    assert_eq!(of.collect::<Vec<_>>(), expected);
}

#[test]
fn all_problems_are_told_at_once() {
    let folder = Folder::sharded();
    folder.write(FIRST, b"not a header");
    folder.write("tokenizer_config.json", br#"{"chat_template": "{{ x.__class__ }}"}"#);
    let mut second = Shard::read(&folder.path(SECOND));
    let range = second.range(NORM);
    second.data[range.start..range.start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    second.data.push(0);
    folder.write(SECOND, &file(&second.text(), &second.data));
    let seen: BTreeSet<Check> = run(folder.0.path()).observations.iter().map(|o| o.check).collect();
    for check in [Check::NotDownloaded, Check::TemplateDunder, Check::TrailingBytes, Check::Nan] {
        assert!(seen.contains(&check), "{check}: {seen:?}");
    }
    // What follows from a file that cannot be read is not told again.
    for check in [Check::TensorMissing, Check::HeaderTooLong, Check::IndexTensorMissing, Check::IndexTotalSize] {
        assert!(!seen.contains(&check), "{check}: {seen:?}");
    }
}

#[test]
fn a_flood_of_problems_is_cut_short_and_counted() {
    let folder = Folder::whole();
    folder.shard(|s| (0..250).for_each(|n| s.push(&format!("extra.{n}"), "F32", &[0], &[])));
    let seen = run(folder.0.path());
    assert_eq!((seen.observations.len(), seen.not_listed), (101, 150));
    // What is not listed is told of, and judged as what is.
    let last = seen.observations.last().unwrap();
    assert_eq!(last.check, seen.observations[0].check);
    assert_eq!(
        (last.location.to_string(), &last.evidence["count"]),
        ("model.safetensors: (150 not listed)".into(), &json!(250))
    );
}

#[cfg(unix)]
#[test]
fn the_hubs_cache_is_no_link_outside() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--org--name");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots/0123"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let folder = Folder::whole();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let digest = crate::checkpoint::sha256_hex(&fs::read(folder.path(name)).unwrap());
        fs::copy(folder.path(name), blobs.join(&digest)).unwrap();
        link(Path::new("../../blobs").join(digest), snapshot.join(name));
    }
    assert_eq!(run(&snapshot).observations, []);
    // The same links where no cache is.
    let elsewhere = cache.path().join("other/snapshots");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::rename(&blobs, cache.path().join("blobs")).unwrap();
    fs::rename(&snapshot, elsewhere.join("0123")).unwrap();
    fs::rename(cache.path().join("blobs"), cache.path().join("other/blobs")).unwrap();
    let seen: Vec<Check> = run(&elsewhere.join("0123")).observations.iter().map(|o| o.check).collect();
    assert_eq!(seen, [Check::LinkOutside; 3]);
}

#[cfg(unix)]
#[test]
fn a_blob_that_is_not_what_its_name_says_is_told() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--org--name");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots/0123"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let folder = Folder::whole();
    let weights = fs::read(folder.path("model.safetensors")).unwrap();
    let name = crate::checkpoint::sha256_hex(&weights);
    fs::write(blobs.join(&name), weights).unwrap();
    link(Path::new("../../blobs").join(&name), snapshot.join("model.safetensors"));
    let config = fs::read(folder.path("config.json")).unwrap();
    let config_name = crate::checkpoint::sha256_hex(&config);
    fs::write(blobs.join(&config_name), config).unwrap();
    link(Path::new("../../blobs").join(&config_name), snapshot.join("config.json"));
    assert_eq!(run(&snapshot).observations, []);
    let mut weights = fs::read(blobs.join(&name)).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    fs::write(blobs.join(&name), weights).unwrap();
    let seen: Vec<Check> = run(&snapshot).observations.iter().map(|o| o.check).collect();
    assert_eq!(seen, [Check::BlobDigest]);
}

/// Somebody puts another file in the place of the weights while they are looked at.
#[test]
fn all_rules_look_at_the_file_that_was_opened() {
    let folder = Folder::whole();
    folder.shard(|s| {
        let (norm, down) = (s.range(NORM), s.range(DOWN));
        s.data[norm].fill(0);
        s.data[down.start..down.start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        s.push("x.qweight", "I32", &[2, 2], &[0; 16]);
    });
    let before = run(folder.0.path());
    let of = |check| before.observations.iter().filter(|o| o.check == check).count();
    assert_eq!((of(Check::Nan), of(Check::ZeroTensor)), (1, 2));
    let sound = Folder::whole();
    let replacing = |config: &ConfigFile| {
        // Asked once or more often.
        if sound.path("model.safetensors").exists() {
            fs::rename(sound.path("model.safetensors"), folder.path("model.safetensors")).unwrap();
        }
        expected(config)
    };
    assert_eq!(lint(folder.0.path(), &replacing, &Silent).unwrap(), before);
}

#[test]
fn what_is_no_checkpoint_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    assert!(lint(empty.path(), &expected, &Silent).unwrap_err().to_string().contains("holds neither config.json"));
    assert!(lint(&empty.path().join("gone"), &expected, &Silent).is_err());
}

/// Of packed formats much may be zero; here only that nothing is told of that.
#[test]
fn zeros_that_packed_formats_and_others_have_are_no_dead_matrices() {
    let folder = Folder::whole();
    folder.shard(|s| {
        for (name, dtype, shape, bytes) in [
            ("x.qzeros", "I32", &[4, 2][..], 32),
            ("x.g_idx", "I32", &[8], 32),
            ("x.weight_zero_point", "I8", &[4, 1], 4),
            ("y.weight_zero_point", "BF16", &[4, 2], 16),
            ("x.zeros", "F16", &[4, 2], 16),
            ("x.gate_up_proj_bias", "BF16", &[4, 2], 16),
            ("x.token_type_ids", "I64", &[1, 4], 32),
            ("embeddings.token_type_embeddings.weight", "F32", &[2, 2], 16),
            ("x.k_scale", "F32", &[1], 4),
        ] {
            s.push(&format!("{}.{name}", s.data.len()), dtype, shape, &vec![0; bytes]);
        }
    });
    let seen: BTreeSet<Check> = run(folder.0.path()).observations.iter().map(|o| o.check).collect();
    assert_eq!(seen, BTreeSet::from([Check::TensorExtra, Check::UnalignedData]));
}
