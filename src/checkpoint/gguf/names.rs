//! llama.cpp's names of weights that have Hugging Face's, for its own tools.

use super::families::ARCHITECTURES;
use super::rule::{Role, Rule};

/// What a GGUF calls a weight, without the `.weight` of both; none where the family is not known. All experts of a layer
/// are one tensor there.
pub fn module_name(model_type: &str, module: &str) -> Option<String> {
    // Families that are read as others they compute the same as.
    let family = match model_type {
        "qwen2_vl_text" | "qwen2_5_vl_text" => "qwen2",
        "qwen3_vl_text" => "qwen3",
        "qwen3_vl_moe_text" => "qwen3_moe",
        "kimi_k2" | "glm4_moe_lite" => "deepseek_v3",
        "granitemoeshared" => "granitemoe",
        other => other,
    };
    let family = ARCHITECTURES.iter().find(|known| known.model_type == family)?;
    let (without_expert, is_expert) = match module.split_once(".experts.") {
        Some((start, rest)) => (format!("{start}.experts.{{e}}.{}", rest.split_once('.')?.1), true),
        None => (module.to_owned(), false),
    };
    let named = |rule: &Rule| {
        let (gguf, hf) = (rule.gguf.strip_suffix(".weight")?, rule.hf.strip_suffix(".weight")?);
        if is_expert != matches!(rule.role, Role::Expert(_)) {
            return None;
        }
        match hf.split_once("{}") {
            Some((before, after)) => {
                let layer = without_expert.strip_prefix(before)?.strip_suffix(after)?;
                layer.parse::<usize>().is_ok().then(|| gguf.replace("{}", layer))
            }
            None => (hf == without_expert).then(|| gguf.to_owned()),
        }
    };
    family.rules().find_map(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_cpp() {
        let rows = [
            ("llama", "model.layers.11.mlp.down_proj", Some("blk.11.ffn_down")),
            ("mistral", "model.layers.0.self_attn.o_proj", Some("blk.0.attn_output")),
            ("phi3", "model.layers.2.self_attn.qkv_proj", Some("blk.2.attn_qkv")),
            ("mixtral", "model.layers.3.block_sparse_moe.experts.5.w2", Some("blk.3.ffn_down_exps")),
            ("qwen3_moe", "model.layers.3.mlp.experts.7.up_proj", Some("blk.3.ffn_up_exps")),
            ("gemma4_text", "model.layers.3.experts.7.down_proj", Some("blk.3.ffn_down_exps")),
            ("glm4_moe_lite", "model.layers.3.mlp.shared_experts.up_proj", Some("blk.3.ffn_up_shexp")),
            ("lfm2", "model.layers.0.conv.out_proj", Some("blk.0.shortconv.out_proj")),
            ("qwen3_vl_text", "model.layers.0.mlp.gate_proj", Some("blk.0.ffn_gate")),
            ("llama", "lm_head", Some("output")),
            ("llama", "model.layers.x.mlp.down_proj", None),
            ("mamba", "model.layers.0.mlp.down_proj", None),
        ];
        for (family, module, expected) in rows {
            assert_eq!(module_name(family, module).as_deref(), expected, "{family} {module}");
        }
    }
}
