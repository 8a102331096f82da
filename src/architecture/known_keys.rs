//! Keys of a config that no family asks for: which of them cannot change what a forward pass computes.
//!
//! Config classes keep keys that they do not know and never look at them again. Code that comes with a checkpoint may
//! look at them, so a key is let be only where its name or its value says that it changes nothing.

use crate::checkpoint::config::Reader;
use serde_json::Value;

/// Keys that say nothing about the arithmetic of a forward pass without dropout.
const HARMLESS: &[&str] = &[
    "architectures",
    "attn_implementation",
    "auto_map",
    "base_model_pp_plan",
    "base_model_tp_plan",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "cls_token_id",
    // Read by checkpoint::quantization, as are its other spellings.
    "compression_config",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "experts_implementation",
    "finetuning_task",
    "flash_attention",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "mask_token_id",
    "max_position_embeddings",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "model_max_length",
    "model_type",
    "name_or_path",
    "neftune_noise_alpha",
    "num_labels",
    // Read where the type of rope scaling uses it; some configs have it beside others.
    "original_max_position_embeddings",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "quantization",
    "quantization_config",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "router_z_loss_coef",
    "sep_token_id",
    "seq_length",
    "task_specific_params",
    "tf_legacy_loss",
    "tie_last_hidden_states",
    "tokenizer_class",
    "tokenizer_model_max_length",
    "tokenizer_padding_side",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
    "use_liger_kernel",
];

/// Settings of text generation, which transformers 4 kept in config.json.
const GENERATION: &[&str] = &[
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_p",
    "no_repeat_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "target_lookbehind",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
];

/// What every family here does: a switch of this name that is off asks for other arithmetic.
const ALWAYS_ON: &[&str] = &[
    "causal",
    "causal_attention",
    "causal_mask",
    "final_norm",
    "gated_mlp",
    "glu",
    "norm_topk_prob",
    "pre_norm",
    "rms_norm",
    "rmsnorm",
    "rope",
    "rotary",
    "rotary_emb",
    "rotary_embedding",
    "rotary_embeddings",
    "rotary_position_embedding",
    "rotary_position_embeddings",
    "scale_attn_weights",
    "swiglu",
];

/// What such names may begin with.
const AUXILIARIES: &[&str] = &["add_", "apply_", "enable_", "has_", "is_", "use_", "with_"];

/// Words with which a switch that is off says that something is there.
const NEGATIONS: &[&str] = &["disable", "disabled", "exclude", "no", "non", "not", "remove", "skip", "without"];

/// Words of what counts or bounds: there 1 is no neutral value.
const COUNTS: &[&str] = &[
    "base",
    "cap",
    "chunk",
    "clamp",
    "clip",
    "count",
    "dense",
    "dim",
    "dims",
    "end",
    "eps",
    "epsilon",
    "every",
    "expert",
    "experts",
    "first",
    "freq",
    "frequency",
    "group",
    "groups",
    "head",
    "heads",
    "idx",
    "index",
    "interval",
    "k",
    "kernel",
    "last",
    "layer",
    "layers",
    "len",
    "length",
    "limit",
    "max",
    "min",
    "n",
    "num",
    "number",
    "offset",
    "pattern",
    "period",
    "position",
    "positions",
    "rank",
    "replace",
    "size",
    "softcap",
    "softcapping",
    "start",
    "step",
    "steps",
    "stride",
    "theta",
    "topk",
    "window",
];

/// The keys of `c` with a value that nobody has asked for and that may change the arithmetic.
pub(super) fn unknown<'a>(c: &Reader<'a>, known: &[&str]) -> Vec<&'a str> {
    let harmless = |key: &str, value: &Value| {
        // A repository's kernels are code, which computes what it likes.
        if key.ends_with("_implementation") && value.to_string().contains('/') {
            return false;
        }
        let named = key.starts_with('_') || HARMLESS.contains(&key) || GENERATION.contains(&key);
        named || known.contains(&key) || changes_nothing(key, value)
    };
    c.unused().into_iter().filter(|(key, value)| !harmless(key, value)).map(|(key, _)| key).collect()
}

/// Whether it is a switch that is off, a multiplier that is 1, nothing in brackets, or of use in training only.
pub(crate) fn changes_nothing(key: &str, value: &Value) -> bool {
    let key = key.to_ascii_lowercase();
    let has_word = |words: &[&str]| key.split(['_', '-', '.']).any(|word| words.contains(&word));
    let bare = AUXILIARIES.iter().find_map(|word| key.strip_prefix(word)).unwrap_or(&key);
    match value {
        _ if key.contains("dropout") || key.ends_with("pdrop") || has_word(&["loss"]) => true,
        Value::Bool(on) => !on && !has_word(NEGATIONS) && !ALWAYS_ON.contains(&bare),
        Value::Number(n) => n.as_f64() == Some(1.0) && !has_word(COUNTS),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn switches_that_are_off_and_multipliers_of_one_change_nothing() {
        for (key, value) in [
            ("use_mrope", json!(false)),
            ("lm_head_bias", json!(false)),
            ("rope_interleaved", json!(false)),
            ("full_attn_mod", json!(1)),
            ("logit_scale", json!(1.0)),
            ("hidden_dropout_prob", json!(0.1)),
            ("embd_pdrop", json!(0)),
            ("router_z_loss", json!(0.001)),
            ("pruned_heads", json!({})),
            ("no_rope_layers", json!([])),
        ] {
            assert!(changes_nothing(key, &value), "{key} {value}");
        }
    }

    #[test]
    fn what_may_change_the_arithmetic_does_not_pass_for_off() {
        for (key, value) in [
            ("use_mrope", json!(true)),
            ("configuration_files", json!(["config.4.0.0.json"])),
            ("logit_scale", json!(0.5)),
            ("logit_scale", json!(0)),
            // Off, they say that something is there, or take away what all families have.
            ("no_bias", json!(false)),
            ("disable_qk_norm", json!(false)),
            ("is_causal", json!(false)),
            ("use_rope", json!(false)),
            ("norm_topk_prob", json!(false)),
            ("scale_attn_weights", json!(false)),
            // Counts and bounds, not multipliers.
            ("attention_chunk_size", json!(1)),
            ("first_k_dense_replace", json!(1)),
            ("attn_logit_softcapping", json!(1.0)),
            ("layer_norm_eps", json!(1.0)),
            ("no_rope_layers", json!([1, 0])),
            ("rope_ratio", json!("1")),
        ] {
            assert!(!changes_nothing(key, &value), "{key} {value}");
        }
    }
}
