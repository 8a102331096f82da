import pytest

from achilles_fleet.models import model_of, read_models
from achilles_fleet.refused import Refused


def test_a_list_holds_folders_files_ids_and_comments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "local").mkdir(parents=True)
    (tmp_path / "list").write_text("# ours\n\n org/local \norg/name@main\nmodels/x.gguf\n./a #b\n")
    models = read_models(tmp_path / "list")
    assert [(model.name, model.target, model.is_hub) for model in models] == [
        ("org/local", str(tmp_path / "org/local"), False),
        ("org/name@main", "org/name@main", True),
        ("models/x.gguf", str(tmp_path / "models/x.gguf"), False),
        ("./a #b", str(tmp_path / "a #b"), False),
    ]


def test_only_a_commit_pins_an_id():
    assert model_of("org/name@" + "0123456789" * 4).is_pinned
    assert not model_of("org/name@main").is_pinned
    assert not model_of("org/name").is_pinned


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# nothing\n\n", "names no model"),
        (b"a/\n# x\n./b/../a\n", r"line 3: ./b/../a is there twice, first in line 1"),
        (b"\xff\n", "is not text in UTF-8"),
        (b"a\0b\n", "line 1: holds a NUL"),
        (None, "No such file"),
    ],
)
def test_a_bad_list_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "list"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Refused, match=said) as refused:
        read_models(path)
    assert "\n" not in str(refused.value)
