import os

import pytest

from achilles_fleet import store as module
from achilles_fleet.models import model_of
from achilles_fleet.refused import Refused
from achilles_fleet.store import SCHEMA, Store


def document(model):
    return {"schema": SCHEMA, "target": model.target, "verdict": "pass"}


def test_a_document_comes_back_and_no_name_leaves_the_folder(tmp_path):
    store = Store(tmp_path)
    names = ["/a/b", "/a_b", "../../x", "/" + "long" * 100, "/<script>", "/\udcff", "/é", "org/name"]
    with store.locked():
        for name in names:
            store.write(model_of(name), document(model_of(name)))
        paths = {store.path(model_of(name)) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent.name == "models" and len(path.parts) == 2 and len(path.name) < 100 for path in paths)
    assert all(path.as_posix().isascii() for path in paths)
    for name in names:
        assert store.read(model_of(name)) == document(model_of(name))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "other"}', '{"schema": "achilles-fleet/result/v1"}'])
def test_what_is_no_result_is_none(tmp_path, content):
    store, model = Store(tmp_path), model_of("/m")
    with store.locked():
        (tmp_path / store.path(model)).write_text(content)
    assert store.read(model) is None


def test_a_write_that_fails_leaves_the_old_document(tmp_path, monkeypatch):
    store, model = Store(tmp_path), model_of("/m")
    with store.locked():
        store.write(model, document(model))

        def full(_: int) -> None:
            raise OSError("no space")

        monkeypatch.setattr(module.os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            store.write(model, {**document(model), "verdict": "fail"})
    assert store.read(model) == document(model)
    assert os.listdir(tmp_path / "models") == [store.path(model).name]


def test_one_run_at_a_time_and_what_is_half_written_goes(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / ".x.partial").touch()
    with Store(tmp_path).locked():
        assert not os.listdir(tmp_path / "models")
        with pytest.raises(Refused, match="another run writes to it"), Store(tmp_path).locked():
            pass
    with Store(tmp_path).locked():
        pass
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="expected a folder for results"), Store(tmp_path / "file").locked():
        pass
