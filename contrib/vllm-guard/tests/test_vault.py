import json
import shutil
import subprocess

import pytest
import standins
import torch

from achilles_vllm_guard import vault
from achilles_vllm_guard.settings import GuardError, Settings
from achilles_vllm_guard.vault import BadVault

NAME = "model.layers.0.mlp.down_proj.weight"
WANTED = [(NAME, "row", 9), (NAME, "column", 2)]


def written(tmp_path, change=lambda header, body: (header, body), **of_parts):
    return standins.write_vault(tmp_path / "vault.safetensors", standins.checkpoint(), WANTED, change, **of_parts)


def test_a_vault_is_read(tmp_path):
    parts = vault.read(written(tmp_path)).parts
    whole = standins.checkpoint()[NAME]
    assert [part.name for part in parts] == [
        f"L0.mlp.down_proj:out:9: row 9 of {NAME}",
        f"L0.mlp.down_proj:in:2: column 2 of {NAME}",
    ]
    assert torch.equal(parts[0].values, whole[9]) and torch.equal(parts[1].values, whole[:, 2])


def spoil_header(key, value):
    def change(header, body):
        header[f"{NAME}:row:9"][key] = value
        return header, body

    return change


def rename(header, body):
    header["other"] = header.pop(f"{NAME}:row:9")
    return header, body


def other_schema(header, body):
    header["__metadata__"]["schema"] = "achilles-audit/vault/v2"
    return header, body


def index_of(**fields):
    def change(header, body):
        index = json.loads(header["__metadata__"]["vault"])
        index["parts"][0].update(fields)
        header["__metadata__"]["vault"] = json.dumps(index)
        return header, body

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda header, body: (header, body[:-1] + bytes([body[-1] ^ 1])), "the file is damaged"),
        (lambda header, body: (header, body + b"\0"), "belong to no tensor"),
        (lambda header, body: (header, body[:-2]), "does not lie where it has to"),
        (spoil_header("data_offsets", [2, 50]), "does not lie where it has to"),
        (spoil_header("dtype", "I64"), "I64"),
        (spoil_header("shape", [24, 1]), "too many values"),
        (rename, "row:9"),
        (other_schema, "expected 'achilles-audit/vault/v1'"),
        (index_of(index=17), "row:17"),
        (index_of(shape=[16, 25]), "does not fit"),
        (index_of(shape=[8, 24]), "does not fit"),
        (index_of(axis="diagonal"), "diagonal"),
        (lambda header, body: ({**header, "__metadata__": {}}, body), "schema"),
    ],
)
def test_what_is_no_vault_is_one_line(tmp_path, change, problem):
    with pytest.raises(BadVault, match=problem) as caught:
        vault.read(written(tmp_path, change))
    assert "\n" not in str(caught.value) and "vault.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04}", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 64, b'\x08\0\0\0\0\0\0\0{"a":1}}']
)
def test_what_is_no_safetensors_file_is_one_line(tmp_path, data):
    path = tmp_path / "vault.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadVault):
        vault.read(path)
    with pytest.raises(BadVault, match="No such file"):
        vault.read(tmp_path / "missing")


def test_keys_that_are_there_twice_are_refused(tmp_path):
    path = written(tmp_path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size].replace(b'{"', b'{"__metadata__":{},"', 1)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(BadVault, match="twice"):
        vault.read(path)


@pytest.mark.skipif(shutil.which("achilles-audit") is None, reason="achilles-audit is not on the path")
def test_a_vault_of_the_tool_itself(tmp_path):
    from pathlib import Path

    model = Path(__file__).parents[3] / "fixtures/llama"
    out = tmp_path / "vault.safetensors"
    neurons = ["--neuron", "L1.mlp.down_proj:out:7", "--neuron", "L1.mlp.down_proj:in:3"]
    subprocess.run(["achilles-audit", "vault", model, *neurons, "-o", out], check=True)
    row, column = sorted(vault.read(out).parts, key=lambda part: part.axis, reverse=True)
    assert (row.index, row.shape, column.index) == (7, (40, 56), 3)
    assert float(row.values[3]) == float(column.values[7])


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"VALUT": "x"}, "is no setting"),
        ({"VAULT": "/nowhere"}, "no such file"),
        ({"ALL": "yes"}, "expected 0, 1"),
        ({"ALL": "1", "INTERVAL": "soon"}, "expected seconds"),
        ({"ALL": "1", "INTERVAL": "nan"}, "expected seconds"),
        ({"ALL": "1", "POLICY": "ignore"}, "expected alarm, repair, stop"),
        ({"ALL": "1", "EVENTS": "/nowhere/events.jsonl"}, "No such file"),
    ],
)
def test_settings_are_checked(environ, problem):
    with pytest.raises(GuardError, match=problem):
        Settings.of({f"ACHILLES_GUARD_{key}": value for key, value in environ.items()})


def test_without_settings_nothing_is_guarded():
    assert Settings.of({"PATH": "/bin"}) is None
    assert Settings.of({"ACHILLES_GUARD_ALL": "1"}).vault is None
