//! llama.cpp's names of weights that have Hugging Face's, for its own tools.

use super::architecture::ARCHITECTURES;

/// What a GGUF calls a weight, without the `.weight` of both; none where the family is not known. All experts of a layer
/// are one tensor there.
pub fn module_name(model_type: &str, module: &str) -> Option<String> {
    // Families that llama.cpp has under another's name, or calls their projections the same.
    let family = match model_type {
        "mistral" | "mixtral" | "olmo2" => "llama",
        "qwen3_moe" => "qwen3",
        other => other,
    };
    let family = ARCHITECTURES.iter().find(|known| known.model_type == family)?;
    if let Some((start, expert)) = module.split_once(".experts.") {
        let layer = start.strip_prefix("model.layers.")?.split('.').next()?;
        let part = match expert.split_once('.')?.1 {
            "gate_proj" | "w1" => "gate",
            "up_proj" | "w3" => "up",
            "down_proj" | "w2" => "down",
            _ => return None,
        };
        return Some(format!("blk.{layer}.ffn_{part}_exps"));
    }
    let named = |gguf: &str, hf: &str| {
        let (gguf, hf) = (gguf.strip_suffix(".weight")?, hf.strip_suffix(".weight")?);
        match hf.split_once("{}") {
            Some((before, after)) => {
                let layer = module.strip_prefix(before)?.strip_suffix(after)?;
                layer.parse::<usize>().is_ok().then(|| gguf.replace("{}", layer))
            }
            None => (hf == module).then(|| gguf.to_owned()),
        }
    };
    family.groups.iter().flat_map(|(rules, _)| *rules).find_map(|rule| named(rule.gguf, rule.hf))
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
            ("llama", "lm_head", Some("output")),
            ("llama", "model.layers.x.mlp.down_proj", None),
            ("mamba", "model.layers.0.mlp.down_proj", None),
        ];
        for (family, module, expected) in rows {
            assert_eq!(module_name(family, module).as_deref(), expected, "{family} {module}");
        }
    }
}
