"""Holds the critical weights in the memory of a serving vLLM against a vault that `achilles-audit vault` wrote.

vLLM calls `register` in each of its processes. Without a vault, a baseline and `ACHILLES_GUARD_ALL` it does nothing.
"""

import os


def register() -> None:
    """The entry point of `vllm.general_plugins`. A wrong setting stops the server here, before a model is loaded."""
    from .settings import Settings

    settings = Settings.of(os.environ)
    if settings is None:
        return
    from .plugin import install

    install(settings)
