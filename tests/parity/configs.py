"""Random configs of every family: what `difftest.py` draws from. Nothing here computes.

Sizes are tiny, and whatever a class of transformers reads is drawn, in combinations that nobody publishes.
"""

import dense
import mixtures

# Text models that stand alone.
FAMILIES = {family.__name__: family for family in (
    dense.llama, dense.mistral, dense.qwen2, dense.qwen3, dense.gemma, dense.gemma2, dense.gemma3, dense.phi3,
    dense.olmo2, mixtures.mixtral, mixtures.qwen3_moe, dense.qwen3_5, mixtures.qwen3_5_moe, mixtures.qwen3_next,
    dense.gemma4, dense.lfm2, mixtures.gpt_oss, mixtures.deepseek_v3, mixtures.deepseek_v2, mixtures.glm4_moe_lite,
    dense.ministral3, dense.glm4, mixtures.glm4_moe, mixtures.minimax_m2, dense.granite,
    mixtures.granitemoe, mixtures.granitemoeshared, dense.granitemoehybrid, dense.smollm3, dense.olmo3, dense.ernie4_5,
    dense.hunyuan_v1_dense, dense.exaone4, dense.cohere2, dense.seed_oss)}

OF_QWEN2 = dict(depth=1, embed_dim=16, hidden_size=16, num_heads=2, patch_size=4, mlp_ratio=2, in_channels=1,
                spatial_merge_size=1, temporal_patch_size=1)
OF_QWEN2_5 = dict(depth=1, hidden_size=16, intermediate_size=24, num_heads=2, patch_size=4, in_channels=1,
                  spatial_merge_size=1, temporal_patch_size=1, out_hidden_size=20)
OF_QWEN3 = OF_QWEN2_5 | dict(num_position_embeddings=16, deepstack_visual_indexes=[])
OF_QWEN3_5 = {key: value for key, value in OF_QWEN3.items() if key != "deepstack_visual_indexes"}
SIGLIP = dict(model_type="siglip_vision_model", hidden_size=16, intermediate_size=24, num_hidden_layers=1,
              num_attention_heads=2, image_size=8, patch_size=4)
PIXTRAL = dict(model_type="pixtral", hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
               head_dim=8, image_size=16, patch_size=4)
OF_GEMMA4 = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
                 head_dim=8, patch_size=4, position_embedding_size=64)

# A model around a text model: the family whose text model it is, its model_type, and what else its config has.
WRAPPERS = {
    "gemma3_wrapper": (dense.gemma3, "gemma3", dict(mm_tokens_per_image=4), SIGLIP),
    "gemma4_wrapper": (dense.gemma4, "gemma4", {}, OF_GEMMA4),
    "qwen2_vl": (dense.qwen2_vl, "qwen2_vl", {}, OF_QWEN2),
    "qwen2_5_vl": (dense.qwen2_5_vl, "qwen2_5_vl", {}, OF_QWEN2_5),
    "qwen3_vl": (dense.qwen3_vl, "qwen3_vl", {}, OF_QWEN3),
    "qwen3_vl_moe": (mixtures.qwen3_vl_moe, "qwen3_vl_moe", {}, OF_QWEN3),
    "qwen3_5_wrapper": (dense.qwen3_5, "qwen3_5", {}, OF_QWEN3_5),
    "qwen3_5_moe_wrapper": (mixtures.qwen3_5_moe, "qwen3_5_moe", {}, OF_QWEN3_5),
    "mistral3": (dense.mistral, "mistral3", dict(spatial_merge_size=1), PIXTRAL),
    "mistral3_ministral3": (dense.ministral3, "mistral3", dict(spatial_merge_size=1), PIXTRAL),
    "mistral3_mistral4": (mixtures.mistral4, "mistral3", dict(spatial_merge_size=1), PIXTRAL),
}

# DeepSeek-V3 by other names: transformers has no class for the first, and cannot save the second.
RENAMED = {"kimi_k2": mixtures.deepseek_v3, "kimi_k25": mixtures.deepseek_v3}
