//! Builds GGUF files for tests.

use super::header::ValueType;
use std::io::Write;

/// A GGUF in the making.
#[derive(Clone)]
pub(crate) struct Writer {
    pub version: u32,
    pub alignment: usize,
    /// Key, type and value as bytes.
    pub keys: Vec<(String, u32, Vec<u8>)>,
    /// Name, shape (outermost first), type and data.
    pub tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

impl Writer {
    pub fn new() -> Writer {
        Writer { version: 3, alignment: 32, keys: Vec::new(), tensors: Vec::new() }
    }

    /// A llama of one layer, without a tokenizer.
    pub fn llama() -> Writer {
        let mut w = Writer::new();
        w.str("general.architecture", "llama");
        let sizes = [("block_count", 1), ("context_length", 16), ("embedding_length", 8), ("feed_forward_length", 6)];
        for (name, n) in sizes {
            w.u32(&format!("llama.{name}"), n);
        }
        w.u32("llama.attention.head_count", 2);
        w.u32("llama.attention.head_count_kv", 1);
        w.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        w.ramp("token_embd.weight", &[5, 8]);
        w.ramp("output_norm.weight", &[8]);
        for (name, shape) in [
            ("attn_norm", &[8][..]),
            ("attn_q", &[8, 8]),
            ("attn_k", &[4, 8]),
            ("attn_v", &[4, 8]),
            ("attn_output", &[8, 8]),
            ("ffn_norm", &[8]),
            ("ffn_gate", &[6, 8]),
            ("ffn_up", &[6, 8]),
            ("ffn_down", &[8, 6]),
        ] {
            w.ramp(&format!("blk.0.{name}.weight"), shape);
        }
        w
    }

    pub fn key(&mut self, key: &str, ty: ValueType, value: &[u8]) -> &mut Writer {
        self.keys.retain(|(k, ..)| k != key);
        self.keys.push((key.to_owned(), ty as u32, value.to_vec()));
        self
    }

    pub fn without(&mut self, name: &str) -> &mut Writer {
        self.keys.retain(|(k, ..)| k != name);
        self.tensors.retain(|(n, ..)| n != name);
        self
    }

    pub fn str(&mut self, key: &str, value: &str) -> &mut Writer {
        self.key(key, ValueType::Text, &text(value))
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Writer {
        self.key(key, ValueType::U32, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Writer {
        self.key(key, ValueType::F32, &value.to_le_bytes())
    }

    pub fn bool(&mut self, key: &str, value: bool) -> &mut Writer {
        self.key(key, ValueType::Bool, &[value.into()])
    }

    pub fn strs(&mut self, key: &str, values: &[&str]) -> &mut Writer {
        self.array(key, ValueType::Text, values.len(), &values.iter().flat_map(|v| text(v)).collect::<Vec<_>>())
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Writer {
        self.array(key, ValueType::I32, values.len(), &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Writer {
        self.array(key, ValueType::F32, values.len(), &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }

    pub fn array(&mut self, key: &str, element: ValueType, count: usize, bytes: &[u8]) -> &mut Writer {
        let value = [&(element as u32).to_le_bytes()[..], &(count as u64).to_le_bytes(), bytes].concat();
        self.key(key, ValueType::Array, &value)
    }

    pub fn tensor(&mut self, name: &str, shape: &[usize], ty: u32, data: &[u8]) -> &mut Writer {
        self.tensors.retain(|(n, ..)| n != name);
        self.tensors.push((name.to_owned(), shape.to_vec(), ty, data.to_vec()));
        self
    }

    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Writer {
        self.tensor(name, shape, 0, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())
    }

    /// An f32 tensor of 0, 1, 2, …
    pub fn ramp(&mut self, name: &str, shape: &[usize]) -> &mut Writer {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
        self.floats(name, shape, &values)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut head = b"GGUF".to_vec();
        head.extend(self.version.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.keys.len() as u64).to_le_bytes());
        for (key, ty, value) in &self.keys {
            head.extend(text(key));
            head.extend(ty.to_le_bytes());
            head.extend(value);
        }
        let mut data = Vec::new();
        for (name, shape, ty, bytes) in &self.tensors {
            head.extend(text(name));
            head.extend((shape.len() as u32).to_le_bytes());
            head.extend(shape.iter().rev().flat_map(|n| (*n as u64).to_le_bytes()));
            head.extend(ty.to_le_bytes());
            head.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        head.resize(head.len().next_multiple_of(self.alignment), 0);
        [head, data].concat()
    }

    pub fn file(&self) -> tempfile::NamedTempFile {
        file_of(&self.bytes())
    }
}

/// A temporary file of these bytes.
pub(crate) fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// The whole models of `fixtures/gguf`, `tiny-{}.gguf`, in order.
pub(crate) const MODELS: [&str; 8] = ["gemma", "gemma2", "gemma3", "llama", "llama-spm", "phi3", "qwen2", "qwen3"];

/// The files of `fixtures/gguf/converted`, in order.
pub(crate) const CONVERTED: [&str; 32] = [
    "cohere2",
    "deepseek_v2",
    "deepseek_v3",
    "ernie4_5",
    "exaone4",
    "gemma4",
    "gemma4_moe",
    "glm4",
    "glm4_moe",
    "glm4_moe_lite",
    "gpt_oss",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "hunyuan_v1_dense",
    "lfm2",
    "minimax_m2",
    "ministral3",
    "mistral3",
    "mistral4",
    "mixtral",
    "olmo2",
    "olmo3",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_vl",
    "qwen3_vl_moe",
    "seed_oss",
    "smollm3",
];

/// A file of `fixtures/gguf`.
pub(crate) fn fixture(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf").join(name)
}

/// A JSON file of `fixtures/gguf`.
pub(crate) fn expected(name: &str) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}
