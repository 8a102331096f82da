use super::super::GgufCheckpoint;
use super::super::header::ValueType;
use super::super::writer::{Writer, expected, fixture};
use super::*;

fn open(change: impl FnOnce(&mut Writer) -> &mut Writer) -> Result<GgufCheckpoint> {
    let mut writer = Writer::llama();
    change(&mut writer);
    GgufCheckpoint::open(writer.file().path())
}

fn refused(change: impl FnOnce(&mut Writer) -> &mut Writer) -> String {
    let problem = open(change).unwrap_err().to_string();
    assert!(!problem.contains('\n'), "{problem}");
    problem
}

#[test]
fn whole_models_have_the_config_that_transformers_reads() {
    for family in ["llama", "qwen2", "qwen3"] {
        let checkpoint = GgufCheckpoint::open(&fixture(&format!("tiny-{family}.gguf"))).unwrap();
        let expected = expected(&format!("tiny-{family}.json"));
        for (key, value) in expected["config"].as_object().unwrap() {
            assert_eq!(checkpoint.config().get(key), Some(value), "{family}: {key}");
        }
        assert_eq!(checkpoint.config()["rope_theta"], 10_000.0);
        assert_eq!(checkpoint.config()["head_dim"], 8);
    }
}

#[test]
fn biases_and_scaling_come_from_the_tensors() {
    let checkpoint = GgufCheckpoint::open(&fixture("tiny-llama.gguf")).unwrap();
    let config = checkpoint.config();
    assert_eq!((&config["attention_bias"], &config["mlp_bias"]), (&json!(true), &json!(true)));
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    assert_eq!(config["rope_scaling"], scaling);
    let plain = open(|w| w).unwrap();
    assert_eq!(plain.config()["attention_bias"], false);
    assert!(!plain.config().contains_key("rope_scaling"));
}

#[test]
fn scaling_in_the_metadata_is_taken_over() {
    let linear = open(|w| w.str("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 2.0));
    assert_eq!(linear.unwrap().config()["rope_scaling"], json!({"rope_type": "linear", "factor": 2.0}));
    let legacy = open(|w| w.f32("llama.rope.scale_linear", 4.0));
    assert_eq!(legacy.unwrap().config()["rope_scaling"]["factor"], 4.0);
    let yarn = open(|w| {
        w.str("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0);
        w.u32("llama.rope.scaling.original_context_length", 4)
    });
    let expected = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4});
    assert_eq!(yarn.unwrap().config()["rope_scaling"], expected);
    assert!(refused(|w| w.str("llama.rope.scaling.type", "longrope")).contains("longrope"));
    assert!(refused(|w| w.str("llama.rope.scaling.type", "linear")).contains("llama.rope.scaling.factor"));
}

#[test]
fn an_output_layer_unties() {
    assert_eq!(open(|w| w).unwrap().config()["tie_word_embeddings"], true);
    let untied = open(|w| w.ramp("output.weight", &[5, 8])).unwrap();
    assert_eq!(untied.config()["tie_word_embeddings"], false);
    assert!(untied.tensors().any(|(name, shape)| name == "lm_head.weight" && shape == [5, 8]));
}

#[test]
fn missing_metadata_is_named() {
    for key in ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"]
    {
        let key = format!("llama.{key}");
        assert!(refused(|w| w.without(&key)).contains(&format!("metadata {key} is missing")), "{key}");
        assert!(refused(|w| w.u32(&key, 0)).contains(&key), "{key}");
    }
    let epsilon = "llama.attention.layer_norm_rms_epsilon";
    assert!(refused(|w| w.without(epsilon)).contains(epsilon));
    assert!(refused(|w| w.without("general.architecture")).contains("general.architecture"));
    // As many key heads as query heads, where the file does not say.
    let problem = refused(|w| w.without("llama.attention.head_count_kv"));
    assert!(problem.contains("blk.0.attn_k.weight: has shape [4, 8], expected [8, 8]"), "{problem}");
}

#[test]
fn what_the_family_does_not_do_is_named() {
    assert!(refused(|w| w.str("general.architecture", "mamba")).contains("mamba"));
    assert!(refused(|w| w.u32("llama.expert_count", 8)).contains("mixture of experts"));
    assert!(open(|w| w.u32("llama.expert_count", 0)).is_ok());
    assert!(refused(|w| w.f32("llama.attention.scale", 0.1)).contains("llama.attention.scale"));
    assert!(refused(|w| w.bool("llama.attention.causal", false)).contains("not causal"));
    assert!(open(|w| w.bool("llama.attention.causal", true)).is_ok());
    assert!(refused(|w| w.u32("llama.attention.sliding_window", 8)).contains("sliding"));
    assert!(open(|w| w.u32("llama.attention.sliding_window", 16)).is_ok());
    assert!(refused(|w| w.u32("llama.rope.dimension_count", 2)).contains("rope.dimension_count"));
    assert!(refused(|w| w.u32("llama.attention.head_count_kv", 3)).contains("divisor of 2"));
    let per_layer = 2u32.to_le_bytes();
    let key = "llama.attention.head_count";
    assert!(refused(|w| w.array(key, ValueType::U32, 1, &per_layer)).contains("array of 1 u32"));
    assert!(refused(|w| w.u32("llama.block_count", u32::MAX)).contains("only 11 tensors"));
}

#[test]
fn tensors_are_all_there_and_no_more() {
    let name = "blk.0.ffn_up.weight";
    assert!(refused(|w| w.without(name)).contains("tensor blk.0.ffn_up.weight: is missing"));
    assert!(refused(|w| w.ramp(name, &[8, 6])).contains("expected [6, 8]"));
    assert!(refused(|w| w.ramp("blk.0.extra.weight", &[8])).contains("blk.0.extra.weight"));
    assert!(refused(|w| w.ramp("blk.0.attn_q.bias", &[8])).contains("blk.0.attn_k.bias: is missing"));
    assert!(refused(|w| w.tensor(name, &[6, 8], 26, &[0; 192])).contains("type I32"));
    let problem = refused(|w| w.ramp(rope::FACTORS, &[3]));
    assert!(problem.contains("rope_freqs.weight: has shape [3], expected [2]"), "{problem}");
}
