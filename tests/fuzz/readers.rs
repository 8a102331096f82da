//! The readers of what a checkpoint, which is hostile input, says of itself: what each of them reads, and sound inputs
//! to start from. `main.rs` and `coverage/` change these.

use achilles_audit::architecture::Recipe;
use achilles_audit::checkpoint::gguf::{GgufCheckpoint, GgufFile};
use achilles_audit::checkpoint::header::Header;
use achilles_audit::checkpoint::index::{Index, is_plain_shard};
use achilles_audit::checkpoint::packing::Axis;
use achilles_audit::checkpoint::{Checkpoint, ConfigFile, Opened};
use achilles_audit::evaluate::corpus::{Corpus, Reading};
use achilles_audit::evaluate::text::Tokenizer;
use achilles_audit::integrity::fingerprint::Fingerprint;
use achilles_audit::integrity::{lint, signature};
use achilles_audit::neuron::{Action, Intervention};
use achilles_audit::patch::{self, Plan, Receipt};
use achilles_audit::probe::ChatTemplate;
use achilles_audit::progress::Silent;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// One reader.
pub struct Reader {
    pub name: &'static str,
    /// Reads bytes, whatever they are.
    pub read: fn(&[u8]),
    /// Sound inputs.
    pub seeds: &'static [&'static [u8]],
    /// Bytes that it may allocate besides twice the input's length.
    pub allowance: usize,
}

/// JSON's shortest values (`0,`) take 20 times their text: readers bound their number, not the factor.
pub const USUAL: usize = 16 << 20;
/// As many values as settings may hold (160,000), each an object of one key.
const SETTINGS: usize = 96 << 20;

/// All of them. A new one is an entry here.
pub const READERS: &[Reader] = &[
    Reader { name: "header", read: header, seeds: &[LLAMA, PHI3], allowance: USUAL },
    Reader { name: "index", read: index, seeds: &[INDEX], allowance: USUAL },
    Reader {
        name: "config",
        read: config,
        seeds: &[LLAMA_CONFIG, GEMMA3_CONFIG, PHI3_CONFIG, QWEN3_MOE_CONFIG],
        allowance: SETTINGS,
    },
    Reader {
        name: "tokenizer-config",
        read: tokenizer_config,
        seeds: &[TOKENIZER_CONFIG, TEMPLATES],
        allowance: SETTINGS,
    },
    Reader { name: "tokenizer", read: tokenizer, seeds: &[TOKENIZER, BYTE_LEVEL, UNIGRAM], allowance: USUAL },
    Reader { name: "chat-template", read: chat_template, seeds: &[CHAT, LOOPS], allowance: USUAL },
    Reader { name: "gguf", read: gguf, seeds: &[GGUF_LLAMA, GGUF_GEMMA, GGUF_TYPES], allowance: USUAL },
    Reader { name: "packed", read: packed, seeds: PACKED, allowance: USUAL },
    Reader { name: "receipt", read: receipt, seeds: &[RECEIPT], allowance: USUAL },
    Reader { name: "receipt-undone", read: receipt_undone, seeds: &[RECEIPT], allowance: USUAL },
    Reader { name: "fingerprint", read: fingerprint, seeds: FINGERPRINTS, allowance: USUAL },
    Reader { name: "parquet", read: parquet, seeds: &[SNAPPY, ZSTD], allowance: USUAL },
    Reader { name: "signature", read: signature, seeds: &[SIGNED_BY_KEY, SIGNED_BY_CERTIFICATE], allowance: USUAL },
];

fn header(bytes: &[u8]) {
    let strict = Header::read(bytes);
    let mut told = 0;
    let loose = Header::examine(bytes, bytes.len() as u64, &mut |_| told += 1);
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
        && recipe.fewest_tensors(|_| None) < 100
    {
        assert!(!recipe.tensors().is_empty());
    }
}

fn tokenizer_config(bytes: &[u8]) {
    lint::examine_json("tokenizer_config.json", bytes);
}

/// A text of more than one script, and what is made of it.
fn tokenizer(bytes: &[u8]) {
    const TEXT: &str = "hello  world, eee 12345: \u{fdfa}\u{e9}\u{1f600} fuzz\n\t A";
    let Ok(json) = std::str::from_utf8(bytes) else { return };
    let Ok(tokenizer) = Tokenizer::parse(Path::new("tokenizer.json"), json) else { return };
    if let Ok(ids) = tokenizer.ids(TEXT) {
        assert!(ids.len() <= 4 * TEXT.len() + 64);
        let _ = tokenizer.decode(&ids);
    }
}

fn chat_template(bytes: &[u8]) {
    let Ok(template) = std::str::from_utf8(bytes) else { return };
    let special_tokens = BTreeMap::from([("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned())]);
    let chat = ChatTemplate::new("chat_template.jinja".into(), template.to_owned(), special_tokens);
    if let Ok(text) = chat.render("What is the capital of France?") {
        assert!(text.len() <= 33 << 10);
    }
}

fn gguf(bytes: &[u8]) {
    let path = PLACE.join("model.gguf");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(file) = GgufFile::examine(&path) {
        let _ = file.tokenizer_json();
        let _ = file.tokenizer_config_json();
        let _ = file.generation_config_json();
        let opened = Opened::open(path.to_str().unwrap(), &Silent).unwrap();
        lint::lint(&opened, None, &Silent).unwrap();
    }
    if let Ok(gguf) = GgufCheckpoint::open(&path) {
        let _ = Recipe::read(&ConfigFile::from_map(&path, gguf.config().clone()));
        for (name, shape) in gguf.tensors().take(3) {
            let _ = gguf.rows(name, 0..shape.first().copied().unwrap_or(1).min(2));
        }
    }
}

/// A checkpoint of one file, in whose metadata its config is; none where its header is broken.
pub fn packed_model(bytes: &[u8]) -> Option<Arc<Opened>> {
    let header = Header::read(bytes).ok()?;
    let folder = PLACE.join("packed");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    std::fs::write(folder.join("config.json"), header.metadata.get("config").map_or("{}", String::as_str)).unwrap();
    Some(Arc::new(Opened::open(folder.to_str().unwrap(), &Silent).unwrap()))
}

/// What is packed is examined, decoded and masked.
fn packed(bytes: &[u8]) {
    let Some(opened) = packed_model(bytes) else { return };
    lint::lint(&opened, None, &Silent).unwrap();
    let Ok(checkpoint) = Checkpoint::of(&opened) else { return };
    for (_, weight) in checkpoint.tensors().packed() {
        let Ok(weight) = weight else { continue };
        let layout = weight.layout();
        for rows in layout.row_chunks() {
            let _ = weight.rows(rows);
        }
        let _ = weight.columns::<f32>(&[0, layout.columns.saturating_sub(1)]);
        let _ = weight.own_scales(layout.rows.saturating_sub(1));
        let _ = weight.zero_codes(Axis::Row, layout.rows.saturating_sub(1));
        let _ = weight.zero_codes(Axis::Column, layout.columns.saturating_sub(1));
    }
}

/// Where files are put that are read by name.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = std::env::temp_dir().join(format!("achilles-audit-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    place
});

fn receipt(bytes: &[u8]) {
    let _ = Receipt::parse(Path::new("achilles-patch.json"), bytes);
}

/// A patched model, and its bytes before.
struct Patched {
    folder: PathBuf,
    before: Vec<u8>,
    after: Vec<u8>,
    undo: Vec<u8>,
}

static PATCHED: LazyLock<Patched> = LazyLock::new(|| {
    let (model, folder) = (PLACE.join("model"), PLACE.join("patched"));
    std::fs::create_dir_all(&model).unwrap();
    for (name, bytes) in [("config.json", LINEAR_CONFIG), ("model.safetensors", PATCHED_FROM)] {
        std::fs::write(model.join(name), bytes).unwrap();
    }
    let checkpoint = Checkpoint::open(model.to_str().unwrap(), &Silent).unwrap();
    let recipe = Recipe::read(checkpoint.config()).unwrap();
    let neurons = ["model.layers.0.mlp.down_proj:out:1", "model.layers.1.self_attn.q_proj:in:2"];
    let halved = neurons.map(|neuron| Intervention { neuron: neuron.parse().unwrap(), action: Action::Scale(0.5) });
    let plan = Plan::new(&checkpoint, &recipe, &halved).unwrap();
    patch::write_new(&checkpoint, &plan, &folder, patch::WriteSettings::default(), &Silent).unwrap();
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let (after, undo) = (read("model.safetensors"), read("achilles-patch.undo"));
    Patched { before: PATCHED_FROM.to_vec(), after, undo, folder }
});

/// Whatever a receipt says, the weights are then those before or after the patch, and nothing else.
fn receipt_undone(bytes: &[u8]) {
    let Patched { folder, before, after, undo } = &*PATCHED;
    for (name, bytes) in
        [("model.safetensors", after.as_slice()), ("achilles-patch.undo", undo), ("achilles-patch.json", bytes)]
    {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    let undone = patch::unpatch(folder);
    let found = std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(found == *before || found == *after, "{undone:?}");
}

fn fingerprint(bytes: &[u8]) {
    let _ = std::str::from_utf8(bytes).map(Fingerprint::parse);
}

fn parquet(bytes: &[u8]) {
    let path = PLACE.join("corpus.parquet");
    std::fs::write(&path, bytes).unwrap();
    let _ = Corpus::open(path.to_str().unwrap(), &Reading::default(), &Silent);
}

fn signature(bytes: &[u8]) {
    let _ = signature::examine(bytes);
}

const TOKENIZER: &[u8] = include_bytes!("../../fixtures/tokenizer.json");
const BYTE_LEVEL: &[u8] = include_bytes!("tokenizer.json");
const UNIGRAM: &[u8] = include_bytes!("unigram.json");
const CHAT: &[u8] =
    b"{% macro turn(m) %}<|{{ m.role }}|>{{ m['content'] | trim }}{{ eos_token }}{% endmacro %}{{ bos_token }}\
{% for m in messages %}{{ turn(m) }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}";
const LOOPS: &[u8] = b"{% set ns = namespace(x='ab', l=[1, 'b', {'c': none}]) %}{% for i in range(9) %}{% set ns.x = ns.x * 2 ~ i %}\
{% set ns.l = [ns.l, ns.l[0:1]] + [i] %}{% endfor %}{{ ns.x.replace('a', 'bb').split('b') | join('-') | upper | indent(3) | length }}\
{{ '%05d' | format(7) }}{{ '{:>9}'.format(ns.l | length) }}{{ ns.l | tojson | length }}{{ ns.l == ns.l }}{{ range(20) | batch(3) | list }}";
const GGUF_LLAMA: &[u8] = include_bytes!("../../fixtures/gguf/tiny-llama.gguf");
const GGUF_GEMMA: &[u8] = include_bytes!("../../fixtures/gguf/tiny-gemma.gguf");
const GGUF_TYPES: &[u8] = include_bytes!("../../fixtures/gguf/types.gguf");
/// `packed.py` writes them.
const PACKED: &[&[u8]] = &[
    include_bytes!("packed/fp8_block.safetensors"),
    include_bytes!("packed/fp8_block_e8m0.safetensors"),
    include_bytes!("packed/ct_fp8_channel.safetensors"),
    include_bytes!("packed/ct_int8_asym.safetensors"),
    include_bytes!("packed/ct_w4a16_asym.safetensors"),
    include_bytes!("packed/ct_w4a16_actorder.safetensors"),
    include_bytes!("packed/ct_w3a16.safetensors"),
    include_bytes!("packed/ct_nvfp4.safetensors"),
    include_bytes!("packed/ct_mxfp4.safetensors"),
    include_bytes!("packed/modelopt_nvfp4.safetensors"),
    include_bytes!("packed/mxfp4_gpt_oss.safetensors"),
    include_bytes!("packed/gptq_4bit_desc_act.safetensors"),
    include_bytes!("packed/gptq_3bit.safetensors"),
    include_bytes!("packed/awq_gemm.safetensors"),
    include_bytes!("packed/bnb_nf4_nested.safetensors"),
    include_bytes!("packed/bnb_fp4.safetensors"),
    include_bytes!("packed/bnb_int8.safetensors"),
];
const LINEAR_CONFIG: &[u8] = include_bytes!("../../fixtures/llama/config.json");
const PATCHED_FROM: &[u8] = include_bytes!("../../fixtures/llama/model.safetensors");
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
/// Of the first form and of the second.
const FINGERPRINTS: &[&[u8]] = &[include_bytes!("fingerprint.v1.json"), include_bytes!("fingerprint.json")];
const SNAPPY: &[u8] = include_bytes!("../../fixtures/parquet/snappy.parquet");
const ZSTD: &[u8] = include_bytes!("../../fixtures/parquet/zstd.parquet");
const SIGNED_BY_KEY: &[u8] = include_bytes!("../../fixtures/oms/signatures/key-p256.sig");
const SIGNED_BY_CERTIFICATE: &[u8] = include_bytes!("../../fixtures/oms/signatures/certificate-p256-code-signing.sig");
