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
    /// The key of ε.
    pub norm_eps_key: &'static str,
    pub tied: bool,
    /// `sliding_window`.
    pub window: Option<usize>,
    pub rope: RopeClass,
}
