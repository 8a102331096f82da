"""What a run asks of every scan."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from achilles_fleet.refused import Refused

# Options of `achilles-audit scan` whose value is a file of this machine, which goes along to the workers.
_FILES = ("--text-file", "--public-key", "--cert-roots", "--base")
# Those that a run sets itself, or that belong to one model.
_OURS = ("--rules", "--static", "--format", "-o", "--output", "--progress", "--memory")
_OF_ONE_MODEL = ("--fingerprint", "--baseline", "--prompts", "--result-cache")
_BUILT_IN_RULES = ("default", "release")


@dataclass(frozen=True)
class File:
    """A file of the driver's machine, to be written anew beside each scan."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Settings:
    """How every model is scanned. `files` are named in `rules` and `options` by `{0}`, `{1}`, …"""

    binary: str
    rules: str
    options: tuple[str, ...]
    files: tuple[File, ...]
    static: bool
    by_digest: bool
    timeout_s: float
    cpus: float
    gpus: float
    version: str = ""

    def of_version(self, version: str) -> "Settings":
        """The same, asked of one version of achilles-audit."""
        return replace(self, version=version)

    def key(self, model: str | None, today: str) -> dict[str, str | None]:
        """What a verdict depends on. The day is part of it where the rules hold waivers, since those expire."""
        texts = [self.rules, *self.options, "static" if self.static else f"gpus {self.gpus > 0}"]
        # The list's lengths keep two texts apart from one that holds both.
        asked = hashlib.sha256(repr(texts).encode())
        for file in self.files:
            asked.update(repr((file.name, hashlib.sha256(file.content).hexdigest())).encode())
        expires = any(re.search(rb"waivers", file.content) for file in self.files)
        return {
            "model": model,
            "settings": asked.hexdigest(),
            "version": self.version,
            "day": today if expires else None,
        }


def settings(
    *,
    binary: str,
    rules: str,
    options: list[str],
    static: bool,
    by_digest: bool,
    timeout_s: float,
    cpus: float,
    gpus: float,
) -> Settings:
    """Checks and gathers them, files read."""
    files: list[File] = []

    def taken(path: str, what: str) -> str:
        try:
            files.append(File(Path(path).name, Path(path).read_bytes()))
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}; expected {what}") from None
        return f"{{{len(files) - 1}}}"

    if rules not in _BUILT_IN_RULES:
        rules = taken(rules, "default, release or a rule file")
    options = [part for option in options for part in _split(option)]
    out: list[str] = []
    for at, option in enumerate(options):
        if option in _OURS:
            raise Refused(f"{option} is not passed on to scan: give it before --, or leave it out")
        if option in _OF_ONE_MODEL:
            raise Refused(f"{option} is not passed on to scan: it belongs to one model")
        before = options[at - 1] if at else ""
        if before in _FILES and not (before == "--base" and option.startswith("published:")):
            out.append(taken(option, f"a file for {before}"))
        else:
            out.append(option.replace("{", "{{").replace("}", "}}"))
    if 0 < gpus < 1 and "--gpu-memory" not in out:
        raise Refused(f"--gpus {gpus:g} shares a card: give each scan its part of it, as in -- --gpu-memory 20GB")
    if gpus and "--device" in out:
        raise Refused("--device is not passed on to scan: --gpus chooses it")
    return Settings(binary, rules, tuple(out), tuple(files), static, by_digest, timeout_s, cpus, gpus)


def _split(option: str) -> list[str]:
    """`--name=value` in two."""
    name, equals, value = option.partition("=")
    return [name, value] if equals and name.startswith("--") and name != "--signature" else [option]
