"""Snapshots in the hub's cache, whose blobs are named by their digests."""

import hashlib
import os

import st

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def build(d):
    source = st.folder(d / "source")
    bit, rope = flip_a_bit, lambda data: data.replace(b'"rope_theta": 10000.0', b'"rope_theta": 500000.0')
    cache(d / "good", source, {})
    cache(d / "bad-weights", source, {"model.safetensors": bit})
    cache(d / "bad-config", source, {"config.json": rope})
    missing = d / "missing-blob/models--org--tiny"
    cache(d / "missing-blob", source, {})
    os.remove((missing / "snapshots" / COMMIT / "model.safetensors").resolve())


def flip_a_bit(data):
    return data[:-1000] + bytes([data[-1000] ^ 4]) + data[-999:]


def cache(path, source, changes):
    """A snapshot of `source` in which files are changed after they were named."""
    repo = st.fresh(path / "models--org--tiny")
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    st.write(repo / "refs/main", COMMIT)
    for file in sorted(source.iterdir()):
        data = file.read_bytes()
        blob = hashlib.sha256(data).hexdigest() if file.suffix == ".safetensors" else git_blob(data)
        st.write(repo / "blobs" / blob, changes.get(file.name, lambda same: same)(data))
        os.symlink(f"../../blobs/{blob}", snapshot / file.name)
