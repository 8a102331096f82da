//! The families that can be read from a GGUF. A further one is a further entry of [`ARCHITECTURES`].

mod gemma;
mod hybrids;
mod latent;
mod llama;
mod mixtures;
mod norms;
mod qwen;
pub(super) mod rules;

pub(super) use gemma::LAYER_TABLE;

use super::Checked;
use super::architecture::{Architecture, Form, Rope, When, Window};
use super::file::GgufFile;

/// Every family; of those of one `general.architecture`, the one that all others are goes last.
pub(super) static ARCHITECTURES: &[&Architecture] = &[
    &llama::MIXTRAL,
    &llama::LLAMA,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &qwen::QWEN2_VL,
    &qwen::QWEN3_VL,
    &qwen::QWEN3_VL_MOE,
    &hybrids::QWEN3_NEXT,
    &hybrids::QWEN3_5,
    &hybrids::QWEN3_5_MOE,
    &llama::MINISTRAL3,
    &llama::MISTRAL3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gemma::GEMMA4,
    &llama::PHI3,
    &hybrids::LFM2,
    &mixtures::GPT_OSS,
    &latent::DEEPSEEK_V3,
    &latent::DEEPSEEK_V2,
    &latent::MISTRAL4,
    &norms::GLM4,
    &mixtures::GLM4_MOE,
    &mixtures::MINIMAX_M2,
    &norms::OLMO3,
    &norms::OLMO2,
    &llama::GRANITE,
    &llama::GRANITE_MOE,
    &llama::SMOLLM3,
    &llama::ERNIE4_5,
    &llama::HUNYUAN,
    &llama::SEED_OSS,
    &norms::EXAONE4,
    &norms::COHERE2,
];

/// What most have in common; `groups` are each family's.
const USUAL: Architecture = Architecture {
    name: "",
    when: When::Always,
    model_type: "",
    class: "",
    activation: (&["hidden_act"], "silu"),
    interleaves_heads: false,
    adds_one_to_norms: false,
    tiles_value_heads: false,
    form: Form::Attention,
    has_experts: false,
    groups: &[],
    constants: &[],
    settings: &[],
    epsilon: ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    rope: Rope::PLAIN,
    window: Window::Never,
    caps: &[],
    scalar_exception: None,
    stacks: None,
    scores: 1,
    reads: &[],
    own: |_, _, _| Ok(()),
};

/// The family of a file of this architecture; the error is a text that lists those there are.
pub(super) fn find(name: &str, file: &GgufFile) -> Checked<&'static Architecture> {
    let mut named = ARCHITECTURES.iter().copied().filter(|a| a.name == name);
    named.find(|a| a.when.is_so(file, name)).ok_or_else(|| {
        let mut known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
        known.dedup();
        let problem = format!("architecture {name} is not supported in a GGUF; supported are {}", known.join(", "));
        format!("{problem}; for others use the model's safetensors")
    })
}

#[cfg(test)]
mod tests {
    use super::super::rule::Rule;
    use super::super::writer::Writer;
    use super::*;

    #[test]
    fn unknown_families_are_named_with_those_there_are() {
        let file = Writer::llama().file();
        let error = find("mamba", &GgufFile::open(file.path()).unwrap()).unwrap_err();
        assert!(error.contains("mamba") && error.contains("llama, qwen2, qwen3"), "{error}");
    }

    #[test]
    fn no_two_tensors_of_a_family_share_a_name() {
        for architecture in ARCHITECTURES {
            let rules: Vec<&Rule> = architecture.rules().collect();
            for (at, a) in rules.iter().enumerate() {
                assert!(rules[..at].iter().all(|b| a.gguf != b.gguf && a.hf != b.hf), "{}", a.gguf);
            }
        }
    }

    #[test]
    fn what_tells_families_of_one_name_apart_leaves_none_out() {
        for (at, architecture) in ARCHITECTURES.iter().enumerate() {
            let is_last = ARCHITECTURES[at + 1..].iter().all(|other| other.name != architecture.name);
            assert_eq!(is_last, matches!(architecture.when, When::Always), "{}", architecture.model_type);
        }
    }
}
