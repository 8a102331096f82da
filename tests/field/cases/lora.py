"""Adapters: of every method that changes modules or puts something before the text, sound and broken."""

import st

CONFIG = {"peft_type": "LORA", "base_model_name_or_path": "org/tiny", "r": 8, "lora_alpha": 16,
          "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", "bias": "none", "inference_mode": True}
SIZES = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
         "self_attn.o_proj": (64, 64), "mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64), "mlp.down_proj": (64, 128)}
P = "base_model.model.model.layers."
Q1 = P + "1.self_attn.q_proj."
DOWN1 = P + "1.mlp.down_proj."


def modules(names=("q_proj", "down_proj"), layers=2):
    for layer in range(layers):
        for module, (rows, columns) in SIZES.items():
            if module.split(".")[-1] in names:
                yield f"{P}{layer}.{module}.", rows, columns


def pairs(names=("q_proj", "down_proj"), rank=8, layers=2):
    t = {}
    for p, rows, columns in modules(names, layers):
        t |= {p + "lora_A.weight": st.normal([rank, columns]), p + "lora_B.weight": st.normal([rows, rank])}
    return t


def adapter(path, tensors=None, **config):
    path = st.fresh(path)
    st.save(path / "adapter_model.safetensors", pairs() if tensors is None else tensors)
    st.dump(path / "adapter_config.json", {k: v for k, v in {**CONFIG, **config}.items() if v is not ...})
    return path


def without(tensors, *names):
    return {k: v for k, v in tensors.items() if not any(name in k for name in names)}


def build(d):
    base(d)
    plain(d)
    variants(d)
    others(d)
    prompts(d)
    places(d)
    files(d)


def base(d):
    st.folder(d / "base")
    st.folder(d / "base-other", st.llama_config(hidden=32, inter=96, heads=4, kv=2))
    c = st.llama_config(layers=3)
    st.folder(d / "base-three-layers", c)


def plain(d):
    adapter(d / "whole")
    t = pairs()
    adapter(d / "untrained", {k: st.zeroed(v) if "lora_B" in k else v for k, v in t.items()})
    adapter(d / "untrained-negative-zeros",
            {k: (v[0], v[1], b"\x00\x80" * (len(v[2]) // 2)) if "lora_B" in k else v for k, v in t.items()})
    adapter(d / "untrained-in-one", t | {Q1 + "lora_B.weight": st.zeroed(t[Q1 + "lora_B.weight"])})
    adapter(d / "alpha-zero", lora_alpha=0)
    adapter(d / "down-zero", t | {Q1 + "lora_A.weight": st.zeroed(t[Q1 + "lora_A.weight"])})
    adapter(d / "empty", {})
    adapter(d / "nan", t | {Q1 + "lora_B.weight": st.patched(t[Q1 + "lora_B.weight"], 8, b"\xc0\x7f")})
    adapter(d / "infinite", t | {Q1 + "lora_A.weight": st.patched(t[Q1 + "lora_A.weight"], 8, b"\x80\x7f")})
    adapter(d / "without-b", without(t, Q1 + "lora_B"))
    adapter(d / "without-a", without(t, Q1 + "lora_A"))
    adapter(d / "without-any-b", without(t, "lora_B"))
    adapter(d / "rank-other", r=16)
    adapter(d / "rank-of-one", t | {Q1 + "lora_A.weight": st.normal([4, 64]), Q1 + "lora_B.weight": st.normal([64, 4])})
    adapter(d / "rank-of-b", t | {Q1 + "lora_B.weight": st.normal([64, 4])})
    adapter(d / "rank-zero", r=0)
    adapter(d / "target-lacking", target_modules=["q_proj", "down_proj", "v_proj"])
    adapter(d / "target-not-named", target_modules=["q_proj"])
    adapter(d / "target-regex", target_modules=r".*\.layers\.\d+\.(self_attn\.q_proj|mlp\.down_proj)")
    adapter(d / "target-regex-of-others", target_modules=r".*\.layers\.\d+\.self_attn\.q_proj")
    adapter(d / "target-regex-looks-ahead", target_modules=r"^(?!.*vision).*\.(q_proj|down_proj)")
    adapter(d / "target-all-linear", pairs([m.split(".")[-1] for m in SIZES]), target_modules="all-linear")
    adapter(d / "target-not-said", target_modules=None)
    adapter(d / "layer-missing", without(pairs(layers=4), P + "2."))
    adapter(d / "module-missing", without(pairs(layers=12), P + "7.mlp"))
    adapter(d / "layers-chosen", without(pairs(layers=4), P + "0.", P + "2."), layers_to_transform=[1, 3])
    adapter(d / "layers-not-chosen", layers_to_transform=[1])


def variants(d):
    t = pairs()
    mixed = pairs(["down_proj"], 16) | pairs(["q_proj"], 8)
    adapter(d / "rank-pattern", mixed, rank_pattern={"down_proj": 16}, alpha_pattern={"down_proj": 32})
    adapter(d / "rank-pattern-by-path", t | {Q1 + "lora_A.weight": st.normal([2, 64]), Q1 + "lora_B.weight": st.normal([64, 2])},
            rank_pattern={r"model.layers.1.self_attn.q_proj": 2})
    adapter(d / "rank-pattern-other", mixed, rank_pattern={"down_proj": 32})
    adapter(d / "rank-pattern-of-nothing", rank_pattern={"up_proj": 4})
    adapter(d / "alpha-pattern-of-nothing", alpha_pattern={"up_proj": 4})
    dora = t | {p + "lora_magnitude_vector": st.normal([rows]) for p, rows, _ in modules()}
    adapter(d / "dora", dora, use_dora=True)
    adapter(d / "dora-named-weight", {k + ".weight" if "magnitude" in k else k: v for k, v in dora.items()}, use_dora=True)
    adapter(d / "dora-without-magnitudes", use_dora=True)
    adapter(d / "dora-magnitude-missing", without(dora, Q1 + "lora_mag"), use_dora=True)
    adapter(d / "dora-magnitude-short", dora | {Q1 + "lora_magnitude_vector": st.normal([32])}, use_dora=True)
    adapter(d / "rslora", use_rslora=True)
    biased = t | {p + "lora_B.bias": st.normal([rows]) for p, rows, _ in modules()}
    adapter(d / "lora-bias", biased, lora_bias=True)
    adapter(d / "lora-bias-missing", without(biased, Q1 + "lora_B.bias"), lora_bias=True)
    adapter(d / "biases", t | {p + "bias": st.normal([rows]) for p, rows, _ in modules()}, bias="lora_only")
    saved = t | {"base_model.model.model.embed_tokens.weight": st.normal([320, 64]),
                 "base_model.model.lm_head.weight": st.normal([320, 64])}
    adapter(d / "saved", saved, modules_to_save=["embed_tokens", "lm_head"])
    adapter(d / "saved-missing", without(saved, "lm_head"), modules_to_save=["embed_tokens", "lm_head"])
    adapter(d / "saved-for-a-grown-vocabulary", saved)
    adapter(d / "saved-not-named", t | {P + "0.input_layernorm.weight": st.ones([64])})
    adapter(d / "saved-nan", saved | {"base_model.model.lm_head.weight": st.patched(saved["base_model.model.lm_head.weight"], 4, b"\xc0\x7f")},
            modules_to_save=["embed_tokens", "lm_head"])
    embedding = without(t, "q_proj") | {
        "base_model.model.model.embed_tokens.lora_embedding_A": st.patched(st.zeros([8, 320]), 12, st.bf16([0.5] * 2000)),
        "base_model.model.model.embed_tokens.lora_embedding_B": st.normal([64, 8])}
    adapter(d / "of-embeddings", embedding, target_modules=["embed_tokens", "down_proj"])
    adapter(d / "of-tokens", t | {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": st.normal([3, 64])},
            trainable_token_indices=[1, 2, 3])
    adapter(d / "of-tokens-missing", trainable_token_indices=[1, 2, 3])
    experts = {}
    for layer in range(2):
        p = f"{P}{layer}.mlp.experts."
        experts |= {p + "lora_A.weight": st.normal([32, 128]), p + "lora_B.weight": st.normal([64, 32]),
                    p + "base_layer.lora_A.weight": st.normal([32, 64]), p + "base_layer.lora_B.weight": st.normal([256, 32])}
    adapter(d / "of-parameters", pairs(["q_proj"]) | experts, target_modules=["q_proj"],
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    head = {"base_model.model.classifier.weight": st.normal([3, 64]), "base_model.model.classifier.bias": st.normal([3])}
    adapter(d / "classifier", t | head, task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    adapter(d / "classifier-missing", task_type="SEQ_CLS", modules_to_save=["classifier", "score"])


def others(d):
    ia3 = {p + "ia3_l": st.normal([1, columns] if "down" in p else [rows, 1]) for p, rows, columns in modules(("k_proj", "v_proj", "down_proj"))}
    c = {"peft_type": "IA3", "target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"], "r": ...,
         "lora_alpha": ...}
    adapter(d / "ia3", ia3, **c)
    adapter(d / "ia3-untrained", {k: st.ones(v[1]) for k, v in ia3.items()}, **c)
    adapter(d / "ia3-target-lacking", without(ia3, "v_proj"), **c)
    adapter(d / "ia3-feedforward-not-named", ia3, **{**c, "feedforward_modules": ["up_proj"]})
    ada = {}
    for p, rows, columns in modules():
        ada |= {p + "lora_A": st.normal([6, columns]), p + "lora_B": st.normal([rows, 6]), p + "lora_E": st.normal([6, 1])}
    adapter(d / "adalora", ada, peft_type="ADALORA", init_r=12, target_r=6)
    adapter(d / "adalora-values-missing", without(ada, Q1 + "lora_E"), peft_type="ADALORA", init_r=12, target_r=6)
    adapter(d / "adalora-untrained", {k: st.zeroed(v) if "lora_E" in k else v for k, v in ada.items()}, peft_type="ADALORA",
            init_r=12, target_r=6)
    loha = {}
    for p, rows, columns in modules():
        for n in (1, 2):
            loha |= {p + f"hada_w{n}_a": st.normal([rows, 4]), p + f"hada_w{n}_b": st.normal([4, columns])}
    adapter(d / "loha", loha, peft_type="LOHA", r=4, alpha=8)
    adapter(d / "loha-half", without(loha, Q1 + "hada_w2"), peft_type="LOHA", r=4, alpha=8)
    vera = {p + k: st.normal([n]) for p, rows, _ in modules(["q_proj"]) for k, n in (("vera_lambda_b", rows), ("vera_lambda_d", 8))}
    vera |= {"base_model.vera_A": st.normal([8, 64]), "base_model.vera_B": st.normal([64, 8])}
    adapter(d / "vera", vera, peft_type="VERA", target_modules=["q_proj"])
    adapter(d / "unknown-method", {p + "foo_x": st.normal([4]) for p, _, _ in modules()}, peft_type="FOO")
    adapter(d / "method-not-said", peft_type=...)


def prompts(d):
    c = {"num_virtual_tokens": 5, "token_dim": 64, "num_transformer_submodules": 1, "num_layers": 2, "target_modules": ..., "r": ...}
    prompt = {"prompt_embeddings": st.normal([5, 64])}
    adapter(d / "prompt", prompt, peft_type="PROMPT_TUNING", **c)
    adapter(d / "p-tuning", prompt, peft_type="P_TUNING", **c)
    adapter(d / "prefix", {"prompt_embeddings": st.normal([5, 128])}, peft_type="PREFIX_TUNING", **c)
    adapter(d / "prompt-short", {"prompt_embeddings": st.normal([4, 64])}, peft_type="PROMPT_TUNING", **c)
    adapter(d / "prompt-missing", {"other": st.normal([5, 64])}, peft_type="PROMPT_TUNING", **c)
    adapter(d / "prompt-nan", {"prompt_embeddings": st.patched(prompt["prompt_embeddings"], 2, b"\xc0\x7f")},
            peft_type="PROMPT_TUNING", **c)


def places(d):
    """Cases that only the base tells from sound ones."""
    t = pairs()
    adapter(d / "of-another-base", {k: st.normal([8, 32] if "lora_A" in k else [32, 8]) for k, v in t.items()})
    adapter(d / "of-a-module-that-is-not-there", {k.replace("q_proj", "qkv_proj"): v for k, v in t.items()},
            target_modules=["qkv_proj", "down_proj"])
    adapter(d / "of-too-many-layers", pairs(layers=3))
    adapter(d / "names-more-than-there-is", target_modules=["q_proj", "down_proj", "query_key_value", "w2"])


def files(d):
    p = adapter(d / "config-missing")
    (p / "adapter_config.json").unlink()
    p = adapter(d / "config-broken")
    st.write(p / "adapter_config.json", '{"peft_type": "LORA", ')
    p = adapter(d / "weights-missing")
    (p / "adapter_model.safetensors").unlink()
    p = adapter(d / "pickle")
    (p / "adapter_model.safetensors").unlink()
    st.write(p / "adapter_model.bin", b"PK\x03\x04archive/data.pkl")
    p = adapter(d / "cut")
    whole = (p / "adapter_model.safetensors").read_bytes()
    st.write(p / "adapter_model.safetensors", whole[:-100])
    p = adapter(d / "with-a-tokenizer")
    st.dump(p / "tokenizer.json", st.tokenizer())
    st.dump(p / "tokenizer_config.json", st.TOKENIZER_CONFIG)
    st.write(p / "README.md", "---\nlibrary_name: peft\n---\n")
    p = st.fresh(d / "trainer-without-a-model")
    adapter(p / "checkpoint-10")
    adapter(p / "checkpoint-20")
    p = st.fresh(d / "trainer-with-a-broken-one")
    adapter(p / "checkpoint-10")
    adapter(p / "checkpoint-20", without(pairs(), Q1 + "lora_B"))
    p = st.fresh(d / "of-diffusers")
    u = {}
    for block in range(2):
        q = f"unet.down_blocks.{block}.attentions.0.transformer_blocks.0.attn1.to_q."
        u |= {q + "lora_A.weight": st.normal([4, 32], dtype="F16"), q + "lora_B.weight": st.normal([32, 4], dtype="F16")}
    te = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj."
    u |= {te + "lora_linear_layer.down.weight": st.normal([4, 32], dtype="F16"),
          te + "lora_linear_layer.up.weight": st.normal([32, 4], dtype="F16")}
    st.save(p / "pytorch_lora_weights.safetensors", u)
    st.save(st.fresh(d / "of-diffusers-half") / "pytorch_lora_weights.safetensors", without(u, "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B"))
    st.save(st.fresh(d / "of-diffusers-ranks") / "pytorch_lora_weights.safetensors", u | {te + "lora_linear_layer.up.weight": st.normal([32, 8], dtype="F16")})
    st.save(st.fresh(d / "of-diffusers-untrained") / "pytorch_lora_weights.safetensors", {k: st.zeroed(v) if "lora_B" in k or ".up." in k else v for k, v in u.items()})
    k = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q."
    kohya = {k + "lora_down.weight": st.normal([4, 32], dtype="F16"), k + "lora_up.weight": st.normal([32, 4], dtype="F16"),
             k + "alpha": ("F16", [], st.f16([4.0]))}
    st.save(d / "kohya.safetensors", kohya)
    st.save(d / "kohya-half.safetensors", without(kohya, "lora_up"))
    st.save(d / "kohya-nan.safetensors", kohya | {k + "lora_up.weight": st.patched(kohya[k + "lora_up.weight"], 0, b"\x00\x7e")})
