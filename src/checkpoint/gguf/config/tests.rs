use super::super::GgufCheckpoint;
use super::super::families::rules::EMBEDDING;
use super::super::header::ValueType;
use super::super::writer::{MODELS, Writer, expected, fixture};
use super::*;
use crate::architecture::Recipe;
use crate::checkpoint::ConfigFile;

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
    for family in MODELS {
        let checkpoint = GgufCheckpoint::open(&fixture(&format!("tiny-{family}.gguf"))).unwrap();
        let expected = expected(&format!("tiny-{family}.json"));
        for (key, value) in expected["config"].as_object().unwrap() {
            assert_eq!(checkpoint.config().get(key), Some(value), "{family}: {key}");
        }
        let theta = if family == "gemma3" { 1e6 } else { 10_000.0 };
        assert_eq!(checkpoint.config()["rope_theta"], theta);
        assert_eq!(checkpoint.config()["head_dim"], 8);
    }
}

fn config_of(name: &str) -> Map<String, Value> {
    GgufCheckpoint::open(&fixture(&format!("tiny-{name}.gguf"))).unwrap().config().clone()
}

#[test]
fn the_decoder_reads_every_config() {
    for family in MODELS {
        let config = config_of(family);
        let layers = config["num_hidden_layers"].as_u64().unwrap() as usize;
        let recipe = Recipe::read(&ConfigFile::from_map(std::path::Path::new(family), config)).unwrap();
        assert_eq!(recipe.layers.len(), layers);
    }
}

#[test]
fn windows_caps_and_scales_are_the_familys() {
    let gemma2 = config_of("gemma2");
    assert_eq!((&gemma2["attn_logit_softcapping"], &gemma2["final_logit_softcapping"]), (&json!(50.0), &json!(20.0)));
    assert_eq!((&gemma2["sliding_window"], &gemma2["query_pre_attn_scalar"]), (&json!(16), &json!(8)));
    assert_eq!(gemma2["layer_types"], json!(["sliding_attention", "full_attention"]));
    let gemma3 = config_of("gemma3");
    assert_eq!(gemma3["rope_scaling"], json!({"rope_type": "linear", "factor": 8.0}));
    assert_eq!(gemma3["rope_local_base_freq"], 10_000.0);
    assert_eq!(gemma3["final_logit_softcapping"], Value::Null);
    assert_eq!(gemma3["layer_types"], json!(["sliding_attention", "full_attention"]));
    let phi3 = config_of("phi3");
    let factors =
        json!({"type": "longrope", "long_factor": [1.0, 1.5, 4.0, 8.25], "short_factor": [1.0, 1.0, 1.25, 1.5]});
    assert_eq!(phi3["rope_scaling"], factors);
    assert_eq!((&phi3["original_max_position_embeddings"], &phi3["sliding_window"]), (&json!(64), &json!(100)));
}

/// What a file's metadata say of RoPE and attention, without the model's tensors.
fn attention_of(
    name: &str,
    layers: u32,
    change: impl FnOnce(&mut Writer) -> &mut Writer,
) -> Result<Map<String, Value>> {
    let mut writer = Writer::new();
    for (key, n) in
        [("context_length", 4096), ("embedding_length", 48), ("feed_forward_length", 6), ("block_count", layers)]
    {
        writer.u32(&format!("{name}.{key}"), n);
    }
    writer.u32(&format!("{name}.attention.head_count"), 4).u32(&format!("{name}.attention.key_length"), 8);
    change(&mut writer);
    for at in 0..layers {
        writer.ramp(&format!("t{at}"), &[1]);
    }
    writer.ramp(EMBEDDING, &[5, 48]);
    let file = writer.file();
    let file = GgufFile::open(file.path())?;
    let architecture = families::find(name, &file).unwrap();
    let (sizes, mut config) = (measure(&file, architecture)?, Map::new());
    rope::write(&file, architecture, &sizes, &mut config)?;
    attention::write(&file, architecture, &sizes, &mut config)?;
    Ok(config)
}

#[test]
fn what_older_files_leave_out_is_the_familys_default() {
    let gemma2 = attention_of("gemma2", 3, |w| w).unwrap();
    assert_eq!((&gemma2["attn_logit_softcapping"], &gemma2["final_logit_softcapping"]), (&json!(50.0), &json!(30.0)));
    assert_eq!((&gemma2["sliding_window"], &gemma2["rope_theta"]), (&json!(4096), &json!(10_000.0)));
    assert_eq!(attention_of("gemma2", 46, |w| w).unwrap()["query_pre_attn_scalar"], 12);
    let gemma3 = attention_of("gemma3", 7, |w| w).unwrap();
    assert_eq!((&gemma3["rope_theta"], &gemma3["rope_local_base_freq"]), (&json!(1e6), &json!(1e4)));
    assert_eq!(gemma3["layer_types"], json!(vec!["full_attention"; 7]));
    let gemma3 = attention_of("gemma3", 7, |w| w.u32("gemma3.attention.sliding_window", 512)).unwrap();
    let windows: Vec<bool> =
        gemma3["layer_types"].as_array().unwrap().iter().map(|t| t == "sliding_attention").collect();
    assert_eq!(windows, [true, true, true, true, true, false, true]);
    assert_eq!(attention_of("phi3", 32, |w| w).unwrap()["sliding_window"], 2047);
    assert_eq!(attention_of("phi3", 4, |w| w).unwrap()["sliding_window"], Value::Null);
    assert_eq!(
        attention_of("phi3", 32, |w| w.u32("phi3.attention.sliding_window", 0)).unwrap()["sliding_window"],
        Value::Null
    );
}

#[test]
fn rope_of_phi3_can_turn_a_part_and_have_its_own_factor() {
    let longrope = |w: &mut Writer| {
        w.u32("phi3.rope.dimension_count", 6).u32("phi3.rope.scaling.original_context_length", 1024);
        w.floats("rope_factors_long.weight", &[3], &[1.0, 2.0, 3.0]);
        w.floats("rope_factors_short.weight", &[3], &[1.0, 1.0, 1.5]).clone()
    };
    let config = attention_of("phi3", 4, |w| {
        longrope(w);
        w.f32("phi3.rope.scaling.attn_factor", 1.25)
    });
    let config = config.unwrap();
    assert_eq!(config["partial_rotary_factor"], 0.75);
    assert_eq!(config["rope_scaling"]["attention_factor"], 1.25);
    let without = attention_of("phi3", 4, |w| {
        longrope(w);
        w.without("rope_factors_short.weight")
    });
    assert!(without.unwrap_err().to_string().contains("rope_factors_short.weight"));
    let odd = attention_of("phi3", 4, |w| w.u32("phi3.rope.dimension_count", 5));
    assert!(odd.unwrap_err().to_string().contains("rope.dimension_count"));
    let local = attention_of("phi3", 4, |w| w.f32("phi3.rope.freq_base_swa", 1.0));
    assert!(local.unwrap_err().to_string().contains("freq_base_swa"));
}

#[test]
fn parts_of_models_are_named() {
    let part = refused(|w| w.u32("split.count", 3).u32("split.no", 1));
    assert!(part.contains("part 2 of 3 of a split GGUF") && part.contains("NAME-00001-of-00003.gguf"), "{part}");
    assert!(open(|w| w.u32("split.count", 1)).is_ok());
    assert!(refused(|w| w.str("general.architecture", "clip")).contains("mmproj"));
    assert!(refused(|w| w.str("general.type", "mmproj")).contains("mmproj"));
    assert!(refused(|w| w.str("general.type", "adapter")).contains("is adapter, expected a whole model"));
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
    for key in ["block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"] {
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
    assert!(refused(|w| w.u32("llama.expert_count", 8)).contains("blk.0.ffn_gate_inp.weight"));
    let qwen = |w: &mut Writer| {
        w.keys.iter_mut().for_each(|(key, ..)| *key = key.replace("llama.", "qwen2."));
        w.str("general.architecture", "qwen2").u32("qwen2.expert_count", 8).clone()
    };
    assert!(
        refused(|w| {
            *w = qwen(w);
            w
        })
        .contains("mixture of experts")
    );
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
