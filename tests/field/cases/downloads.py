"""What lies where a file should, when it was not fetched: pointers of Git LFS, web pages, nothing, a part."""

import hashlib

import st


def pointer(data):
    digest = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n"


def build(d):
    for name, file in (("lfs-single", "model.safetensors"), ("lfs-tokenizer", "tokenizer.json")):
        path = st.folder(d / name) / file
        st.write(path, pointer(path.read_bytes()))
    p = st.folder(d / "lfs-shard")
    st.shards(p, st.llama(), 3)
    shard = p / "model-00002-of-00003.safetensors"
    st.write(shard, pointer(shard.read_bytes()))
    st.write(d / "lfs.gguf", pointer(b"x" * 100))
    page = "<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"
    st.write(st.folder(d / "page") / "model.safetensors", page)
    st.write(st.folder(d / "nothing") / "model.safetensors", b"")
    path = st.folder(d / "half") / "model.safetensors"
    st.write(path, path.read_bytes()[:100_000])
