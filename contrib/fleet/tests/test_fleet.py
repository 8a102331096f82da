"""Whole runs on a real local Ray, with a stand-in for achilles-audit."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from conftest import scans


@pytest.fixture
def run(binary, tmp_path):
    """Runs the command line; returns its exit code, standard output and standard error."""

    def command(models, *more, options=("--static", "--workers", "2")):
        listing = tmp_path / "models.txt"
        listing.write_text("".join(f"{model}\n" for model in models))
        arguments = ["scan", str(listing), "-o", str(tmp_path / "results"), "--binary", str(binary), *options, *more]
        done = subprocess.run(
            [sys.executable, "-m", "achilles_fleet", *arguments], capture_output=True, text=True, timeout=300
        )
        return done.returncode, done.stdout, done.stderr

    return command


def results(tmp_path):
    """Each model's document, by its folder's name."""
    documents = [json.loads(path.read_bytes()) for path in (tmp_path / "results" / "models").glob("*.json")]
    return {os.path.basename(document["model"]): document for document in documents}


def test_every_model_has_a_verdict_and_a_run_goes_on(run, made, binary, tmp_path):
    kinds = ["pass", "fail", "unexamined", "refuse", "panic", "hang", "killed", "kill-worker-once"]
    models = [made(kind, kind) for kind in kinds]
    (tmp_path / "rules.yaml").write_text("extends: default\n")
    more = ("--timeout", "3", "--retries", "1", "--rules", str(tmp_path / "rules.yaml"))
    code, out, errors = run(models, *more)
    assert code == 1, errors
    assert out.startswith(
        "FAIL: 8 models: 2 pass, 1 not examined in full, 4 could not be scanned, 1 fail (8 scanned, 0 kept)"
    )
    found = results(tmp_path)
    assert {name: (document["verdict"], document["cause"]) for name, document in found.items()} == {
        "pass": ("pass", None),
        "fail": ("fail", None),
        "unexamined": ("not-examined", None),
        "refuse": ("error", "refused"),
        "panic": ("error", "crash"),
        "hang": ("error", "timeout"),
        "killed": ("error", "killed"),
        "kill-worker-once": ("pass", None),
    }
    assert found["kill-worker-once"]["attempts"] == found["killed"]["attempts"] == 2
    assert found["killed"]["memory_bytes"] == 2 * found["pass"]["memory_bytes"]
    table = pq.read_table(tmp_path / "results" / "verdicts.parquet").to_pylist()
    assert [row["model"] for row in table] == [str(model) for model in models]
    page = (tmp_path / "results" / "index.html").read_text()
    for row in table:
        assert (tmp_path / "results" / row["result"]).is_file()
        assert f'href="{row["result"]}"' in page

    (models[0] / "new").touch()
    (binary.parent / "scans").unlink()
    code, out, _ = run(models, *more)
    assert code == 1 and "(4 scanned, 4 kept)" in out
    # What changed, and what need be no fault of the model.
    assert set(scans(binary)) == {"pass", "panic", "hang", "killed"}


def test_a_model_is_planned_before_it_is_run(run, made, tmp_path):
    small, large = made("small", needs=1), made("large", needs=1 << 60)
    code, out, errors = run([small, large], options=("--workers", "1"))
    assert code == 2 and out.startswith("NOT EXAMINED: 2 models: 1 pass, 1 could not be scanned"), errors
    found = results(tmp_path)
    assert found["small"]["memory_bytes"] == (512 << 20) + 125
    assert found["large"]["cause"] == "no-memory" and "no node has enough memory" in found["large"]["message"]


def test_what_cannot_be_done_is_one_line(run, made, binary, tmp_path):
    model = made("model")
    (tmp_path / "empty.yaml").touch()
    for given, said in [
        (([],), "names no model"),
        (([model, model],), "is there twice"),
        (([model], "--rules", "nowhere.yaml"), "nowhere.yaml: No such file or directory"),
        (([model], "--binary", "/nowhere/achilles-audit"), "/nowhere/achilles-audit: not found"),
        (([model], "--address", "127.0.0.1:1"), "Ray at 127.0.0.1:1: "),
        (([model], "--rules", str(tmp_path / "empty.yaml")), "achilles-audit scan: empty rules"),
        (([model], "--", "--bogus"), "achilles-audit scan: error: unexpected argument '--bogus' found"),
        (([model], "--cpus", "64"), "no node of the cluster has 64 CPUs"),
    ]:
        code, out, errors = run(*given)
        assert (code, out) == (2, ""), (given, errors)
        assert errors.startswith("achilles-fleet: ") and errors.count("\n") == 1 and said in errors, (given, errors)
    assert not scans(binary)
