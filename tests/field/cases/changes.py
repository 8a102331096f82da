"""Two models that differ from a third: matrices made anew, and matrices swapped."""

import st


def build(d):
    c = st.llama_config(hidden=128, inter=512)
    t, key = st.llama(c), "model.layers.{}.mlp.down_proj.weight"
    st.folder(d / "before", c)
    anew = {key.format(layer): st.normal([128, 512]) for layer in range(2)}
    st.folder(d / "made-anew", c, {**t, **anew})
    st.folder(d / "swapped", c, {**t, key.format(0): t[key.format(1)], key.format(1): t[key.format(0)]})
