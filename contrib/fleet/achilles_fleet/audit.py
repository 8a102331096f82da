"""Runs achilles-audit."""

import contextlib
import ctypes
import itertools
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from achilles_fleet.refused import Refused
from achilles_fleet.settings import Settings

_PR_SET_PDEATHSIG = 1
_LAST_BYTES = 4096
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (negative: the signal that ended it), none where its time was up."""

    code: int | None
    message: str

    @property
    def cause(self) -> str:
        """Why it left no document."""
        if self.code is None:
            return "timeout"
        if self.code == -signal.SIGKILL:
            return "killed"
        return "refused" if self.code == 2 else "crash"


def version(binary: str) -> str:
    """The version of the binary."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60)
    except OSError as error:
        raise Refused(f"{binary}: {error.strerror}; install achilles-audit, or name it with --binary") from None
    except subprocess.TimeoutExpired:
        raise Refused(f"{binary}: does not tell its version in a minute") from None
    name, _, found = done.stdout.strip().partition(" ")
    if done.returncode or name != "achilles-audit" or not found:
        raise Refused(f"{binary}: is not achilles-audit: --version gives {done.stdout.strip()[:80]!r}")
    return found


@contextlib.contextmanager
def placed(settings: Settings) -> Iterator[tuple[str, list[str], Path]]:
    """The rules and options with files in place, and a folder of their own to write to."""
    with tempfile.TemporaryDirectory(prefix="achilles-fleet-") as folder:
        paths = []
        for at, file in enumerate(settings.files):
            # Relative, since reports name the rules' file: the same in every scan.
            path = Path(str(at), file.name)
            (Path(folder) / path.parent).mkdir()
            (Path(folder) / path).write_bytes(file.content)
            paths.append(str(path))
        rules, *options = (text.format(*paths) for text in (settings.rules, *settings.options))
        yield rules, options, Path(folder)


def scan(settings: Settings, target: str, more: list[str]) -> tuple[dict[str, Any] | None, Ended]:
    """The document of a scan, none where it left none, and how it ended."""
    with placed(settings) as (rules, options, folder):
        output = folder / "scan.json"
        how = ["--static"] if settings.static else []
        fixed = ["--rules", rules, "--format", "json", "--progress", "none", "-o", str(output)]
        ended = _run(settings, ["scan", *how, *fixed, *options, *more, "--", target], folder)
        return _document(output, "achilles-audit/scan/v1", ended), ended


def estimate(settings: Settings, target: str, more: list[str]) -> tuple[dict[str, Any] | None, Ended]:
    """What achilles-audit says that a scan of the model takes."""
    with placed(settings) as (_, options, folder):
        output = folder / "estimate.json"
        fixed = ["--format", "json", "--progress", "none", "-o", str(output)]
        ended = _run(settings, ["estimate", *fixed, *_estimated(options), *more, "--", target], folder)
        return _document(output, "achilles-audit/estimate/v1", ended), ended


# Options of scan that bear on what it takes.
_ESTIMATED = (
    "--dtype",
    "--text",
    "--text-file",
    "--ranking",
    "--side",
    "--sites",
    "--counting",
    "--alpha",
    "-k",
    "--samples",
    "--seed",
    "--epsilon",
    "--max-neurons",
)


def _estimated(options: list[str]) -> list[str]:
    pairs = itertools.pairwise(options)
    return [text for option, value in pairs if option in _ESTIMATED for text in (option, value)]


def _document(path: Path, schema: str, ended: Ended) -> dict[str, Any] | None:
    if ended.code not in (0, 1, 2) or not path.is_file():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    if document.get("schema") != schema:
        raise Refused(f"achilles-audit wrote {document.get('schema')!r}, expected {schema}")
    return document


def _run(settings: Settings, arguments: list[str], folder: Path) -> Ended:
    errors = folder / "stderr"
    environment = {**os.environ, "RAYON_NUM_THREADS": str(max(1, int(settings.cpus)))}
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [settings.binary, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=folder,
            env=environment,
            # A worker that is killed takes its scan along; else it would go on beside the retry.
            preexec_fn=_die_with_parent,
        )
        try:
            code = process.wait(settings.timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
    if code is None:
        return Ended(None, f"no result in {settings.timeout_s:g} seconds")
    with errors.open("rb") as stderr:
        stderr.seek(max(0, errors.stat().st_size - _LAST_BYTES))
        said = stderr.read().decode(errors="replace").strip()
    if code < 0:
        return Ended(code, f"ended by {signal.Signals(-code).name}")
    return Ended(code, _told(said) or f"exit code {code}")


def _told(said: str) -> str:
    """The line of standard error that says why: the tool's own, an option's or a panic's, else the last."""
    lines = said.splitlines()
    for line in lines:
        if line.startswith(("error: ", "achilles-audit: ")) or " panicked at " in line:
            return line.removeprefix("achilles-audit: ")
    return lines[-1] if lines else ""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
