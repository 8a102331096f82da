"""Folders of other kinds: pipelines, encoders and what stands after them, single files, several sets of weights."""

import shutil

import lora
import st

ENCODER = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 64, "intermediate_size": 128,
           "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 64,
           "type_vocab_size": 2, "torch_dtype": "float32"}
WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "the": 4, "a": 5, "##s": 6}
WORDPIECE = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
             "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                            "lowercase": True},
             "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None,
             "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
             "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                       "max_input_chars_per_word": 100, "vocab": WORDS}}


def bert(prefix="", layers=2):
    """With the row of the padding at zero, as it is trained."""
    n = lambda *shape: st.normal(shape, dtype="F32")
    e = prefix + "embeddings."
    words = n(100, 64)
    t = {e + "word_embeddings.weight": st.patched(words, 0, bytes(256)), e + "position_embeddings.weight": n(64, 64),
         e + "token_type_embeddings.weight": n(2, 64), e + "LayerNorm.weight": st.ones([64], "F32"), e + "LayerNorm.bias": n(64)}
    for layer in range(layers):
        p = f"{prefix}encoder.layer.{layer}."
        for name, rows, columns in (("attention.self.query", 64, 64), ("attention.self.key", 64, 64),
                                    ("attention.self.value", 64, 64), ("attention.output.dense", 64, 64),
                                    ("intermediate.dense", 128, 64), ("output.dense", 64, 128)):
            t |= {p + name + ".weight": n(rows, columns), p + name + ".bias": n(rows)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            t |= {p + name + ".weight": st.ones([64], "F32"), p + name + ".bias": n(64)}
    return t


def encoder(path, tensors=None, **config):
    path = st.folder(path, {**ENCODER, **config}, bert() if tensors is None else tensors, tok=False)
    st.dump(path / "tokenizer.json", WORDPIECE)
    st.dump(path / "tokenizer_config.json", {"tokenizer_class": "BertTokenizerFast", "pad_token": "[PAD]", "model_max_length": 64})
    return path


def sentences(path, *more):
    path = encoder(path)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *more]
    st.dump(path / "modules.json", [{"idx": n, "name": str(n), "path": folder, "type": f"sentence_transformers.models.{kind}"}
                                    for n, (folder, kind) in enumerate(kinds)])
    st.dump(path / "1_Pooling/config.json", {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True})
    return path


def dense(path, tensors=None):
    st.dump(path / "config.json", {"in_features": 64, "out_features": 32, "bias": True,
                                   "activation_function": "torch.nn.modules.activation.Tanh"})
    t = {"linear.weight": st.normal([32, 64], dtype="F32"), "linear.bias": st.normal([32], dtype="F32")}
    st.save(path / "model.safetensors", {**t, **(tensors or {})})


def convolutions(dtype="F16"):
    one = st.normal([8, 8, 1, 1], dtype=dtype)
    return {"conv_in.weight": st.normal([8, 4, 3, 3], dtype=dtype), "conv_in.bias": st.zeros([8], dtype),
            # A kernel of one element may well be zero.
            "mid.proj.weight": st.patched(one, 12, bytes(st.SIZES[dtype])), "mid.norm.weight": st.ones([8], dtype)}


CLIP = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 77, "eos_token_id": 2}


def clip(layers=2, dtype="F16"):
    n = lambda *shape: st.normal(shape, dtype=dtype)
    e = "text_model.embeddings."
    t = {e + "token_embedding.weight": n(100, 64), e + "position_embedding.weight": n(77, 64)}
    for layer in range(layers):
        p = f"text_model.encoder.layers.{layer}."
        for name, rows, columns in (("self_attn.q_proj", 64, 64), ("self_attn.k_proj", 64, 64), ("self_attn.v_proj", 64, 64),
                                    ("self_attn.out_proj", 64, 64), ("mlp.fc1", 128, 64), ("mlp.fc2", 64, 128)):
            t |= {p + name + ".weight": n(rows, columns), p + name + ".bias": n(rows)}
        for name in ("layer_norm1", "layer_norm2"):
            t |= {p + name + ".weight": st.ones([64], dtype), p + name + ".bias": n(64)}
    return t | {"text_model.final_layer_norm.weight": st.ones([64], dtype), "text_model.final_layer_norm.bias": n(64)}


PIPELINE = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0",
            "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [None, None], "requires_safety_checker": True}


def component(path, tensors=None, name="diffusion_pytorch_model.safetensors", kind="UNet2DConditionModel"):
    st.dump(path / "config.json", {"_class_name": kind, "_diffusers_version": "0.30.0", "in_channels": 4})
    st.save(path / name, convolutions() if tensors is None else tensors)


def pipeline(path, index=PIPELINE):
    path = st.fresh(path)
    st.dump(path / "model_index.json", index)
    for name, of in index.items():
        if not isinstance(of, list) or not of[0]:
            continue
        if "Tokenizer" in of[1]:
            st.dump(path / name / "vocab.json", {"a": 0, "<|endoftext|>": 1})
            st.write(path / name / "merges.txt", "#version: 0.2\n")
            st.dump(path / name / "tokenizer_config.json", {"tokenizer_class": of[1], "model_max_length": 77})
        elif "Scheduler" in of[1]:
            st.dump(path / name / "scheduler_config.json", {"_class_name": of[1]})
        elif of[0] == "transformers":
            st.dump(path / name / "config.json", {**CLIP, "architectures": [of[1]]})
            st.save(path / name / "model.safetensors", clip())
        else:
            component(path / name, kind=of[1])
    return path


def sharded(folder, variant=None, kept=2):
    """The weights of a component as two files and an index, of which the first ones are there."""
    t = convolutions()
    end = f".{variant}" if variant else ""
    items = list(t.items())
    weight_map = {}
    for n, part in enumerate((items[:2], items[2:]), 1):
        name = f"diffusion_pytorch_model{end}-{n:05}-of-00002.safetensors"
        weight_map |= {k: name for k, _ in part}
        if n <= kept:
            st.save(folder / name, dict(part))
    st.dump(folder / f"diffusion_pytorch_model.safetensors.index{end}.json",
            {"metadata": {"total_size": sum(len(v[2]) for v in t.values())}, "weight_map": weight_map})
    (folder / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)


def build(d):
    encoders(d)
    pipelines(d)
    alone(d)
    several(d)
    refused(d)


def encoders(d):
    encoder(d / "bert")
    encoder(d / "bert-nan", (lambda t: t | {"encoder.layer.1.output.dense.weight": st.patched(t["encoder.layer.1.output.dense.weight"], 4, b"\0\0\xc0\x7f")})(bert()))
    head = {"classifier.weight": st.normal([1, 64], dtype="F32"), "classifier.bias": st.normal([1], dtype="F32")}
    encoder(d / "cross-encoder", bert("bert.") | head, architectures=["BertForSequenceClassification"], num_labels=1)
    encoder(d / "short-context", max_position_embeddings=64)
    sentences(d / "sentences")
    dense(sentences(d / "sentences-dense", ("2_Dense", "Dense"), ("3_Normalize", "Normalize")) / "2_Dense")
    p = sentences(d / "sentences-dense-missing", ("2_Dense", "Dense"))
    st.dump(p / "2_Dense/config.json", {"in_features": 64, "out_features": 32})
    sentences(d / "sentences-folder-missing", ("2_Dense", "Dense"))
    dense(sentences(d / "sentences-dense-shape", ("2_Dense", "Dense")) / "2_Dense", {"linear.weight": st.normal([64, 32], dtype="F32")})
    dense(sentences(d / "sentences-dense-nan", ("2_Dense", "Dense")) / "2_Dense", {"linear.bias": ("F32", [32], b"\0\0\xc0\x7f" * 32)})
    p = sentences(d / "sentences-modules-broken")
    st.write(p / "modules.json", "[{")
    p = st.fresh(d / "sentences-static")
    st.dump(p / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}])
    st.save(p / "model.safetensors", {"embedding.weight": st.normal([7, 16], dtype="F32")})
    st.dump(p / "tokenizer.json", WORDPIECE)
    p = st.fresh(d / "sentences-in-a-folder")
    st.dump(p / "modules.json", [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}])
    encoder(p / "0_Transformer")
    c = st.llama_config(architectures=["LlamaForSequenceClassification"], num_labels=1)
    t = {k: v for k, v in st.llama(c).items() if k != "lm_head.weight"} | {"score.weight": st.normal([1, 64])}
    st.folder(d / "reranker", c, t)
    c = st.llama_config(architectures=["LlamaModel"])
    st.folder(d / "llm-embedding", c, {k.removeprefix("model."): v for k, v in st.llama(c).items() if k != "lm_head.weight"})
    st.folder(d / "vision", {"architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 32}, {
        "vit.embeddings.cls_token": st.normal([1, 1, 32]), "vit.embeddings.patch_embeddings.projection.weight": st.normal([32, 3, 4, 4]),
        "classifier.weight": st.normal([10, 32]), "classifier.bias": st.zeros([10])}, tok=False)
    chain = {f"bbox_predictor.layers.{n}.{k}": st.normal(([4 if n == 2 else 32, 32] if k == "weight" else [4 if n == 2 else 32]))
             for n in range(3) for k in ("weight", "bias")}
    st.folder(d / "detector", {"architectures": ["DetrForObjectDetection"], "model_type": "detr"}, chain, tok=False)
    st.folder(d / "of-another-library", {"architecture": "resnet18", "num_classes": 10, "pretrained_cfg": {}},
              {"conv1.weight": st.normal([8, 3, 7, 7]), "fc.weight": st.normal([10, 8])}, tok=False)


def pipelines(d):
    pipeline(d / "pipeline")
    two = {**PIPELINE, "_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
           "tokenizer_2": ["transformers", "CLIPTokenizer"]}
    pipeline(d / "pipeline-two-encoders", two)
    flux = {**two, "_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    del flux["unet"]
    pipeline(d / "pipeline-transformer", flux)
    control = {**PIPELINE, "controlnet": ["diffusers", "ControlNetModel"]}
    pipeline(d / "pipeline-controlnet", control)
    shutil.rmtree(pipeline(d / "pipeline-controlnet-missing", control) / "controlnet")
    (pipeline(d / "pipeline-weights-missing") / "vae/diffusion_pytorch_model.safetensors").unlink()
    shutil.rmtree(pipeline(d / "pipeline-folder-missing") / "vae")
    (pipeline(d / "pipeline-second-encoder-missing", two) / "text_encoder_2/model.safetensors").unlink()
    shutil.rmtree(pipeline(d / "pipeline-without-tokenizer") / "tokenizer")
    (pipeline(d / "pipeline-config-missing") / "unet/config.json").unlink()
    sharded(pipeline(d / "pipeline-sharded") / "unet")
    sharded(pipeline(d / "pipeline-sharded-fp16") / "unet", "fp16")
    sharded(pipeline(d / "pipeline-shard-missing") / "unet", kept=1)
    sharded(pipeline(d / "pipeline-shard-missing-fp16") / "unet", "fp16", kept=1)
    p = pipeline(d / "pipeline-fp16-alone")
    for name in ("unet", "vae"):
        (p / name / "diffusion_pytorch_model.safetensors").rename(p / name / "diffusion_pytorch_model.fp16.safetensors")
    (p / "text_encoder/model.safetensors").rename(p / "text_encoder/model.fp16.safetensors")
    p = pipeline(d / "pipeline-variants")
    component(p / "unet", name="diffusion_pytorch_model.fp16.safetensors")
    component(p / "unet", convolutions("F32"))
    p = pipeline(d / "pipeline-variant-nan")
    t = convolutions()
    component(p / "unet", t | {"conv_in.weight": st.patched(t["conv_in.weight"], 0, b"\0\x7e")}, "diffusion_pytorch_model.fp16.safetensors")
    p = pipeline(d / "pipeline-nan")
    component(p / "vae", t | {"conv_in.weight": st.patched(t["conv_in.weight"], 0, b"\0\x7e")})
    p = pipeline(d / "pipeline-cut")
    whole = (p / "vae/diffusion_pytorch_model.safetensors").read_bytes()
    st.write(p / "vae/diffusion_pytorch_model.safetensors", whole[:-10])
    p = pipeline(d / "pipeline-stale-index")
    shutil.copy(p / "unet/diffusion_pytorch_model.safetensors", p / "whole")
    sharded(p / "unet", kept=1)
    (p / "whole").rename(p / "unet/diffusion_pytorch_model.safetensors")
    st.write(pipeline(d / "pipeline-index-broken") / "model_index.json", '{"unet": ')
    st.save(pipeline(d / "pipeline-with-a-single-file") / "v1-5.safetensors", {"model.diffusion_model.x.weight": st.normal([8, 4, 3, 3])})
    component(st.fresh(d / "unet"))
    component(st.fresh(d / "unet-fp16"), name="diffusion_pytorch_model.fp16.safetensors")
    p = st.fresh(d / "unet-sharded")
    component(p)
    sharded(p)


def alone(d):
    t = convolutions()
    st.save(st.fresh(d / "comfy") / "sd_xl.safetensors", {"model.diffusion_model." + k: v for k, v in t.items()})
    p = st.fresh(d / "comfy-several")
    for name in ("sd_xl", "sd_xl_refiner", "vae"):
        st.save(p / f"{name}.safetensors", convolutions())
    p = st.fresh(d / "comfy-one-nan")
    st.save(p / "a.safetensors", t)
    st.save(p / "b.safetensors", t | {"conv_in.weight": st.patched(t["conv_in.weight"], 0, b"\0\x7e")})
    st.save(d / "file.safetensors", st.llama())
    st.save(d / "file-empty.safetensors", {})
    st.save(d / "file-nan.safetensors", t | {"conv_in.weight": st.patched(t["conv_in.weight"], 0, b"\0\x7e")})
    st.save(d / "file-erased.safetensors", (lambda t: t | {"model.layers.0.mlp.up_proj.weight": st.zeroed(t["model.layers.0.mlp.up_proj.weight"])})(st.llama()))
    st.write(d / "file-cut.safetensors", st.safetensors(t)[:-10])
    st.write(d / "file-lfs.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def several(d):
    p = st.folder(d / "llama-original")
    st.save(p / "original/consolidated.00.safetensors", {"tok_embeddings.weight": st.normal([320, 64])})
    st.dump(p / "original/params.json", {"dim": 64})
    p = st.folder(d / "model-in-a-model")
    st.folder(p / "draft")
    p = st.folder(d / "broken-model-in-a-model")
    st.folder(p / "draft", None, {k: v for k, v in st.llama().items() if "layers.1.mlp.up" not in k})
    p = st.folder(d / "adapter-in-a-model")
    lora.adapter(p / "adapter")
    p = st.folder(d / "trainer")
    st.folder(p / "checkpoint-100")
    st.dump(p / "checkpoint-100/trainer_state.json", {"epoch": 1.0, "log_history": []})


def refused(d):
    st.write(st.fresh(d / "only-gguf") / "model.Q4_0.gguf", b"GGUF\x03\0\0\0" + bytes(16))
    st.write(st.fresh(d / "only-pickles") / "pytorch_model.bin", b"PK\x03\x04archive/data.pkl")
    st.write(st.fresh(d / "only-onnx") / "model.onnx", b"\x08\x07" + bytes(100))
    st.write(st.fresh(d / "only-text") / "README.md", "# nothing\n")
    st.dump(st.fresh(d / "only-a-tokenizer") / "tokenizer.json", st.tokenizer())
