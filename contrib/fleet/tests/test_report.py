import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest

from achilles_fleet.models import model_of
from achilles_fleet.page import page
from achilles_fleet.store import SCHEMA, Store
from achilles_fleet.table import parquet
from achilles_fleet.text import printable
from achilles_fleet.verdicts import Row, exit_code, rows, summary

ROW = Row("m", "pass", None, "", (), 0, 0, 0, 0, None, 0.5, 1, "0.1.0", "2026-01-01T00:00:00+00:00", "models/m-1.json")
HOSTILE = "</td><script>alert(1)</script>\"'&\u202e\x1b[31m\udcff\u200b"


def test_a_row_tells_what_was_found(tmp_path):
    store, model = Store(tmp_path), model_of("/m")
    findings = [
        {"id": "n", "severity": "note", "message": "a note"},
        {"id": "zero-row", "severity": "warning", "message": "row 1", "location": {"file": "f", "tensor": "t"}},
        {"id": "nan", "severity": "error", "message": "a NaN"},
        {"id": "nan", "severity": "error", "message": "another"},
        {"id": "pickle-file", "severity": "error", "message": "x", "waived": {"reason": "y"}},
    ]
    report = {
        "findings": findings,
        "model": {"architecture": "A"},
        "not_examined": [{"measurement": "base", "why": "z"}],
    }
    document = {
        "schema": SCHEMA,
        "model": "m",
        "target": "/m",
        "verdict": "fail",
        "cause": None,
        "message": None,
        "key": {"version": "0.1.0"},
        "attempts": 2,
        "seconds": 1.5,
        "finished": "now",
        "report": report,
    }
    with store.locked():
        store.write(model, document)
        (row,) = rows(store, [model])
        assert (row.rules, row.errors, row.warnings, row.notes, row.waived) == (("zero-row", "nan"), 2, 1, 1, 1)
        assert (row.message, row.architecture, row.attempts) == ("t: row 1", "A", 2)
        store.write(model, {**document, "verdict": "not-examined"})
        assert rows(store, [model])[0].message == "base: z"
        store.write(model, {**document, "verdict": "error", "report": None, "message": "no weights"})
        assert rows(store, [model])[0].message == "no weights"
        with pytest.raises(FileNotFoundError):
            rows(store, [model, model_of("/lost")])


@pytest.mark.parametrize(
    ("verdicts", "code", "word"),
    [
        (["pass", "pass"], 0, "PASS: 2 models: 2 pass"),
        (["pass", "error"], 2, "NOT EXAMINED: 2 models: 1 pass, 1 could not be scanned"),
        (["not-examined"], 2, "NOT EXAMINED: 1 model: 1 not examined in full"),
        (["error", "fail", "pass"], 1, "FAIL: 3 models: 1 pass, 1 could not be scanned, 1 fail"),
    ],
)
def test_the_exit_code_is_that_of_the_worst(verdicts, code, word):
    found = [replace(ROW, verdict=verdict) for verdict in verdicts]
    assert (exit_code(found), summary(found)) == (code, word)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.links, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_hostile_text_as_text_and_loads_nothing():
    bad = replace(ROW, model=HOSTILE, verdict="fail", cause=HOSTILE, message=HOSTILE, rules=(HOSTILE,))
    html = page([bad, ROW], HOSTILE, HOSTILE, "now")
    reader = Reader()
    reader.feed(html)
    assert "script" not in reader.tags and "img" not in reader.tags
    assert set(reader.links) == {"verdicts.parquet", "models/m-1.json"}
    assert "<script>alert(1)</script>\"'&\\u{202e}\\u{1b}[31m\\u{dcff}\\u{200b}" in reader.text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e\u200b\udcff]", html)
    assert "https:" not in html and "http:" not in html


def test_the_page_begins_with_what_fails():
    html = page([ROW, replace(ROW, model="bad", verdict="fail", rules=("nan",))], "default", "0.1.0", "now")
    assert html.index(">bad<") < html.index(">m<")
    assert "<h1>FAIL: 2 models: 1 pass, 1 fail</h1>" in html
    assert '<td class="n">1</td><td><code>nan</code></td>' in html


def test_parquet_holds_every_row():
    found = [ROW, replace(ROW, model=HOSTILE, rules=("nan", "zero-row"), cause="crash", errors=3)]
    table = pq.read_table(io.BytesIO(parquet(found))).to_pylist()
    assert [row["result"] for row in table] == ["models/m-1.json"] * 2
    assert table[0]["model"] == "m" and table[0]["cause"] is None and table[0]["seconds"] == 0.5
    assert table[1]["rules"] == ["nan", "zero-row"] and table[1]["errors"] == 3
    assert table[1]["model"] == HOSTILE.replace("\udcff", "\\udcff")
    assert pq.read_table(io.BytesIO(parquet([]))).num_rows == 0


def test_text_that_does_not_show_is_escaped():
    assert printable("a é 模型 - b") == "a é 模型 - b"
    assert printable("a\nb\u2028\u00a0\u202e") == "a\\u{a}b\\u{2028}\\u{a0}\\u{202e}"
