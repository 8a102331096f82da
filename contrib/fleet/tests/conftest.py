"""A stand-in for achilles-audit, and what tests share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from achilles_fleet.settings import Settings, settings

# Scans a folder by what its file `does` says, and notes each scan in `scans` beside the binary.
STAND_IN = r"""#!/bin/sh
here=$(dirname "$0")
if [ "$1" = --version ]; then echo "achilles-audit $(cat "$here/version")"; exit 0; fi
command=$1
for last; do :; done
while [ $# -gt 0 ]; do
  case $1 in
    -o) out=$2 ;;
    --memory) memory=${2%B} ;;
    --rules) rules=$2 ;;
    --bogus) echo "error: unexpected argument '--bogus' found" >&2; exit 2 ;;
  esac
  shift
done
if [ "$command" = estimate ]; then
  need=$(cat "$last/needs" 2> /dev/null) || { echo "achilles-audit: no model" >&2; exit 2; }
  problem=null
  [ "${memory:-$need}" -ge "$need" ] || problem='"too little"'
  printf '{"schema": "achilles-audit/estimate/v1", "memory": {"resident_bytes": 100, "streamed_bytes": 10, ' > "$out"
  printf '"problem": %s}}' "$problem" >> "$out"
  exit 0
fi
case $rules in default | release) ;; *) [ -s "$rules" ] || { echo "achilles-audit: empty rules" >&2; exit 2; } ;; esac
[ -f "$last/does" ] && echo "$last" >> "$here/scans"
case $(cat "$last/does" 2> /dev/null) in
  refuse) echo "achilles-audit: no weights" >&2; exit 2 ;;
  panic) echo "thread 'main' panicked at src/x.rs:1:1:" >&2; exit 101 ;;
  segfault) kill -SEGV $$ ;;
  killed) kill -KILL $$ ;;
  hang) exec sleep 600 ;;
  kill-worker-once) [ -f "$here/was-killed" ] || { : > "$here/was-killed"; kill -KILL $PPID; exec sleep 600; } ;;
  change) : > "$last/new" ;;
esac
case $(cat "$last/does" 2> /dev/null) in
  fail) verdict=fail code=1 findings='{"id": "zero-row", "severity": "warning", "message": "row 1"}' ;;
  unexamined) verdict=not-examined code=2 findings= ;;
  *) verdict=pass code=0 findings= ;;
esac
printf '{"schema": "achilles-audit/scan/v1", "verdict": "%s", "findings": [%s]}' "$verdict" "$findings" > "$out"
exit $code
"""


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """A stand-in for achilles-audit."""
    folder = tmp_path / "bin"
    folder.mkdir()
    path = folder / "achilles-audit"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    (folder / "version").write_text("0.1.0\n")
    return path


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Makes a model that does something when it is scanned."""

    def make(name: str, does: str = "pass", needs: int | None = None) -> Path:
        folder = tmp_path / "registry" / name
        folder.mkdir(parents=True)
        (folder / "does").write_text(does)
        if needs is not None:
            (folder / "needs").write_text(str(needs))
        return folder

    return make


@pytest.fixture
def asked(binary: Path) -> Callable[..., Settings]:
    """Settings, where nothing else is given static ones by the default rules."""

    def ask(**other: object) -> Settings:
        usual = {
            "binary": str(binary),
            "rules": "default",
            "options": [],
            "static": True,
            "by_digest": False,
            "timeout_s": 60,
            "cpus": 1,
            "gpus": 0,
        }
        return settings(**{**usual, **other}).of_version("0.1.0")  # type: ignore[arg-type]

    return ask


def scans(binary: Path) -> list[str]:
    """The names of models that were scanned, in order."""
    path = binary.parent / "scans"
    return [os.path.basename(line) for line in path.read_text().splitlines()] if path.exists() else []
