//! What trips each of the checks.

use super::*;

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
    (Check::LesionReceipt, "sub/x.GGUF.achilles-patch.json", None, |f| f.write("sub/x.GGUF.achilles-patch.json", b"{}")),
    (Check::HardenedReceipt, "achilles-patch.json", None, |f| f.write("achilles-patch.json", HARDENED.as_bytes())),
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
    (Check::LeftoverFile, "x.gguf.achilles-patch.undo.partial", None, |f| f.write("x.gguf.achilles-patch.undo.partial", b"")),
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
    (Check::PackingBroken, "model.safetensors", Some(DOWN), |f| {
        whole_numbers(f, "U8", 1);
        f.json("config.json", |c| c["quantization"] = json!({"bits": 4}));
    }),
    (Check::PackingBroken, "model.safetensors", Some(DOWN), |f| {
        whole_numbers(f, "U8", 1);
        f.write("quantize_config.json", br#"{"bits": 8}"#);
    }),
    (Check::PackingBroken, "model.safetensors", Some(DOWN), |f| {
        whole_numbers(f, "U8", 1);
        f.json("config.json", |c| c["quantization_config"] = json!({"quant_method": "bitsandbytes"}));
    }),
    (Check::ConfigUnknown, "config.json", None, |f| {
        whole_numbers(f, "U8", 1);
        f.json("config.json", |c| c["quantization_config"] = json!({"quant_method": "quip"}));
    }),
    (Check::ConfigUnknown, "quant_config.json", None, |f| {
        whole_numbers(f, "U8", 1);
        f.write("quant_config.json", br#"{"quant_method": "quip"}"#);
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
    (Check::DtypeStored, "model.safetensors", Some(DOWN), |f| {
        in_fp8(f);
        f.json("config.json", |c| c["quantization_config"] = json!({}));
    }),
    (Check::ConfigRefused, "config.json", None, |f| f.json("config.json", |c| c["num_key_value_heads"] = 3.into())),
    (Check::PeerMissing, "model.safetensors", Some(DOWN), |f| {
        f.json("config.json", |c| c["model_type"] = "novel".into());
        f.shard(|s| s.remove(DOWN));
    }),
    (Check::PeerMissing, "model.safetensors", Some("model.layers.1"), |f| {
        f.json("config.json", |c| c["model_type"] = "novel".into());
        f.shard(|s| {
            let of_layer = s.header.keys().filter(|name| name.starts_with("model.layers.1.")).cloned();
            of_layer.collect::<Vec<_>>().iter().for_each(|name| s.remove(name));
        });
    }),
    (Check::PeerMissing, "model.safetensors", Some("model.layers.0.mlp.down_proj.input_scale"), |f| {
        in_fp8(f);
        f.shard(|s| s.remove("model.layers.0.mlp.down_proj.input_scale"));
    }),
    (Check::PeerShape, "model.safetensors", Some(DOWN), |f| {
        let (rows, columns) = down_shape(f);
        f.json("config.json", |c| c["model_type"] = "novel".into());
        f.entry(DOWN, "shape", json!([columns, rows]));
    }),
    (Check::PeerDtype, "model.safetensors", Some(DOWN), |f| {
        let (rows, columns) = down_shape(f);
        in_fp8(f);
        f.shard(|s| {
            ["weight", "weight_scale", "input_scale"].iter().for_each(|end| s.remove(&DOWN.replace("weight", end)));
            s.push(DOWN, "F32", &[rows, columns], &[[0, 0, 0x80, 0x3f], [0, 0, 0, 0x3f]].concat().repeat(rows * columns / 2));
        });
    }),
    (Check::PackingBroken, "model.safetensors", Some(DOWN), |f| {
        in_fp8(f);
        f.shard(|s| s.remove("model.layers.0.mlp.down_proj.weight_scale"));
    }),
    (Check::PackingBroken, "model.safetensors", Some(DOWN), |f| {
        in_fp8(f);
        f.entry("model.layers.0.mlp.down_proj.weight_scale", "dtype", "I32".into());
    }),
    (Check::PackingBroken, "config.json", None, |f| {
        f.json("config.json", |c| c["quantization_config"] = json!({"quant_method": "fp8"}));
    }),
    (Check::PackingBroken, "config.json", None, |f| {
        in_fp8(f);
        f.json("config.json", |c| c["quantization_config"]["weight_block_size"] = json!([128, 128]));
    }),
    (Check::PackingBroken, "config.json", None, |f| {
        in_fp8(f);
        f.json("config.json", |c| c["quantization_config"] = compressed("Linear", "int"));
    }),
    (Check::PackingLeftOver, "model.safetensors", Some("model.layers.0.mlp.down_proj.weight_scale"), |f| {
        in_fp8(f);
        f.shard(|s| s.remove(DOWN));
    }),
    (Check::PackedIgnored, "model.safetensors", Some(DOWN), |f| {
        in_fp8(f);
        f.json("config.json", |c| c["quantization_config"]["modules_to_not_convert"] = json!(["model.layers.0.mlp.down_proj"]));
    }),
    (Check::PackedIgnored, "config.json", None, |f| {
        in_fp8(f);
        f.json("config.json", |c| c["quantization_config"] = compressed("re:.*self_attn.*", "float"));
    }),
    (Check::TensorMissing, "config.json", None, |f| {
        in_fp8(f);
        f.json("config.json", |c| c["quantization_config"]["activation_scheme"] = "static".into());
        f.shard(|s| s.header.clone().keys().filter(|name| name.ends_with("input_scale")).for_each(|name| s.remove(name)));
    }),
    (Check::ScaleValue, "model.safetensors", Some("model.layers.0.mlp.down_proj.weight_scale"), |f| {
        in_fp8(f);
        f.values("model.layers.0.mlp.down_proj.weight_scale", [0], 0.0);
    }),
    (Check::ScaleValue, "model.safetensors", Some("model.layers.0.mlp.down_proj.input_scale"), |f| {
        in_fp8(f);
        f.values("model.layers.0.mlp.down_proj.input_scale", [0], -1.0);
    }),
    (Check::ScaleValue, "model.safetensors", Some("model.layers.1.mlp.up_proj.weight_scale"), |f| {
        in_fp8(f);
        f.values("model.layers.1.mlp.up_proj.weight_scale", [0], 8.0);
    }),
    (Check::ScaleDiffers, "model.safetensors", Some("model.layers.1.mlp.up_proj.weight_scale_2"), |f| {
        in_nvfp4(f);
        f.values("model.layers.1.mlp.up_proj.weight_scale_2", [0], 2e-3);
    }),
    (Check::ZeroRow, "model.safetensors", Some(DOWN), |f| {
        let (_, columns) = down_shape(f);
        in_nvfp4(f);
        // A positive and a negative zero a byte.
        f.shard(|s| {
            let codes = s.range(DOWN);
            s.data[codes][columns / 2 * 3..columns / 2 * 4].fill(0x80);
        });
    }),
    (Check::ZeroTensor, "model.safetensors", Some("model.layers.1.input_layernorm.weight"), |f| {
        f.json("config.json", |c| c["model_type"] = "novel".into());
        f.values("model.layers.1.input_layernorm.weight", 0..40, 0.0);
    }),
    (Check::Nan, "model.safetensors", Some("x"), |f| f.shard(|s| s.push("x", "F8_E8M0", &[4], &[1, 0xff, 2, 3]))),
    (Check::ConstantTensor, "model.safetensors", Some(DOWN), |f| {
        let (rows, columns) = down_shape(f);
        f.values(DOWN, 0..rows * columns, 0.5);
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
        let first = RawShard::read(&f.path(FIRST));
        let name = first.header.keys().find(|n| *n != "__metadata__").unwrap();
        let mut second = RawShard::read(&f.path(SECOND));
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

#[test]
fn what_trips_a_check_trips_it() {
    assert!(!cases().is_empty());
}

/// What each case gives, and the folder that it was in. That no check is without one, the test of all rules says.
pub fn cases() -> Vec<(PathBuf, Observation)> {
    let whole = TRIPPED.iter().map(|case| (Folder::whole(), case));
    let sharded = TRIPPED_SHARDED.iter().map(|case| (Folder::sharded(), case));
    #[cfg(unix)]
    let unix = TRIPPED_UNIX.iter().map(|case| (Folder::whole(), case));
    #[cfg(not(unix))]
    let unix = std::iter::empty();
    let case = |(folder, (check, file, tensor, harm)): (Folder, &(Check, &str, Option<&str>, Break))| {
        harm(&folder);
        let seen = run(folder.0.path()).observations;
        let is_it = |at: &Location| at.file == *file && tensor.is_none_or(|t| at.tensor.as_deref() == Some(t));
        let found = seen.iter().find(|o| o.check == *check && is_it(&o.location));
        let found = found.unwrap_or_else(|| panic!("{check}: {seen:#?}"));
        (folder.0.path().to_owned(), found.clone())
    };
    whole.chain(sharded).chain(unix).map(case).collect()
}

/// The receipt of a spare, as far as lint reads it.
const HARDENED: &str = r#"{
    "schema": "achilles-audit/patch/v1", "tool": {"name": "achilles-audit", "version": "0.1.0"},
    "time_utc": "2026-11-27T20:00:00Z", "state": "applied",
    "model": {"source": "m", "architecture": "LlamaForCausalLM", "config_sha256": ""},
    "asked": [{"neuron": "model.layers.1.mlp.down_proj:in:9", "beta": null, "set_to": null, "values": "AAAAAA=="}],
    "spares": [{"stands_for": "model.layers.0.mlp.down_proj:out:3", "row": "model.layers.1.mlp.down_proj:out:3",
        "neurons": ["model.layers.1.mlp.down_proj:in:9"]}],
    "rounding": {"worst_relative": 0, "tensor": null, "to_zero": 0}, "files": [], "edits": [],
    "undo": {"name": "achilles-patch.undo", "bytes": 0, "sha256": ""}}"#;
