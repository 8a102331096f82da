import os
import shutil

import pytest

from achilles_fleet.identity import identity
from achilles_fleet.models import model_of
from achilles_fleet.refused import Refused
from achilles_fleet.worker import is_known


def known(folder, by_digest=False):
    return identity(model_of(str(folder)), by_digest)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    (path / "sub").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "sub" / "w.bin").write_bytes(b"weights")
    return path


@pytest.mark.parametrize("by_digest", [False, True])
@pytest.mark.parametrize("change", ["content", "name", "more", "less", "link", "folder"])
def test_what_changes_a_model_changes_its_identity(folder, by_digest, change):
    before = known(folder, by_digest)
    assert known(folder, by_digest) == before
    match change:
        case "content":
            (folder / "sub" / "w.bin").write_bytes(b"WEIGHTS")
        case "name":
            (folder / "config.json").rename(folder / "konfig.json")
        case "more":
            (folder / "sub" / "x").touch()
        case "less":
            (folder / "sub" / "w.bin").unlink()
        case "link":
            (folder / "link").symlink_to("nowhere")
        case "folder":
            (folder / "empty").mkdir()
    assert known(folder, by_digest) != before


def test_content_under_an_old_date_is_another_model(folder):
    path = folder / "sub" / "w.bin"
    stamp = path.stat()
    before = known(folder)
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_mtime_ns == stamp.st_mtime_ns and path.stat().st_size == stamp.st_size
    assert known(folder) != before


def test_a_copy_is_the_same_by_digest_alone(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert known(copy, True) == known(folder, True)
    assert known(copy) != known(folder)


@pytest.mark.parametrize("by_digest", [False, True])
def test_linked_folders_count_and_may_go_in_circles(folder, tmp_path, by_digest):
    (tmp_path / "other").mkdir()
    (folder / "out").symlink_to(tmp_path / "other")
    (folder / "up").symlink_to(folder)
    before = known(folder, by_digest)
    (tmp_path / "other" / "file").touch()
    assert known(folder, by_digest) != before


def test_all_parts_of_a_split_file_count(tmp_path):
    first = tmp_path / "m-00001-of-00002.gguf"
    first.touch()
    (tmp_path / "other-00002-of-00002.gguf").touch()
    before = known(first)
    (tmp_path / "other-00002-of-00002.gguf").write_text("x")
    assert known(first) == before
    (tmp_path / "m-00002-of-00002.gguf").touch()
    assert known(first) != before


def test_a_hub_id_is_known_by_its_commit():
    commit = "org/name@" + "a" * 40
    assert identity(model_of(commit), False) is not None
    assert identity(model_of("org/name@main"), False) is None


def test_an_id_without_a_commit_is_never_known(asked):
    key = asked().key(None, "2026-01-01")
    assert not is_known(key, key)
    key = asked().key("model", "2026-01-01")
    assert is_known(key, dict(key)) and not is_known(key, None)


def test_every_setting_is_in_the_key(asked, tmp_path):
    rules, other = tmp_path / "a.yaml", tmp_path / "b" / "a.yaml"
    rules.write_text("fail_on: error\n")
    other.parent.mkdir()
    other.write_text("fail_on: note\n")
    variants = [
        asked(),
        asked(static=False),
        asked(static=False, gpus=1),
        asked(rules="release"),
        asked(rules=str(rules)),
        asked(rules=str(other)),
        asked(options=["--seed", "1"]),
        asked(options=["--seed", "2"]),
        asked(options=["--text-file", str(rules)]),
        asked(options=["--text-file", str(other)]),
        asked().of_version("0.2.0"),
    ]
    keys = [tuple(variant.key("model", "2026-01-01").values()) for variant in variants]
    assert len(set(keys)) == len(keys)
    assert asked(timeout_s=1, cpus=2).key("model", "") == asked().key("model", "")
    assert asked(options=["--seed=1"]).key("m", "") == asked(options=["--seed", "1"]).key("m", "")


def test_waivers_are_judged_anew_each_day(asked, tmp_path):
    rules = tmp_path / "rules.yaml"
    rules.write_text("extends: default\n")
    assert asked(rules=str(rules)).key("model", "2026-01-01") == asked(rules=str(rules)).key("model", "2026-01-02")
    rules.write_text("extends: default\nwaivers: []\n")
    assert asked(rules=str(rules)).key("model", "2026-01-01") != asked(rules=str(rules)).key("model", "2026-01-02")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"rules": "nowhere.yaml"},
            "nowhere.yaml: No such file or directory; expected default, release or a rule file",
        ),
        ({"options": ["--text-file", "nowhere"]}, "nowhere: No such file"),
        ({"options": ["--format", "html"]}, "--format is not passed on"),
        ({"options": ["--fingerprint=f.json"]}, "--fingerprint is not passed on to scan: it belongs to one model"),
        ({"gpus": 0.5}, "--gpus 0.5 shares a card"),
        ({"gpus": 1, "options": ["--device", "cpu"]}, "--gpus chooses it"),
    ],
)
def test_bad_settings_are_refused(asked, given, said):
    with pytest.raises(Refused, match=said):
        asked(**given)
