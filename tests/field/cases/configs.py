"""config.json and the tokenizer's files: spellings that are sound, and contradictions that are not."""

import json

import st


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


def build(d):
    c = st.llama_config()
    dtypes(d, c)
    code(d, c)
    heads(d, c)
    spellings(d, c)
    tokenizers(d, c)
    # Another number of layers, another vocabulary, than the weights have.
    st.folder(d / "layers-more", {**c, "num_hidden_layers": 3}, st.llama(c))
    st.folder(d / "layers-fewer", {**c, "num_hidden_layers": 1}, st.llama(c))
    st.folder(d / "vocabulary-larger", {**c, "vocab_size": 322}, st.llama(c))
    st.folder(d / "eos-out-of-range", {**c, "eos_token_id": 99999, "pad_token_id": 400})
    # 34 and 103 are a space and "e", 2 and 3 bytes that no text holds.
    st.folder(d / "eos-covers-text", {**c, "eos_token_id": [1, 34, 103]})
    # What no default stands for.
    st.folder(d / "model-type-missing", without(c, "model_type"))
    st.folder(d / "yarn-without-factor", {**c, "rope_scaling": {"rope_type": "yarn"}})
    st.folder(d / "eos-list", {**c, "eos_token_id": [1, 2, 3], "pad_token_id": -1})


def dtypes(d, c):
    st.folder(d / "dtype-new", {**without(c, "torch_dtype"), "dtype": "bfloat16"})
    st.folder(d / "dtype-both", {**c, "dtype": "float16"})
    st.folder(d / "dtype-other", {**c, "torch_dtype": "float32"})


def code(d, c):
    local = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}
    p = st.folder(d / "automap", {**c, "auto_map": local})
    st.write(p / "modeling_x.py", "import torch\n")
    st.write(p / "configuration_x.py", "import os\n")
    st.folder(d / "automap-missing", {**c, "auto_map": {"AutoModelForCausalLM": "modeling_x.XForCausalLM"}})
    remote = {"AutoModelForCausalLM": "someone/other-repo--modeling_x.XForCausalLM"}
    st.folder(d / "automap-remote", {**c, "auto_map": remote})


def heads(d, c):
    tied, t = {**c, "tie_word_embeddings": True}, st.llama(c)
    st.folder(d / "tied-other-head", tied, t)
    st.folder(d / "tied-same-head", tied, {**t, "lm_head.weight": t["model.embed_tokens.weight"]})
    headless = without(t, "lm_head.weight")
    st.folder(d / "untied-no-head", c, headless)
    # LLaMA's class ties nothing by itself.
    st.folder(d / "tying-not-said-no-head", without(c, "tie_word_embeddings"), headless)


def spellings(d, c):
    st.folder(d / "rope-new", {**without(c, "rope_theta"),
                               "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}})
    p = st.folder(d / "bom")
    st.write(p / "config.json", b"\xef\xbb\xbf" + (p / "config.json").read_bytes())
    p = st.folder(d / "crlf")
    st.write(p / "config.json", (p / "config.json").read_bytes().replace(b"\n", b"\r\n"))
    p = st.folder(d / "not-a-number")
    st.write(p / "config.json", json.dumps({**c, "x_loss": float("nan")}))


def tokenizers(d, c):
    p = st.folder(d / "tokenizer-too-big")
    st.dump(p / "tokenizer.json", st.tokenizer([(320 + i, f"<extra{i}>") for i in range(4)]))
    p = st.folder(d / "tokenizer-with-a-hole")
    tokenizer = st.tokenizer()
    vocab = tokenizer["model"]["vocab"]
    vocab["zz"] = 100000
    del vocab["z"]
    st.dump(p / "tokenizer.json", tokenizer)
    (st.folder(d / "tokenizer-missing") / "tokenizer.json").unlink()
    p = st.folder(d / "tokenizer-broken")
    st.write(p / "tokenizer.json", '{"version": "1.0", "model": {"type": "BPE"')
    # A tokenizer of another kind, as large as the embedding allows.
    p = st.folder(d / "unigram")
    vocab = [["<s>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581", -2.0]] + [[chr(i), -5.0] for i in range(33, 127)]
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    st.dump(p / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": metaspace, "post_processor": None, "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": False}})
