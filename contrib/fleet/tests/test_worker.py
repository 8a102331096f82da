import signal

import pytest
from conftest import scans

from achilles_fleet import audit, worker
from achilles_fleet.models import model_of
from achilles_fleet.plan import STATIC_BYTES, Plan, plan
from achilles_fleet.refused import Refused

GIB = 1 << 30


@pytest.mark.parametrize(
    ("does", "verdict", "cause", "code"),
    [
        ("pass", "pass", None, 0),
        ("fail", "fail", None, 1),
        ("unexamined", "not-examined", None, 2),
        ("refuse", None, "refused", 2),
        ("panic", None, "crash", 101),
        ("segfault", None, "crash", -signal.SIGSEGV),
        ("killed", None, "killed", -signal.SIGKILL),
        ("hang", None, "timeout", None),
        ("change", None, "changed", 0),
    ],
)
def test_how_a_scan_ends(asked, made, does, verdict, cause, code):
    result = worker.examine(asked(timeout_s=1), model_of(str(made("model", does))), None, ())
    assert (result.report["verdict"] if result.report else None) == verdict
    assert (result.cause, result.ended.code) == (cause, code)
    assert result.report or result.ended.message


def test_what_is_known_is_not_scanned_again(asked, made, binary):
    model = model_of(str(made("model")))
    first = worker.examine(asked(), model, None, ())
    assert worker.examine(asked(), model, first.key, ()) is None
    assert worker.prepare(asked(), model, first.key, GIB) is None
    assert scans(binary) == ["model"]
    assert worker.examine(asked(options=["--seed", "2"]), model, first.key, ()) is not None
    assert scans(binary) == ["model", "model"]


def test_another_version_on_a_worker_is_refused(asked, made):
    with pytest.raises(Refused, match=r"version 0\.1\.0 here, 0\.2\.0 on another node"):
        worker.examine(asked().of_version("0.2.0"), model_of(str(made("model"))), None, ())


def test_the_probe_tries_rules_and_options(asked, tmp_path):
    assert worker.probe(asked()) == "0.1.0"
    with pytest.raises(Refused, match="unexpected argument '--bogus'"):
        worker.probe(asked(options=["--bogus"]))
    (tmp_path / "rules.yaml").touch()
    with pytest.raises(Refused, match="empty rules"):
        worker.probe(asked(rules=str(tmp_path / "rules.yaml")))
    with pytest.raises(Refused, match="is not achilles-audit"):
        audit.version("true")
    with pytest.raises(Refused, match="No such file"):
        audit.version("/nowhere/achilles-audit")


def test_memory_is_what_estimate_says_suffices(asked, made):
    live = asked(static=False)
    beside = 512 << 20
    small = plan(live, str(made("small", needs=1)), 64 * GIB)
    assert small == Plan(beside + 125, ("--weights", "resident", "--memory", f"{beside + 125}B"))
    doubled = plan(live, str(made("doubled", needs=beside + 126)), 64 * GIB)
    assert doubled.bytes == 2 * (beside + 125)
    large = plan(live, str(made("large", needs=GIB)), beside + 20)
    assert large.cause == "refused" and "no node has enough memory" in large.message and "too little" in large.message
    gpu = plan(asked(static=False, gpus=1), str(made("gpu", needs=1)), 64 * GIB)
    assert gpu == Plan(beside + 12, ("--device", "cuda:0"))


def test_what_is_not_computed_takes_what_static_scans_take(asked, made):
    assert plan(asked(static=False), str(made("adapter")), 64 * GIB) == Plan(STATIC_BYTES, ())
