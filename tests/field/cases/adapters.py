"""Adapters beside a whole model, and a model whose names are an adapter's."""

import st

CONFIG = {"peft_type": "LORA", "base_model_name_or_path": "org/tiny", "r": 8, "lora_alpha": 16,
          "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", "bias": "none"}


def adapter(path):
    t = {}
    for layer in range(2):
        for module, rows, columns in (("self_attn.q_proj", 64, 64), ("mlp.down_proj", 64, 128)):
            p = f"base_model.model.model.layers.{layer}.{module}."
            t |= {p + "lora_A.weight": st.normal([8, columns]), p + "lora_B.weight": st.normal([rows, 8])}
    st.save(path / "adapter_model.safetensors", t)
    st.dump(path / "adapter_config.json", CONFIG)


def build(d):
    adapter(st.folder(d / "beside-a-model"))
    p = st.folder(d / "trainer")
    adapter(p / "checkpoint-100")
    st.write(p / "checkpoint-100/optimizer.pt", b"PK\x03\x04archive/data.pkl")
    st.write(p / "training_args.bin", b"PK\x03\x04training_args/data.pkl")
    names = {k.replace("q_proj.weight", "q_proj.base_layer.weight"): v for k, v in st.llama().items()}
    st.folder(d / "unmerged-names", None, names)
