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
        (json!({"quant_method": 4}), "quant_method: expected a text"),
    ] {
        let found = read(settings).unwrap_err().to_string();
        assert!(found.contains(problem), "{found}");
    }
}
