"""Sound, whole and in shards."""

import st


def build(d):
    st.folder(d / "whole")
    st.shards(st.folder(d / "sharded"), st.llama(), 3)
    st.shards(st.folder(d / "sharded-no-index"), st.llama(), 3)
    (d / "sharded-no-index/model.safetensors.index.json").unlink()
