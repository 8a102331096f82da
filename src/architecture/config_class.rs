//! What the config classes of transformers assume where a config.json leaves a key out. Versions 4 and 5 assume the
//! same.

use super::rope_config::RopeClass;

/// What a family's config class assumes where a key is absent, as transformers has it.
pub(super) struct Class {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub layers: usize,
    pub heads: usize,
    /// None where they are as many as heads.
    pub kv_heads: Option<usize>,
    /// `null` says that they are as many as heads.
    pub null_kv_heads: bool,
    /// None where it is hidden size / heads.
    pub head_dim: Option<usize>,
    pub rms_norm_eps: f64,
    pub tied: bool,
    /// `sliding_window`.
    pub window: Option<usize>,
    pub rope: RopeClass,
}

pub(super) const LLAMA: Class = Class {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    null_kv_heads: true,
    head_dim: None,
    rms_norm_eps: 1e-6,
    tied: false,
    window: None,
    rope: RopeClass { theta: 10_000.0, positions: 2048, is_phi: false },
};
pub(super) const MISTRAL: Class = Class {
    intermediate_size: 14_336,
    kv_heads: Some(8),
    window: Some(4096),
    rope: RopeClass { positions: 131_072, ..LLAMA.rope },
    ..LLAMA
};
pub(super) const MIXTRAL: Class =
    Class { rms_norm_eps: 1e-5, window: None, rope: RopeClass { theta: 1_000_000.0, ..MISTRAL.rope }, ..MISTRAL };
pub(super) const QWEN2: Class = Class {
    vocab_size: 151_936,
    intermediate_size: 22_016,
    kv_heads: Some(32),
    window: Some(4096),
    rope: RopeClass { positions: 32_768, ..LLAMA.rope },
    ..LLAMA
};
pub(super) const QWEN3: Class = Class { head_dim: Some(128), ..QWEN2 };
pub(super) const QWEN3_MOE: Class =
    Class { hidden_size: 2048, intermediate_size: 6144, layers: 24, kv_heads: Some(4), null_kv_heads: false, ..QWEN2 };
pub(super) const GEMMA: Class = Class {
    vocab_size: 256_000,
    hidden_size: 3072,
    intermediate_size: 24_576,
    layers: 28,
    heads: 16,
    kv_heads: Some(16),
    null_kv_heads: false,
    head_dim: Some(256),
    tied: true,
    rope: RopeClass { positions: 8192, ..LLAMA.rope },
    ..LLAMA
};
pub(super) const GEMMA2: Class = Class {
    hidden_size: 2304,
    intermediate_size: 9216,
    layers: 26,
    heads: 8,
    kv_heads: Some(4),
    window: Some(4096),
    ..GEMMA
};
/// With the rotary embedding of its full layers.
pub(super) const GEMMA3: Class =
    Class { vocab_size: 262_208, rope: RopeClass { theta: 1_000_000.0, positions: 131_072, is_phi: false }, ..GEMMA2 };
pub(super) const PHI3: Class = Class {
    vocab_size: 32_064,
    hidden_size: 3072,
    intermediate_size: 8192,
    rms_norm_eps: 1e-5,
    rope: RopeClass { positions: 4096, is_phi: true, ..LLAMA.rope },
    ..LLAMA
};
pub(super) const OLMO2: Class = Class { vocab_size: 50_304, rms_norm_eps: 1e-5, ..LLAMA };
