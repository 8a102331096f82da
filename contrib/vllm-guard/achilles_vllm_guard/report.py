"""What the guard of one worker tells: lines in the log, JSON lines in a file, a status that the API server reads."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

# Below vLLM's own logger, so that its handlers and levels apply.
LOG = logging.getLogger("vllm.achilles_guard")
REPAIRED = "repaired"
"""The file in the state folder whose time of change says that cached keys and values may be of damaged weights."""


class Report:
    """Counters are kept here, and written as one file a worker after each check."""

    def __init__(self, worker: str, state: Path, events: Path | None):
        self.worker, self.state, self.events = worker, state, events
        self.gauges: dict[str, float] = {}
        self.counters: dict[str, float] = {"checks": 0, "failed_checks": 0, "repairs": 0, "checksum_rounds": 0}
        self.differences: dict[str, dict[str, int]] = {"vault": {}, "checksum": {}, "baseline": {}}

    def event(self, kind: str, text: str, tensor: str, **fields: Any) -> None:
        """One difference: counted, one line in the log, one in the file."""
        of_kind = self.differences[kind]
        of_kind[tensor] = of_kind.get(tensor, 0) + 1
        LOG.error("achilles-guard: %s [%s]", text, self.worker)
        if self.events is None:
            return
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        about = {"time_utc": now, "time": time.time(), "worker": self.worker, "kind": kind, "tensor": tensor}
        line = json.dumps({**about, **fields}) + "\n"
        try:
            with open(self.events, "ab", buffering=0) as file:
                file.write(line.encode())
        except OSError as error:
            LOG.error("achilles-guard: %s: %s", self.events, error.strerror)

    def repaired(self) -> None:
        """Tells the scheduler, which may be in another process, to forget what damaged weights have computed."""
        self.counters["repairs"] += 1
        (self.state / REPAIRED).write_text(str(time.time_ns()))

    def write(self) -> None:
        """Whole or not at all, as the API server may be reading."""
        status = {
            "worker": self.worker,
            "gauges": self.gauges,
            "counters": self.counters,
            "differences": self.differences,
        }
        path = self.state / f"{self.worker}.json"
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(status))
            os.replace(partial, path)
        except OSError as error:
            LOG.error("achilles-guard: %s: %s", path, error.strerror)


def read_all(state: Path) -> list[dict[str, Any]]:
    """The status of each worker."""
    found = []
    for path in sorted(state.glob("*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            LOG.warning("achilles-guard: %s cannot be read", path)
    return found
