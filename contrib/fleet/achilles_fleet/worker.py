"""What runs on the workers."""

import datetime
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from achilles_fleet import audit
from achilles_fleet.audit import Ended
from achilles_fleet.identity import identity
from achilles_fleet.models import Model
from achilles_fleet.plan import Plan, plan
from achilles_fleet.refused import Refused
from achilles_fleet.settings import Settings

Key = dict[str, str | None]

# By binary and its time of change: its version, asked once in a worker's life.
_versions: dict[tuple[str, int], str] = {}


@dataclass(frozen=True)
class Result:
    """What came of a scan: its document, or why there is none."""

    key: Key
    report: dict[str, Any] | None
    ended: Ended
    cause: str | None
    seconds: float


def probe(settings: Settings) -> str:
    """The version of this node's binary, which takes the rules and options: tried on a folder with a config alone."""
    version = audit.version(settings.binary)
    with tempfile.TemporaryDirectory(prefix="achilles-fleet-") as folder:
        Path(folder, "config.json").write_text('{"architectures": ["None"]}', encoding="utf-8")
        device = ["--device", "cuda:0"] if settings.gpus else []
        report, ended = audit.scan(settings, folder, device)
    if report is None:
        raise Refused(f"achilles-audit scan: {ended.message}")
    return version


def kept_key(settings: Settings, model: Model) -> Key:
    """What a verdict on the model would now depend on."""
    _check_version(settings)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return settings.key(identity(model, settings.by_digest), today)


def prepare(settings: Settings, model: Model, known: Key | None, most_bytes: int) -> Plan | Ended | None:
    """How to scan the model; nothing where what is known of it still holds."""
    if is_known(kept_key(settings, model), known):
        return None
    return plan(settings, model.target, most_bytes)


def examine(settings: Settings, model: Model, known: Key | None, options: tuple[str, ...]) -> Result | None:
    """Scans the model; nothing where what is known of it still holds."""
    key = kept_key(settings, model)
    if is_known(key, known):
        return None
    start = time.monotonic()
    report, ended = audit.scan(settings, model.target, list(options))
    seconds = time.monotonic() - start
    cause = None if report else ended.cause
    if kept_key(settings, model) != key:
        report, cause, ended = None, "changed", Ended(ended.code, "its files changed while they were examined")
    return Result(key, report, ended, cause, seconds)


def is_known(key: Key, known: Key | None) -> bool:
    """Whether a verdict by one key answers another; never where the model's identity is not known beforehand."""
    return known is not None and key["model"] is not None and key == known


def _check_version(settings: Settings) -> None:
    stamp = (settings.binary, _changed(settings.binary))
    if stamp not in _versions:
        _versions[stamp] = audit.version(settings.binary)
    if _versions[stamp] != settings.version:
        raise Refused(f"{settings.binary}: version {_versions[stamp]} here, {settings.version} on another node")


def _changed(binary: str) -> int:
    path = Path(binary)
    return path.stat().st_mtime_ns if path.is_file() else 0
