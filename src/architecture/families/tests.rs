use super::FAMILIES;
use crate::architecture::Recipe;
use crate::architecture::module::{Module, ModuleKind};
use crate::architecture::token_mixer::TokenMixer;
use crate::checkpoint::ConfigFile;
use crate::error::Result;
use crate::neuron::{Neuron, Side, Site};
use serde_json::{Value, json};
use std::path::Path;

/// A config of this family with `changes` to it, in which "absent" takes a key away.
fn config(model_type: &str, changes: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 64
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config.as_object_mut().unwrap().retain(|_, value| *value != "absent");
    config
}

fn read(config: &Value) -> Result<Recipe> {
    Recipe::read(&ConfigFile::parse(Path::new("config.json"), &config.to_string()).unwrap())
}

#[track_caller]
fn recipe(model_type: &str, changes: Value) -> Recipe {
    read(&config(model_type, changes)).unwrap()
}

/// The message names all of `words`, in one line.
#[track_caller]
fn refused(config: &Value, words: &[&str]) {
    let message = read(config).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    for word in words {
        assert!(message.contains(word), "{word} is not in {message}");
    }
}

/// vocabulary, hidden, intermediate, layers, heads, key heads, head width, ε, tied: as the classes of transformers 4
/// and 5 have them.
#[test]
fn a_config_of_nothing_is_the_classs_own() {
    type Sizes = (usize, usize, usize, usize, usize, usize, usize, f64, bool);
    let expected: &[(&str, Sizes)] = &[
        ("llama", (32_000, 4096, 11_008, 32, 32, 32, 128, 1e-6, false)),
        ("mistral", (32_000, 4096, 14_336, 32, 32, 8, 128, 1e-6, false)),
        ("qwen2", (151_936, 4096, 22_016, 32, 32, 32, 128, 1e-6, false)),
        ("qwen3", (151_936, 4096, 22_016, 32, 32, 32, 128, 1e-6, false)),
        ("gemma", (256_000, 3072, 24_576, 28, 16, 16, 256, 1e-6, true)),
        ("gemma2", (256_000, 2304, 9216, 26, 8, 4, 256, 1e-6, true)),
        ("gemma3_text", (262_208, 2304, 9216, 26, 8, 4, 256, 1e-6, true)),
        ("gemma4_text", (262_144, 2304, 9216, 30, 8, 4, 256, 1e-6, true)),
        ("phi3", (32_064, 3072, 8192, 32, 32, 32, 96, 1e-5, false)),
        ("olmo2", (50_304, 4096, 11_008, 32, 32, 32, 128, 1e-5, false)),
        ("mixtral", (32_000, 4096, 14_336, 32, 32, 8, 128, 1e-5, false)),
        ("qwen3_moe", (151_936, 2048, 768, 24, 32, 4, 64, 1e-6, false)),
        ("lfm2", (65_536, 2560, 8192, 32, 32, 8, 80, 1e-5, true)),
        ("qwen3_next", (151_936, 2048, 512, 48, 16, 2, 256, 1e-6, false)),
        ("qwen3_5_moe_text", (248_320, 2048, 512, 40, 16, 2, 256, 1e-6, false)),
        ("qwen3_5_text", (248_320, 4096, 12_288, 32, 16, 4, 256, 1e-6, false)),
        ("qwen2_vl_text", (152_064, 8192, 29_568, 80, 64, 8, 128, 1e-5, false)),
        ("qwen2_5_vl_text", (152_064, 8192, 29_568, 80, 64, 8, 128, 1e-5, false)),
        ("qwen3_vl_text", (151_936, 4096, 22_016, 32, 32, 32, 128, 1e-6, false)),
        ("qwen3_vl_moe_text", (151_936, 2048, 1408, 24, 16, 16, 128, 1e-6, false)),
        ("glm4", (151_552, 4096, 13_696, 40, 32, 2, 128, 1.5625e-7, false)),
        ("minimax_m2", (200_064, 3072, 1536, 62, 48, 8, 128, 1e-6, false)),
        ("granite", (32_000, 4096, 11_008, 32, 32, 32, 128, 1e-6, false)),
        ("granitemoe", (32_000, 4096, 11_008, 32, 32, 32, 128, 1e-6, false)),
        ("granitemoeshared", (32_000, 4096, 11_008, 32, 32, 32, 128, 1e-6, false)),
        ("smollm3", (128_256, 2048, 11_008, 36, 16, 4, 128, 1e-6, true)),
        ("olmo3", (50_304, 4096, 11_008, 32, 32, 32, 128, 1e-5, false)),
        ("ernie4_5", (103_424, 1024, 3072, 18, 16, 2, 128, 1e-5, true)),
        ("hunyuan_v1_dense", (290_943, 4096, 11_008, 32, 32, 32, 128, 1e-5, false)),
        ("exaone4", (102_400, 4096, 16_384, 32, 32, 32, 128, 1e-5, false)),
        ("cohere2", (256_000, 8192, 22_528, 40, 64, 64, 128, 1e-5, true)),
        ("seed_oss", (155_136, 4096, 27_648, 64, 80, 8, 128, 1e-6, false)),
    ];
    // Of which a config of nothing is none, or whose attention is not of this kind.
    let others = [
        "ministral3",
        "gpt_oss",
        "deepseek_v3",
        "kimi_k2",
        "deepseek_v2",
        "glm4_moe_lite",
        "mistral4",
        "glm4_moe",
        "granitemoehybrid",
    ];
    assert_eq!(expected.len() + others.len(), FAMILIES.len());
    for &(model_type, sizes) in expected {
        let r = read(&json!({ "model_type": model_type })).unwrap();
        let a = (0..r.layers.len()).find_map(|layer| r.attention(layer)).unwrap();
        let wide = r.layers[0].channel_mixer.mlp().intermediate_size;
        let found = (
            r.vocab_size,
            r.hidden_size,
            wide,
            r.layers.len(),
            a.heads,
            a.kv_heads,
            a.head_dim,
            r.norm.epsilon,
            r.tied,
        );
        assert_eq!(found, sizes, "{model_type}");
    }
    let positions = |model_type: &str, positions: usize| {
        let yarn = |more: Value| {
            let mut changes =
                json!({"max_position_embeddings": "absent", "rope_scaling": {"rope_type": "yarn", "factor": 2.0}});
            changes["max_position_embeddings"] = more;
            recipe(model_type, changes)
        };
        assert_eq!(yarn("absent".into()), yarn(positions.into()), "{model_type}");
        assert_ne!(yarn("absent".into()), yarn((positions / 2).into()), "{model_type}");
    };
    for (model_type, of_class) in
        [("llama", 2048), ("mistral", 131_072), ("qwen2", 32_768), ("gemma2", 8192), ("gemma3_text", 131_072)]
    {
        positions(model_type, of_class);
    }
}

#[test]
fn null_is_what_the_class_makes_of_it() {
    for model_type in ["llama", "mistral", "mixtral", "qwen2", "phi3"] {
        assert_eq!(recipe(model_type, json!({"num_key_value_heads": null})).attention(0).unwrap().kv_heads, 4);
    }
    for (model_type, key) in [
        ("gemma2", "num_key_value_heads"),
        ("qwen3_moe", "num_key_value_heads"),
        ("gemma", "head_dim"),
        ("qwen3", "head_dim"),
        ("gemma", "tie_word_embeddings"),
        ("gemma", "hidden_act"),
        ("gemma2", "hidden_activation"),
        ("gemma2", "query_pre_attn_scalar"),
        ("llama", "rms_norm_eps"),
        ("llama", "rope_theta"),
        ("llama", "hidden_size"),
        ("qwen2", "max_window_layers"),
        ("mixtral", "num_local_experts"),
    ] {
        refused(&config(model_type, json!({ key: null })), &[key, "found null"]);
    }
}

#[test]
fn what_changes_nothing_is_let_be() {
    let plain = recipe("llama", json!({}));
    for changes in [
        json!({"use_mrope": false}),
        json!({"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false}),
        json!({"max_sequence_length": 2048, "do_sample": true, "temperature": 0.7, "max_length": 4096}),
        json!({"gradient_checkpointing": true, "use_bfloat16": true, "attention_probs_dropout_prob": 0.1}),
        json!({"is_causal": true, "quantization_config": null, "task_specific_params": {}}),
        json!({"rope_scaling": {}, "rope_parameters": {}}),
        json!({"rope_scaling": {"type": "default", "factor": 1.0}}),
        json!({"original_max_position_embeddings": 32}),
        json!({"rope_theta": 10000.0, "rope_parameters": {"rope_theta": 10000, "partial_rotary_factor": 1.0}}),
    ] {
        assert_eq!(recipe("llama", changes.clone()), plain, "{changes}");
    }
    for changes in [
        json!({"is_causal": false}),
        json!({"no_bias": false}),
        json!({"use_rope": false}),
        json!({"embedding_multiplier": 2.0}),
        json!({"attention_chunk_size": 1}),
        json!({"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 3.0}}),
        json!({"rope_interleave": true}),
    ] {
        assert!(read(&config("llama", changes.clone())).is_err(), "{changes}");
    }
}

#[test]
fn numbers_inside_and_outside_of_the_rope_object_agree_or_are_refused() {
    let yarn = |more: Value| {
        let mut r = json!({"rope_type": "yarn", "factor": 4.0});
        r.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        r
    };
    let inside = recipe("qwen2", json!({"rope_scaling": yarn(json!({"original_max_position_embeddings": 16}))}));
    let both = json!({"rope_scaling": yarn(json!({"original_max_position_embeddings": 16})), "original_max_position_embeddings": 16});
    assert_eq!(recipe("qwen2", both), inside);
    let old = json!({"rope_theta": 500.0, "rope_scaling": yarn(json!({}))});
    let new = json!({"rope_parameters": yarn(json!({"rope_theta": 500.0}))});
    assert_eq!(recipe("qwen2", old.clone()), recipe("qwen2", new.clone()));
    let both =
        json!({"rope_theta": 500.0, "rope_scaling": old["rope_scaling"], "rope_parameters": new["rope_parameters"]});
    assert_eq!(recipe("qwen2", both), recipe("qwen2", old));

    // A config saved by transformers 5, to which the documented block was added.
    let added = json!({
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "rope_scaling": yarn(json!({"original_max_position_embeddings": 16}))
    });
    let words =
        ["rope_scaling", "yarn by 4 from 16 positions with rope_theta 10000", "default with rope_theta 1000000"];
    refused(&config("qwen2", added), &words);
    let theta = json!({"rope_theta": 700.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}});
    refused(&config("llama", theta), &["rope_theta", "700", "500", "transformers 5", "transformers 4"]);
    let original = json!({"rope_scaling": yarn(json!({"original_max_position_embeddings": 16})), "original_max_position_embeddings": 40});
    refused(&config("llama", original), &["transformers 5 computes with 40", "16"]);
    let outside = json!({"rope_scaling": yarn(json!({})), "original_max_position_embeddings": 16});
    refused(&config("llama", outside), &["transformers 5 computes with 16", "64"]);
    let kinds = json!({"rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0}});
    refused(&config("llama", kinds), &["linear", "dynamic", "transformers 5", "transformers 4"]);
    refused(&config("llama", json!({"rope_scaling": {"type": "su", "factor": 2.0}})), &["\"su\""]);
}

#[test]
fn yarns_numbers_are_pythons() {
    let yarn = |more: Value| {
        let mut r = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
        for (key, value) in more.as_object().unwrap() {
            r[key] = value.clone();
        }
        recipe("llama", json!({"rope_theta": 50.0, "rope_scaling": r}))
    };
    let plain = yarn(json!({}));
    for same in [
        json!({"beta_fast": 0, "beta_slow": 0}),
        json!({"beta_fast": 32, "beta_slow": null, "truncate": true}),
        // 64 positions of 16.
        json!({"factor": null}),
        json!({"mscale": 0, "mscale_all_dim": 1}),
        json!({"finetuned": true, "extrapolation_factor": 1.0}),
    ] {
        assert_eq!(yarn(same.clone()), plain, "{same}");
    }
    assert_ne!(yarn(json!({"truncate": null})), plain);
    assert_eq!(yarn(json!({"truncate": null})), yarn(json!({"truncate": false})));
}

#[test]
fn phi3_has_longrope_by_several_names_and_a_part_rotated() {
    let factors =
        |kind: &str, n: usize| json!({"type": kind, "short_factor": vec![1.0; n], "long_factor": vec![2.0; n]});
    let longrope = recipe("phi3", json!({"rope_scaling": factors("longrope", 4)}));
    for kind in ["su", "yarn"] {
        assert_eq!(recipe("phi3", json!({"rope_scaling": factors(kind, 4)})), longrope);
    }
    // The class's own original length.
    assert_eq!(
        recipe("phi3", json!({"rope_scaling": factors("su", 4), "original_max_position_embeddings": 4096})),
        longrope
    );
    let mut inside = factors("longrope", 4);
    inside["original_max_position_embeddings"] = 16.into();
    refused(&config("phi3", json!({"rope_scaling": inside})), &["transformers 5 computes with 4096", "16"]);

    let part = recipe("phi3", json!({"rope_scaling": factors("longrope", 3), "partial_rotary_factor": 0.75}));
    let mut inside = factors("longrope", 3);
    inside["partial_rotary_factor"] = 0.75.into();
    assert_eq!(recipe("phi3", json!({"rope_scaling": inside})), part);
    let both = json!({"rope_scaling": inside, "partial_rotary_factor": 0.5});
    refused(&config("phi3", both), &["partial_rotary_factor", "0.75", "0.5", "transformers 5", "transformers 4"]);
    refused(&config("phi3", json!({"rope_scaling": {"type": "linear", "factor": 2.0}})), &["default or longrope"]);
    refused(&config("phi3", json!({"partial_rotary_factor": 0.4})), &["partial_rotary_factor", "even share"]);
    refused(&config("phi3", json!({"rope_scaling": factors("su", 5)})), &["short_factor"]);
}

#[test]
fn gemma3_is_read_as_transformers_reads_it_or_not_at_all() {
    let linear = |key: &str| json!({"rope_scaling": {key: "linear", "factor": 8.0}});
    let nested = |full: Value| json!({"rope_parameters": {"full_attention": full, "sliding_attention": {"rope_type": "default"}}});
    let full = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6});
    assert_eq!(recipe("gemma3_text", linear("rope_type")), recipe("gemma3_text", nested(full.clone())));
    let only_full = json!({"rope_parameters": {"full_attention": full, "sliding_attention": null}});
    assert_eq!(recipe("gemma3_text", only_full), recipe("gemma3_text", linear("rope_type")));
    let by_type = json!({"type": "linear", "factor": 8.0, "rope_theta": 1e6});
    assert_eq!(recipe("gemma3_text", nested(by_type)), recipe("gemma3_text", linear("rope_type")));
    refused(&config("gemma3_text", linear("type")), &["rope_scaling.type", "transformers 5", "transformers 4"]);
    let yarn = |more: Value| {
        let mut r = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
        r.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        nested(r)
    };
    assert_eq!(recipe("gemma3_text", yarn(json!({"truncate": true}))), recipe("gemma3_text", yarn(json!({}))));
    refused(&config("gemma3_text", yarn(json!({"truncate": false}))), &["truncate", "transformers 5"]);
    let mut outside = yarn(json!({}));
    outside["original_max_position_embeddings"] = 32.into();
    refused(&config("gemma3_text", outside), &["transformers 5 computes with 16", "32"]);
    let mut both = nested(json!({"rope_type": "default"}));
    both["rope_scaling"] = json!({"rope_type": "linear", "factor": 8.0});
    refused(&config("gemma3_text", both), &["linear by 8 with rope_theta 1000000", "default with rope_theta 1000000"]);
    let slides = json!({"sliding_window": null});
    refused(&config("gemma3_text", slides), &["sliding_window", "window in use"]);

    let whole = |outer: Value, text: Value| {
        let mut whole = json!({"model_type": "gemma3", "text_config": config("gemma3_text", text)});
        whole.as_object_mut().unwrap().extend(outer.as_object().unwrap().clone());
        whole
    };
    let alone = recipe("gemma3_text", json!({}));
    assert_eq!(read(&whole(json!({}), json!({}))).unwrap(), alone);
    assert_eq!(read(&whole(json!({}), json!({"model_type": "absent"}))).unwrap(), alone);
    let capped = whole(json!({}), json!({"final_logit_softcapping": 30.0}));
    refused(&capped, &["text_config.final_logit_softcapping", "transformers does not apply it"]);
    let untied = whole(json!({}), json!({"tie_word_embeddings": false}));
    refused(&untied, &["text_config.tie_word_embeddings", "transformers 5", "transformers 4"]);
    refused(&whole(json!({"quantization_config": {"quant_method": "quip"}}), json!({})), &["quantized with quip"]);
}

#[test]
fn the_first_gemmas_gelu_is_its_tanh_approximation() {
    let tanh = recipe("gemma", json!({}));
    for same in [
        json!({"hidden_act": "gelu", "hidden_activation": null}),
        json!({"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}),
        json!({"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}),
    ] {
        assert_eq!(recipe("gemma", same.clone()), tanh, "{same}");
    }
    for other in ["gelu", "silu"] {
        let config = config("gemma", json!({"hidden_act": "gelu_pytorch_tanh", "hidden_activation": other}));
        refused(&config, &["hidden_activation", "transformers 5 goes by hidden_act", other]);
    }
    // Later ones go by hidden_activation alone.
    assert_eq!(recipe("gemma2", json!({"hidden_act": "silu"})), recipe("gemma2", json!({})));
}

#[test]
fn experts_windows_and_layer_types() {
    assert_eq!(recipe("mixtral", json!({"num_experts": 4})), recipe("mixtral", json!({"num_local_experts": 4})));
    assert_eq!(
        recipe("qwen3_moe", json!({})),
        recipe("qwen3_moe", json!({"num_experts": 128, "num_experts_per_tok": 8}))
    );
    refused(&config("qwen3_moe", json!({"num_experts": 4, "num_local_experts": 8})), &["num_experts", "8", "found 4"]);
    refused(&config("qwen3_moe", json!({"decoder_sparse_step": 0})), &["decoder_sparse_step"]);
    let unused = json!({"layer_types": vec!["sliding_attention"; 3], "sliding_window": 5});
    refused(&config("qwen2", unused), &["use_sliding_window", "window in use"]);
    let twice = json!({"sliding_window": 5, "sliding_window_size": 5});
    assert_eq!(recipe("gemma2", twice), recipe("gemma2", json!({"sliding_window": 5})));
    refused(&config("gemma2", json!({"sliding_window": 5, "sliding_window_size": 6})), &["sliding_window_size"]);
}

#[test]
fn json_as_python_writes_it_is_read() {
    let text = format!("\u{feff}{}", config("llama", json!({})))
        .replace("\"hidden_size\"", "\"length_penalty\": Infinity, \"hidden_size\"");
    let read = |text: &str| Recipe::read(&ConfigFile::parse(Path::new("config.json"), text).unwrap());
    assert_eq!(read(&text).unwrap(), recipe("llama", json!({})));
    let message = read(&text.replace("length_penalty", "rope_theta")).unwrap_err().to_string();
    assert!(message.contains("rope_theta: expected a number, found \"Infinity\""), "{message}");
}

/// What a small config of this family needs to be one, with few experts.
fn needed(model_type: &str) -> Value {
    let yarn = json!({
        "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.1
    });
    let plain = json!({"rope_type": "default"});
    let few = json!({"num_experts_per_tok": 1, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
                     "num_key_value_heads": 4, "first_k_dense_replace": 1});
    let with = |mut config: Value, more: Value| {
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    match model_type {
        "mixtral" | "qwen3_moe" | "qwen3_vl_moe_text" | "minimax_m2" | "qwen3_next" | "qwen3_5_moe_text"
        | "granitemoe" => json!({"num_experts": 2, "num_experts_per_tok": 1}),
        "granitemoeshared" => json!({"num_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 24}),
        "gpt_oss" => json!({"num_experts": 2, "num_experts_per_tok": 1, "rope_parameters": plain}),
        "ministral3" => json!({"rope_parameters": yarn}),
        "mistral4" => with(few, json!({"rope_parameters": yarn, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8})),
        "deepseek_v2" | "deepseek_v3" | "kimi_k2" | "glm4_moe_lite" => with(few, json!({"qk_rope_head_dim": 8})),
        "glm4_moe" => with(few, json!({"num_key_value_heads": 2})),
        "granitemoehybrid" => {
            json!({"num_local_experts": 2, "num_experts_per_tok": 1, "layer_types": vec!["attention"; 3]})
        }
        _ => json!({}),
    }
}

/// All sides of all modules of every family's first layers and around them.
#[test]
fn roles_are_a_layers_own_and_every_neuron_has_a_holder_or_a_reason() {
    for family in FAMILIES {
        let recipe = recipe(family.model_type, needed(family.model_type));
        for layer in 0..recipe.layers.len() {
            let mut roles: Vec<_> = recipe.layer_modules(layer).iter().map(|module| module.role).collect();
            let all = roles.len();
            roles.sort();
            roles.dedup();
            assert_eq!(roles.len(), all, "{}", family.model_type);
        }
        let head = recipe.module(&"lm_head".parse().unwrap()).unwrap();
        for module in recipe.modules().into_iter().filter(Module::is_hooked).chain([head]) {
            assert_eq!(recipe.module(&module.path.parse().unwrap()), Some(module.clone()));
            for side in [Side::In, Side::Out] {
                let site = Site { module: module.path.parse().unwrap(), side };
                let neuron = Neuron { site, channel: module.channels(side) - 1 };
                match recipe.holder(&module, side) {
                    Some((holder, _)) => assert!(matches!(holder.kind, kind if kind != ModuleKind::Function)),
                    None => nearest_is_there(&recipe, &module, &recipe.why_no_place(&module, &neuron)),
                }
            }
        }
    }
}

/// As transformers' classes scale it, by any type of scaling that has a factor.
#[test]
fn latent_attention_is_scaled_by_mscale_all_dim_whatever_the_scaling() {
    let scale = |changes: Value| {
        let mut all = needed("deepseek_v3");
        all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        match recipe("deepseek_v3", all).layers[0].token_mixer {
            TokenMixer::Latent(ref latent) => latent.scale * 136f64.sqrt(),
            _ => panic!(),
        }
    };
    let with = |more: Value| {
        let mut r = json!({"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": 16, "mscale_all_dim": 0.5});
        r.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        scale(json!({"rope_parameters": r}))
    };
    let softened = (0.1 * 0.5 * 4f64.ln() + 1.0).powi(2);
    for kind in [
        json!({}),
        json!({"rope_type": "yarn"}),
        json!({"rope_type": "dynamic"}),
        json!({"rope_type": "llama3", "low_freq_factor": 1, "high_freq_factor": 4}),
        json!({"rope_type": "longrope", "short_factor": vec![1; 4], "long_factor": vec![2; 4]}),
    ] {
        assert!((with(kind.clone()) - softened).abs() < 1e-15, "{kind}");
    }
    for none in [json!({"mscale_all_dim": 0}), json!({"factor": 1.0}), json!({"rope_type": "default", "factor": 1.0})] {
        assert!((with(none.clone()) - 1.0).abs() < 1e-15, "{none}");
    }
    let mut wide = needed("deepseek_v3");
    wide["head_dim"] = 128.into();
    refused(&config("deepseek_v3", wide), &["head_dim", "expected 8", "found 128"]);
}

/// The outer keys are those that its authors publish.
#[test]
fn a_kimi_with_images_is_its_text_model() {
    let text = config("kimi_k2", needed("kimi_k2"));
    let whole = json!({
        "model_type": "kimi_k25", "architectures": ["KimiK25ForConditionalGeneration"], "text_config": text,
        "vision_config": {}, "ignore_index": -100, "media_placeholder_token_id": 9, "pad_token_id": 2,
        "tie_word_embeddings": false, "use_unified_vision_chunk": true, "video_placeholder": "<|video|>"
    });
    assert_eq!(read(&whole).unwrap(), read(&text).unwrap());
}

#[test]
fn weights_of_experts_that_are_always_normed_may_say_so() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/qwen3_vl_moe/config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    config["text_config"]["norm_topk_prob"] = true.into();
    assert!(read(&config).is_ok());
    config["text_config"]["norm_topk_prob"] = false.into();
    refused(&config, &["norm_topk_prob", "true, which transformers computes whatever it says"]);
}

#[test]
fn a_window_that_is_not_there_is_not_used() {
    let none = json!({"use_sliding_window": true, "sliding_window": null});
    assert_eq!(recipe("smollm3", none), recipe("smollm3", json!({})));
}

#[test]
fn seed_oss_has_a_switch_of_its_own_for_the_bias_of_what_attention_puts_out() {
    for (switches, biases) in [
        (json!({}), (true, false)),
        (json!({"attention_bias": false}), (false, false)),
        (json!({"attention_out_bias": true}), (true, true)),
    ] {
        let recipe = recipe("seed_oss", switches);
        let attention = recipe.attention(0).unwrap();
        assert_eq!((attention.qkv_bias, attention.o_bias), biases);
    }
}

#[test]
fn an_odd_head_is_rotated_by_an_even_share() {
    let rope = json!({"rope_theta": 100.0, "rope_type": "default", "partial_rotary_factor": 0.5});
    assert_eq!(recipe("glm4", json!({"head_dim": 9, "rope_parameters": rope})).ropes[0].rotated(), 4);
    refused(&config("llama", json!({"head_dim": 9})), &["head_dim", "even"]);
}

#[test]
fn families_whose_layers_are_not_computed_are_told_apart_from_unknown_ones() {
    let hybrid = json!({"model_type": "nemotron_h", "architectures": ["NemotronHForCausalLM"]});
    refused(&hybrid, &["NemotronHForCausalLM", "known, but not computed"]);
    refused(&json!({"model_type": "bloom"}), &["bloom", "is not supported"]);
}

#[test]
fn what_the_classes_of_hybrids_do_not_read_is_refused() {
    let linear = json!({"layer_types": ["linear_attention", "sliding_attention", "full_attention"]});
    refused(&config("qwen3_5_text", linear), &["layer_types", "linear_attention or full_attention"]);
    refused(&config("qwen3_5_text", json!({"attn_output_gate": false})), &["attn_output_gate", "true"]);
    refused(
        &config("qwen3_next", json!({"linear_num_key_heads": 3, "linear_num_value_heads": 4})),
        &["multiple of the 3"],
    );
    refused(&config("qwen3_5_moe_text", json!({"decoder_sparse_step": 2})), &["decoder_sparse_step"]);
    refused(&config("lfm2", json!({"rms_norm_eps": 1e-6})), &["rms_norm_eps", "norm_eps"]);
    refused(&config("lfm2", json!({"use_pos_enc": false})), &["use_pos_enc", "true"]);
    refused(&config("gemma4_text", json!({"num_kv_shared_layers": 3})), &["num_kv_shared_layers"]);
    refused(&config("gemma4_text", json!({"use_bidirectional_attention": "all"})), &["use_bidirectional_attention"]);
    let slides_last = json!({"layer_types": ["full_attention", "full_attention", "sliding_attention"]});
    refused(&config("gemma4_text", slides_last), &["layer_types", "full_attention last"]);
    refused(&config("gemma4_text", json!({"vocab_size_per_layer_input": 10})), &["vocab_size_per_layer_input"]);
}

/// Its modules are not listed to find one.
#[test]
fn a_claim_of_billions_of_experts_costs_nothing_where_one_neuron_is_asked_for() {
    let recipe = recipe("mixtral", json!({"num_local_experts": 2_000_000_000}));
    let module = |path: &str| recipe.module(&format!("model.layers.1.{path}").parse().unwrap());
    let activation = module("block_sparse_moe.experts.1999999999.act_fn").unwrap();
    let (down, _) = recipe.holder(&activation, Side::Out).unwrap();
    assert_eq!(down.path, "model.layers.1.block_sparse_moe.experts.1999999999.w2");
    assert!(module("block_sparse_moe.gate").is_some() && module("self_attn.q_proj").is_some());
    assert_eq!(module("block_sparse_moe.experts.2000000000.w2"), None);
}

/// What a reason names instead is a neuron of the model.
#[track_caller]
fn nearest_is_there(recipe: &Recipe, module: &Module, reason: &str) {
    let words = reason.split([' ', ',', ';']).map(|word| word.trim_end_matches(':'));
    let named: Vec<Neuron> = words.filter_map(|word| word.parse().ok()).collect();
    let expected = match module.kind {
        ModuleKind::Embedding | ModuleKind::Linear { .. } => reason.matches(":out:").count(),
        ModuleKind::Norm { .. } | ModuleKind::Function | ModuleKind::Vector => 1,
        ModuleKind::Convolution { .. } => 0,
    };
    assert_eq!(named.len(), expected, "{}: {reason}", module.path);
    for neuron in named {
        let nearest = recipe.module(&neuron.site.module).unwrap_or_else(|| panic!("{reason}"));
        assert!(neuron.channel < nearest.channels(neuron.site.side), "{reason}");
    }
}

/// Of those of one `model_type` only the models without such layers are computed.
#[test]
fn granites_with_mamba_layers_are_known_and_not_computed() {
    for kinds in [
        json!(["mamba", "attention", "mamba"]),
        json!(["linear_attention", "linear_attention", "linear_attention"]),
        json!("absent"),
    ] {
        let config = config("granitemoehybrid", json!({"num_local_experts": 2, "layer_types": kinds}));
        refused(&config, &["granitemoehybrid", "is known, but not computed"]);
        let file = ConfigFile::parse(Path::new("config.json"), &config.to_string()).unwrap();
        assert_eq!(Recipe::of_known(&file).unwrap(), None);
    }
    let other = json!({"num_local_experts": 2, "layer_types": ["attention", "attention", "recurrent"]});
    refused(&config("granitemoehybrid", other), &["layer_types", "3 times attention or mamba"]);
}
