"""Names, links and files beside the model's own."""

import os

import st


def build(d):
    names(d)
    links(d)
    companions(d)
    p = st.folder(d / "deep")
    for _ in range(40):
        p = p / "d"
        p.mkdir()
    os.mkfifo(st.folder(d / "fifo") / "pipe.safetensors")
    p = st.folder(d / "upper-case")
    (p / "model.safetensors").rename(p / "MODEL.SAFETENSORS")


def names(d):
    p = st.folder(d / "with space & é 模型")
    st.write(p / "notes für später.md", "x")
    st.write(st.folder(d / "bidirectional") / "\u202egpj.exe", "x")
    st.write(st.folder(d / "newline") / "a\nb.txt", "x")
    with open(os.path.join(os.fsencode(st.folder(d / "not-utf8")), b"bad\xff.txt"), "w") as f:
        f.write("x")


def links(d):
    p = st.folder(d / "loops")
    os.symlink(".", p / "self")
    os.symlink("b", p / "a")
    os.symlink("a", p / "b")
    (p / "sub").mkdir()
    os.symlink("..", p / "sub/up")
    st.folder(d / "real")
    os.symlink("real", d / "link-to-real")
    p = st.folder(d / "venv")
    (p / ".venv/bin").mkdir(parents=True)
    os.symlink("/usr/bin/env", p / ".venv/bin/python")


def companions(d):
    p = st.folder(d / "assets")
    st.write(p / "README.md", b"# x\n" * 50_000)
    st.write(p / "assets/banner.png", st.rng.randbytes(300_000))
    st.dump(p / "trace.json", {"a": list(range(80_000))})
    st.write(p / ".gitattributes", "*.safetensors filter=lfs\n")
    st.write(p / ".DS_Store", b"\0\0")
    st.write(p / ".cache/huggingface/download/model.safetensors.metadata", "abc\n")
    st.write(p / ".cache/huggingface/download/x.lock", b"")
    p = st.folder(d / "read-only")
    os.chmod(p / "model.safetensors", 0o400)
    t = st.llama()
    p = st.folder(d / "backups")
    st.save(p / "model.safetensors.bak", t)
    st.save(p / "model (1).safetensors", t)
    st.dump(p / "config (1).json", st.llama_config())
    for name in ("model.safetensors~", "model.safetensors.part", "model.safetensors.aria2",
                 "model.safetensors.crdownload", "tmp_model.safetensors.tmp"):
        st.write(p / name, b"x")
    p = st.folder(d / "models-in-a-model")
    st.folder(p / "checkpoint-500")
    st.folder(p / "original", None, {k: (v[0], v[1], b"\xc0\x7f" * 64) if "norm" in k else v for k, v in t.items()})
