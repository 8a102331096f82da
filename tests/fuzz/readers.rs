//! The readers of what a checkpoint, which is hostile input, says of itself: what each of them reads, and sound inputs
//! to start from. `tests/fuzz/main.rs` and `fuzz/` change these.

use achilles_audit::checkpoint::ConfigFile;
use achilles_audit::checkpoint::header::Header;
use achilles_audit::checkpoint::index::{Index, is_plain_shard};
use achilles_audit::integrity::fingerprint::Fingerprint;
use achilles_audit::integrity::{lint, signature};
use achilles_audit::model::Recipe;
use achilles_audit::patch::Receipt;
use std::path::Path;

/// One reader.
pub struct Reader {
    pub name: &'static str,
    /// Reads bytes, whatever they are.
    pub read: fn(&[u8]),
    /// Sound inputs.
    pub seeds: &'static [&'static [u8]],
}

/// All of them. A new one is an entry here.
pub const READERS: &[Reader] = &[
    Reader { name: "header", read: header, seeds: &[LLAMA, PHI3] },
    Reader { name: "index", read: index, seeds: &[INDEX] },
    Reader { name: "config", read: config, seeds: &[LLAMA_CONFIG, GEMMA3_CONFIG, PHI3_CONFIG, QWEN3_MOE_CONFIG] },
    Reader { name: "tokenizer-config", read: tokenizer_config, seeds: &[TOKENIZER_CONFIG, TEMPLATES] },
    Reader { name: "receipt", read: receipt, seeds: &[RECEIPT] },
    Reader { name: "fingerprint", read: fingerprint, seeds: &[FINGERPRINT] },
    Reader { name: "signature", read: signature, seeds: &[SIGNED_BY_KEY, SIGNED_BY_CERTIFICATE] },
];

fn header(bytes: &[u8]) {
    let strict = Header::read(bytes);
    let mut told = 0;
    let loose = Header::examine(bytes, &mut |_| told += 1);
    // One reader, however it is asked.
    assert_eq!(strict.is_ok(), told == 0);
    if let Ok(strict) = strict {
        assert_eq!(strict, loose);
        assert!(strict.tensors.iter().all(|t| t.bytes.end <= bytes.len() as u64));
    }
}

fn index(bytes: &[u8]) {
    if let Ok(index) = std::str::from_utf8(bytes).map_err(drop).and_then(|text| Index::parse(text).map_err(drop)) {
        for (_, shard) in &index.weight_map {
            let stays = |shard| Path::new("folder").join(shard).parent() == Some(Path::new("folder"));
            assert!(!is_plain_shard(shard) || stays(shard), "{shard:?}");
        }
    }
}

fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(config) = ConfigFile::parse(Path::new("config.json"), text) else { return };
    if let Ok(recipe) = Recipe::read(&config)
        && recipe.fewest_tensors() < 100
    {
        assert!(!recipe.tensors().is_empty());
    }
}

fn tokenizer_config(bytes: &[u8]) {
    lint::examine_json("tokenizer_config.json", bytes);
}

fn receipt(bytes: &[u8]) {
    let _ = Receipt::parse(Path::new("achilles-patch.json"), bytes);
}

fn fingerprint(bytes: &[u8]) {
    let _ = std::str::from_utf8(bytes).map(Fingerprint::parse);
}

fn signature(bytes: &[u8]) {
    let _ = signature::examine(bytes);
}

const LLAMA: &[u8] = include_bytes!("../../fixtures/llama_linear/model.safetensors");
const PHI3: &[u8] = include_bytes!("../../fixtures/phi3_short/model.safetensors");
const LLAMA_CONFIG: &[u8] = include_bytes!("../../fixtures/llama3/config.json");
const GEMMA3_CONFIG: &[u8] = include_bytes!("../../fixtures/gemma3/config.nested.json");
const PHI3_CONFIG: &[u8] = include_bytes!("../../fixtures/phi3/config.v4.json");
const QWEN3_MOE_CONFIG: &[u8] = include_bytes!("../../fixtures/qwen3_moe/config.json");
const INDEX: &[u8] = br#"{"metadata": {"total_size": 1024.0}, "weight_map": {
    "lm_head.weight": "model-00002-of-00002.safetensors",
    "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
    "model.layers.0.mlp.down_proj.weight": "model-00001-of-00002.safetensors"}}"#;
const TOKENIZER_CONFIG: &[u8] = br#"{"added_tokens_decoder": {"0": {"content": "<s>", "special": true}},
    "chat_template": "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>' + m['role'] ~ \"\\x5f\" }}{% else %}{# no #}{{ m.content | trim }}{% endif %}{% endfor %}{% raw %}{{ a }}{% endraw %}"}"#;
const TEMPLATES: &[u8] = br#"{"auto_map": {"AutoTokenizer": ["a.B", null]}, "chat_template": [
    {"name": "default", "template": "{{ x['__cla' 'ss__'] }}"}, {"name": "tool_use", "template": "{{ {'a': {}}|attr(y) }}"}]}"#;
const RECEIPT: &[u8] = include_bytes!("receipt.json");
const FINGERPRINT: &[u8] = include_bytes!("fingerprint.json");
const SIGNED_BY_KEY: &[u8] = include_bytes!("../../fixtures/oms/signatures/key-p256.sig");
const SIGNED_BY_CERTIFICATE: &[u8] = include_bytes!("../../fixtures/oms/signatures/certificate-p256-code-signing.sig");
