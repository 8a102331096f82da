"""Text models with a vision tower, which is not examined but for its values."""

import st

TEXT = {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320, "rms_norm_eps": 1e-6,
        "sliding_window": 64, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 512}
CONFIG = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": TEXT,
          "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64,
                            "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 4},
          "boi_token_index": 1, "eoi_token_index": 2, "image_token_index": 3, "mm_tokens_per_image": 4,
          "torch_dtype": "bfloat16"}
VISION = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"


def build(d):
    t = tensors()
    st.folder(d / "gemma3", CONFIG, t)
    llava = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": st.llama_config(),
             "vision_config": {"model_type": "clip_vision_model", "hidden_size": 32, "num_hidden_layers": 1},
             "image_token_index": 319}
    of_text = {"language_model." + name: tensor for name, tensor in st.llama().items()}
    st.folder(d / "llava", llava, {**of_text, VISION: st.normal([64, 32]), VISION.replace("weight", "bias"): st.zeros([64]),
                                   "multi_modal_projector.linear_1.weight": st.normal([64, 32])})
    st.folder(d / "gemma3-nan-vision", CONFIG, {**t, VISION: ("BF16", [64, 32], b"\xc0\x7f" * 2048)})


def tensors():
    t = {}
    for layer in range(2):
        p = f"language_model.model.layers.{layer}."
        for name, rows, columns in (("self_attn.q_proj", 64, 64), ("self_attn.k_proj", 32, 64),
                                    ("self_attn.v_proj", 32, 64), ("self_attn.o_proj", 64, 64),
                                    ("mlp.gate_proj", 128, 64), ("mlp.up_proj", 128, 64), ("mlp.down_proj", 64, 128)):
            t[f"{p}{name}.weight"] = st.normal([rows, columns])
        # Gemma's norms multiply by 1 + w.
        for name in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                     "post_feedforward_layernorm"):
            t[f"{p}{name}.weight"] = st.zeros([64])
        for name in ("q_norm", "k_norm"):
            t[f"{p}self_attn.{name}.weight"] = st.zeros([16])
    return t | {
        "language_model.model.embed_tokens.weight": st.normal([320, 64]),
        "language_model.model.norm.weight": st.zeros([64]),
        VISION: st.normal([64, 32]),
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias": st.zeros([64]),
        "multi_modal_projector.mm_input_projection_weight": st.normal([32, 64]),
        "multi_modal_projector.mm_soft_emb_norm.weight": st.zeros([32]),
    }
