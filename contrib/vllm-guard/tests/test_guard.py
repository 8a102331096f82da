import json
from pathlib import Path

import pytest
import standins
import torch

from achilles_vllm_guard import layout, vault
from achilles_vllm_guard.checksum import Checksums
from achilles_vllm_guard.guard import Guard
from achilles_vllm_guard.report import REPAIRED, Report
from achilles_vllm_guard.settings import Settings
from achilles_vllm_guard.vault import BadVault

L = "model.layers.0."
WANTED = [
    (f"{L}self_attn.q_proj.weight", "row", 13),
    (f"{L}self_attn.k_proj.weight", "row", 5),
    (f"{L}self_attn.k_proj.weight", "column", 2),
    (f"{L}self_attn.v_proj.weight", "row", 1),
    (f"{L}self_attn.o_proj.weight", "row", 3),
    (f"{L}self_attn.o_proj.weight", "column", 30),
    (f"{L}self_attn.o_proj.bias", "element", 3),
    (f"{L}mlp.gate_proj.weight", "row", 7),
    (f"{L}mlp.up_proj.weight", "row", 23),
    (f"{L}mlp.up_proj.weight", "column", 4),
    (f"{L}mlp.down_proj.weight", "row", 9),
    (f"{L}mlp.down_proj.weight", "column", 11),
    (f"{L}mlp.down_proj.bias", "element", 9),
    (f"{L}mlp.router.weight", "row", 20),
    (f"{L}input_layernorm.weight", "element", 6),
]


def settings(**other):
    environ = {"VAULT": __file__, "POLICY": "repair", **other}
    return Settings.of({f"ACHILLES_GUARD_{key}": str(value) for key, value in environ.items()})


def guard(tmp_path, model, kept, **other):
    made = Guard(settings(**other), kept, model, Report("rank0", tmp_path, tmp_path / "events.jsonl"))
    made.loaded("when loaded")
    return made


def events(tmp_path):
    file = tmp_path / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def kept(tmp_path):
    return vault.read(standins.write_vault(tmp_path / "vault.safetensors", standins.checkpoint(), WANTED))


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_every_slice_is_where_vllm_loads_it(tmp_path, kept, size, dtype):
    """Marks a part in the checkpoint, loads that, and expects the guard's slices to be these elements and no others."""
    clean = standins.checkpoint()
    for part in kept.parts:
        marked = {name: tensor.clone() for name, tensor in clean.items()}
        standins.line(marked[part.tensor], part.axis, part.index).fill_(7.5)
        seen = set()
        for rank in range(size):
            held = layout.find(standins.model(marked, rank, size, dtype), part)
            for own in layout.slices(part, held):
                assert own.view().eq(7.5).all(), (part.name, rank)
                seen.update(range(own.run.source, own.run.source + own.run.length))
            # Nothing of the part is missed: without the slices no marked element is left.
            for own in layout.slices(part, held):
                own.view().zero_()
            assert not held.parameter().eq(7.5).any(), (part.name, rank)
        assert seen == set(range(len(part.values))), part.name


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_damage_is_repaired_bit_for_bit(tmp_path, kept, size, dtype):
    for rank in range(size):
        model = standins.model(standins.checkpoint(), rank, size, dtype)
        before = {name: p.clone() for name, p in model.named_parameters()}
        watching = guard(tmp_path, model, kept)
        assert watching.watched and watching.check("now") == 0
        for p in model.parameters():
            p.zero_()
        assert watching.check("now") > len(watching.watched) / 2  # a repaired row may have mended a column
        for watched in watching.watched:
            assert torch.equal(watched.slice.view(), watched.expected)
        assert watching.check("now") == 0
        # Putting the original back changes nothing of what was repaired, so it was repaired to the original.
        model.load_state_dict(before)
        assert watching.check("now") == 0
        assert (tmp_path / REPAIRED).exists()


def test_conversion_is_that_of_loading(tmp_path):
    """f32 values that bf16 rounds: what was loaded is not damaged, and a repair writes the rounded values."""
    tensors = standins.checkpoint(dtype=torch.float32)
    kept = vault.read(standins.write_vault(tmp_path / "v", tensors, WANTED))
    model = standins.model(tensors)
    row = model.get_parameter(f"{L}mlp.down_proj.weight")[9]
    rounded = row.clone()
    watching = guard(tmp_path, model, kept)
    assert watching.check("now") == 0 and not events(tmp_path)
    row.mul_(0.5)
    assert watching.check("now") == 1
    assert torch.equal(row, rounded) and not torch.equal(row.float(), tensors[f"{L}mlp.down_proj.weight"][9])


def test_one_line_tells_what_changed(tmp_path, kept):
    model = standins.model(standins.checkpoint())
    watching = guard(tmp_path, model, kept)
    row = model.get_parameter(f"{L}mlp.down_proj.weight")[9]
    row.zero_()
    watching.check("now")
    row.mul_(0.5)
    watching.check("now")
    row[4] = float("nan")
    watching.check("now")
    row[1] += 1
    watching.check("now")
    told = [(event["action"], event["change"]) for event in events(tmp_path)]
    assert all(action == "repaired" and c.startswith("L0.mlp.down_proj:out:9: row 9 of ") for action, c in told)
    what = [
        "24 of 24 values differ, all zero",
        "0.5 times what they were",
        "1 are not finite",
        "the most at element 1: ",
    ]
    assert all(words in change for words, (_, change) in zip(what, told, strict=True))


def test_a_single_bit_is_seen(tmp_path, kept):
    watching = guard(tmp_path, standins.model(standins.checkpoint()), kept)
    for watched in watching.watched:
        bits = watched.slice.view().view(torch.int16)
        for bit in range(16):
            bits[-1] ^= 1 << bit if bit < 15 else -(1 << 15)
            assert watched.is_damaged(), (watched.part.name, bit)
            bits[-1] ^= 1 << bit if bit < 15 else -(1 << 15)
    assert watching.check("now") == 0


def test_alarm_leaves_it_and_tells_once(tmp_path, kept):
    model = standins.model(standins.checkpoint())
    watching = guard(tmp_path, model, kept, POLICY="alarm")
    row = model.get_parameter(f"{L}mlp.down_proj.weight")[9]
    row.zero_()
    assert [watching.check("now") for _ in range(3)] == [2, 2, 2]  # a column crosses the row
    assert len(events(tmp_path)) == 2 and not row.any()
    row[0] = 1
    watching.check("now")
    assert len(events(tmp_path)) == 3 and watching.report.gauges["damaged_parts"] == 2


def test_stop_stops(tmp_path, kept):
    model = standins.model(standins.checkpoint())
    watching = guard(tmp_path, model, kept, POLICY="stop")
    assert watching.stopped is None
    model.get_parameter(f"{L}input_layernorm.weight")[6] = 0
    watching.check("now")
    assert "input_layernorm" in watching.stopped


def test_another_models_vault_is_refused(tmp_path, kept):
    with pytest.raises(BadVault, match="another model's vault"):
        guard(tmp_path, standins.model(standins.checkpoint(seed=1)), kept)
    with pytest.raises(BadVault, match="do not allow to tell another model"):
        guard(tmp_path, standins.model(standins.checkpoint(seed=1), 0, 2), kept)


def test_a_lesioned_checkpoint_is_repaired_when_loaded(tmp_path, kept):
    tensors = standins.checkpoint()
    tensors[f"{L}mlp.down_proj.weight"][9].zero_()
    model = standins.model(tensors)
    guard(tmp_path, model, kept)
    name = f"{L}mlp.down_proj.weight"
    assert torch.equal(model.get_parameter(name), standins.checkpoint()[name])
    assert {event["when"] for event in events(tmp_path)} == {"when loaded"}


def test_weights_that_a_reload_replaced_are_told_and_not_repaired(tmp_path, kept):
    model = standins.model(standins.checkpoint())
    watching = guard(tmp_path, model, kept)
    other = standins.model(standins.checkpoint(seed=1)).state_dict()
    model.load_state_dict(other)
    watching.loaded("after reload_weights")
    watching.check("later")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in other.items())
    assert {event["action"] for event in events(tmp_path)} == {"alarm"}
    model.load_state_dict(standins.model(standins.checkpoint()).state_dict())
    watching.loaded("after reload_weights")
    model.get_parameter(f"{L}mlp.down_proj.weight")[9].zero_()
    assert watching.check("now") == 1 and watching.check("now") == 0


def test_parameters_that_a_reload_put_in_place_are_watched(tmp_path, kept):
    model = standins.model(standins.checkpoint())
    watching = guard(tmp_path, model, kept)
    down = model.model.layers[0].mlp.down_proj
    down.weight = torch.nn.Parameter(down.weight.clone(), requires_grad=False)
    down.weight[9].zero_()
    assert watching.check("now") == 1 and down.weight[9].any()


def test_another_shape_is_refused(kept):
    smaller = standins.checkpoint()
    smaller[f"{L}mlp.down_proj.weight"] = smaller[f"{L}mlp.down_proj.weight"][:, :12]
    part = next(part for part in kept.parts if "down_proj.weight" in part.tensor)
    with pytest.raises(BadVault, match=r"is \[16, 24\] in the vault, .* \[16, 12\]"):
        layout.find(standins.model(smaller), part)


def test_what_cannot_be_guarded_is_said(tmp_path, kept, caplog):
    model = standins.model(standins.checkpoint())
    layer = model.model.layers[0]
    layer.mlp.down_proj.weight = torch.nn.Parameter(layer.mlp.down_proj.weight.t().contiguous(), requires_grad=False)
    layer.mlp.gate_up_proj.achilles_packed = True
    layer.self_attn.o_proj.weight = torch.nn.Parameter(torch.zeros(16, 32, dtype=torch.int8), requires_grad=False)
    layer.mlp.router = type("OddColumnParallelLinear", (standins.ColumnParallelLinear,), {})(
        torch.zeros(24, 16), 0, 1, torch.bfloat16
    )
    watching = guard(tmp_path, model, kept)
    said = [r.getMessage() for r in caplog.records if "not guarded" in r.getMessage()]
    reasons = ("no slice of", "layout of its kernels", "as torch.int8", "how OddColumnParallelLinear slices")
    assert [sum(reason in line for line in said) for reason in reasons] == [2, 3, 2, 1]
    assert watching.report.gauges["unguarded_parts"] == len(said) == 8


def test_nothing_to_guard_is_an_error(tmp_path, kept):
    with pytest.raises(BadVault, match="nothing of it can be guarded"):
        guard(tmp_path, torch.nn.Sequential(torch.nn.Linear(2, 2)), kept)


def test_a_checksum_sees_any_bit(tmp_path):
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.randn(7, 3).bfloat16(), requires_grad=False)  # 42 bytes: a tail of two
    model.b = torch.nn.Parameter(torch.randn(5, 4).t(), requires_grad=False)  # not contiguous
    model.register_buffer("table", torch.randn(6))
    sums = Checksums(model)
    assert sums.bytes == 42 + 80 + 24
    for tensor in (model.a, model.b, model.table):
        data = tensor.detach() if tensor.is_contiguous() else tensor.detach().t()
        octets = data.view(torch.uint8).reshape(-1)
        for at in range(len(octets)):
            for bit in range(8):
                octets[at] ^= 1 << bit
                assert sum(sums.next() is not None for _ in sums.blocks) == 1, (at, bit)
                octets[at] ^= 1 << bit
    assert not any(sums.next() for _ in sums.blocks)
    model.table[[0, 3]] = model.table[[3, 0]]
    assert sum(sums.next() is not None for _ in sums.blocks) == 1


def test_sums_go_round_and_the_vault_explains_first(tmp_path, kept, monkeypatch):
    model = standins.model(standins.checkpoint())
    watching = guard(tmp_path, model, kept, ALL="1", ALL_SECONDS="1", INTERVAL="1000")
    clock = [watching.last_sums]
    monkeypatch.setattr("achilles_vllm_guard.guard.time.monotonic", lambda: clock[0])

    def a_round():
        clock[0] += 1.001
        watching.run_due("now")

    weight = model.get_parameter(f"{L}mlp.down_proj.weight")
    a_round()
    assert not events(tmp_path) and watching.report.counters["checksum_rounds"] == 1
    weight[9].zero_()
    a_round()
    assert {(event["kind"], event["action"]) for event in events(tmp_path)} == {("vault", "repaired")}
    weight[0, 0] += 1  # of no part
    a_round()
    a_round()
    (told,) = [event for event in events(tmp_path) if event["kind"] == "checksum"]
    assert told["tensor"] == f"{L}mlp.down_proj.weight" and told["action"] == "alarm"


def test_tied_and_own_buffers(tmp_path):
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.randn(4), requires_grad=False)
    model.tied = model.a
    model.register_buffer("_k_scale", torch.ones(()))
    assert list(Checksums(model).tensors) == ["a"]


def test_files_are_whole(tmp_path: Path, kept):
    guard(tmp_path, standins.model(standins.checkpoint()), kept)
    status = json.loads((tmp_path / "rank0.json").read_text())
    assert status["gauges"]["guarded_parts"] == len(WANTED) and status["counters"]["checks"] == 1
