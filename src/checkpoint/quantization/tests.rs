use super::*;
use serde_json::json;

fn read(settings: Value) -> Result<Option<Quantization>> {
    let config = json!({"quantization_config": settings});
    Quantization::read(&ConfigFile::from_map("config.json".as_ref(), config.as_object().unwrap().clone()))
}

#[test]
fn every_tool_matches_names_its_own_way() {
    let of = |settings: Value| read(settings).unwrap().unwrap();
    let compressed = of(json!({"quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*gate$"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "group_size": null}},
                          "group_1": {"targets": ["re:.*down_proj"], "weights": {"num_bits": 4, "group_size": 32}}}}));
    assert!(compressed.ignores("lm_head") && compressed.ignores("model.layers.0.mlp.gate"));
    assert!(!compressed.ignores("model.lm_head") && compressed.packs("model.layers.0.mlp.gate_proj"));
    assert_eq!(compressed.scheme("model.layers.0.mlp.down_proj").bits, Some(4));
    assert_eq!(compressed.scheme("model.layers.0.mlp.up_proj").bits, Some(8));
    let modelopt = of(json!({"quant_algo": "NVFP4", "exclude_modules": ["*self_attn*", "lm_head"]}));
    assert!(modelopt.ignores("model.layers.0.self_attn.q_proj") && !modelopt.ignores("model.lm_head"));
    let awq = of(json!({"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["visual"]}));
    let fp8 = of(json!({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp.gate"]}));
    let gates = ["model.layers.0.mlp.gate", "model.layers.0.mlp.gate_proj"];
    assert_eq!(gates.map(|gate| (fp8.ignores(gate), fp8.names_as_ignored(gate))), [(true, true), (true, false)]);
    assert!(awq.ignores("visual.blocks.0.mlp.fc1") && awq.packs("model.layers.0.mlp.up_proj"));
    let fp8 = of(json!({"quant_method": "fp8", "weight_block_size": [128, 64]}));
    assert_eq!(fp8.scheme("x").block, Some([128, 64]));
    let gptq = of(json!({"bits": 4, "group_size": -1, "desc_act": true, "dynamic": {"-:.*\\.mlp": {}}}));
    assert!(gptq.scheme("x").zeros_less_one && gptq.scheme("x").group.is_none() && gptq.ignores("a.mlp.b"));
    assert_eq!(of(json!({"quant_method": "quip"})).method.name(), "quip");
    let marlin = of(json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}));
    let sparse = of(json!({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}));
    assert!([marlin, sparse].iter().all(|of| matches!(of.method, Method::Other(_))));
    assert!(read(json!({})).unwrap().is_none());
}

#[test]
fn what_cannot_be_is_named() {
    for (settings, problem) in [
        (json!({"quant_method": "fp8", "weight_block_size": [0, 128]}), "weight_block_size: expected two positive"),
        (json!({"quant_method": "fp8", "weight_block_size": "128"}), "weight_block_size: expected two positive"),
        (json!({"quant_method": "gptq", "bits": 0}), "bits: expected 1 to 8 or 16 bits, found 0"),
        (json!({"quant_method": "gptq", "bits": 4, "group_size": 0}), "group_size: expected a positive"),
        (
            json!({"quant_method": "gptq", "bits": 5, "checkpoint_format": "gptq_p"}),
            "checkpoint_format: expected gptq or",
        ),
        (json!({"quant_method": "awq", "version": "gemv"}), "version: expected gemm"),
        (json!({"quant_method": "compressed-tensors", "ignore": ["re:("]}), "ignore: expected regular"),
        (json!({"quant_method": "compressed-tensors", "ignore": "lm_head"}), "ignore: expected a list"),
        (
            json!({"quant_method": "gptq", "checkpoint_format": "gptq", "format": "gptq_v2"}),
            "format: expected gptq, as checkpoint_format says, found \"gptq_v2\"",
        ),
        (json!({"quant_method": "awq", "version": "gemm", "format": "gemv"}), "format: expected gemm"),
        (json!({"quant_method": "gptq", "dynamic": {"+:(": {}}}), "dynamic: expected regular"),
        (json!({"quant_method": "gptq", "dynamic": {"+:x": {"bits": 0}}}), "bits: expected 1 to 8 or 16"),
        (json!([]), "quantization_config: expected"),
        (json!({"quant_method": 4}), "quant_method: expected a text"),
    ] {
        let found = read(settings).unwrap_err().to_string();
        assert!(found.contains(problem), "{found}");
    }
}

#[test]
fn the_first_of_the_patterns_of_dynamic_that_matches_counts() {
    let of = read(json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {
        "+:.*down_proj": {"bits": 8, "group_size": 32}, "-:.*layers\\.0\\.": {}, ".*up_proj": {"desc_act": true},
        "+:.*gate": {"group_size": -1}}}));
    let of = of.unwrap().unwrap();
    let scheme = |module: &str| {
        let Scheme { bits, group, is_reordered, .. } = of.scheme(module);
        (of.ignores(module), bits, group, is_reordered)
    };
    assert_eq!(scheme("model.layers.0.mlp.down_proj"), (false, Some(8), Some(32), false));
    assert_eq!(scheme("model.layers.0.mlp.up_proj"), (true, Some(4), Some(128), false));
    assert_eq!(scheme("model.layers.1.mlp.up_proj"), (false, Some(4), Some(128), true));
    assert_eq!(scheme("model.layers.1.mlp.gate_proj"), (false, Some(4), None, false));
    assert_eq!(scheme("model.layers.1.self_attn.q_proj"), (false, Some(4), Some(128), false));
    assert!(!of.packs("model.layers.0.mlp.up_proj") && of.packs("model.layers.1.mlp.up_proj"));
}

#[test]
fn a_modules_name_counts_before_its_class() {
    let group = |target: &str, bits: u32| json!({"targets": [target], "weights": {"num_bits": bits}});
    for groups in [
        json!({"a": group("re:.*self_attn", 8), "b": group("Linear", 4), "c": group("model.layers.0.self_attn.q_proj", 2)}),
        json!({"b": group("Linear", 4), "c": group("model.layers.0.self_attn.q_proj", 2), "a": group("re:.*self_attn", 8)}),
    ] {
        let of = read(json!({"quant_method": "compressed-tensors", "config_groups": groups})).unwrap().unwrap();
        let bits = |module: &str| of.scheme(&format!("model.layers.0.{module}")).bits;
        assert_eq!(
            [bits("self_attn.q_proj"), bits("self_attn.k_proj"), bits("mlp.up_proj")],
            [Some(2), Some(8), Some(4)]
        );
    }
}

#[test]
fn gptqs_layout_is_said_by_two_keys() {
    for (settings, less) in [
        (json!({"checkpoint_format": "gptq_v2"}), false),
        (json!({"format": "gptq_v2"}), false),
        (json!({"format": "gptq_v2", "checkpoint_format": "GPTQ_V2"}), false),
        (json!({"format": "gptq"}), true),
        (json!({}), true),
    ] {
        let mut settings = settings;
        settings["quant_method"] = "gptq".into();
        assert_eq!(read(settings.clone()).unwrap().unwrap().scheme("x").zeros_less_one, less, "{settings}");
    }
}

#[test]
fn what_is_computed_beside_the_weights_is_refused_by_name() {
    let refused = |settings: Value| {
        let config = ConfigFile::from_map("config.json".as_ref(), serde_json::Map::new());
        let found = read(settings).unwrap().unwrap().check_known(&config);
        found.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let transforms =
        |groups: Value| json!({"quant_method": "compressed-tensors", "transform_config": {"config_groups": groups}});
    assert!(refused(transforms(json!({"u": {"type": "hadamard"}}))).contains("transform_config asks for transforms"));
    assert_eq!(refused(transforms(json!({}))), "");
    assert_eq!(refused(json!({"quant_method": "compressed-tensors", "transform_config": null, "format": "dense"})), "");
    assert!(refused(json!({"quant_algo": "NVFP4_AWQ"})).contains("quant_algo NVFP4_AWQ may scale"));
    for (settings, name) in [
        (json!({"quant_method": "compressed-tensors", "format": "marlin-24"}), "compressed-tensors (marlin-24)"),
        (
            json!({"quant_method": "compressed-tensors", "config_groups": {"a": {"format": "marlin-24"}}}),
            "compressed-tensors (marlin-24)",
        ),
        (json!({"quant_method": "gptq", "format": "marlin"}), "gptq (marlin's own layout)"),
        (json!({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}), "auto-round"),
    ] {
        assert!(refused(settings).contains(&format!("quantized with {name}, which is not supported")), "{name}");
    }
}

#[test]
fn columns_are_in_order_with_static_groups() {
    let is_reordered = |settings: Value| read(settings).unwrap().unwrap().scheme("a").is_reordered;
    assert!(is_reordered(json!({"quant_method": "gptq", "bits": 4, "desc_act": true})));
    assert!(!is_reordered(json!({"quant_method": "gptq", "bits": 4, "desc_act": true, "static_groups": true})));
}
