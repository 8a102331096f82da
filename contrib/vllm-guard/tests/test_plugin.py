import json
import os
import sys
import threading
import time
import types

import pytest
import standins
import torch
from prometheus_client import CollectorRegistry, generate_latest

from achilles_vllm_guard import metrics, plugin, vault
from achilles_vllm_guard.guard import Stopped
from achilles_vllm_guard.report import REPAIRED
from achilles_vllm_guard.settings import Settings
from achilles_vllm_guard.vault import BadVault

NAME = "model.layers.0.mlp.down_proj.weight"


class Worker:
    """What the guard uses of vLLM's worker. Sleep drops the weights as on a GPU; a reload makes new parameters."""

    def __init__(self, folder):
        self.folder, self.tensors, self.rank, self.device = folder, standins.checkpoint(), 0, torch.device("cpu")
        self.parallel_config = types.SimpleNamespace(data_parallel_index=0)
        self.model_config = types.SimpleNamespace(model=str(folder))
        self.seen, self.saved, self.model = [], None, None

    def get_model(self):
        return self.model

    def load_model(self):
        self.model = standins.model(self.tensors)

    def compile_or_warm_up_model(self):
        pass

    def row(self):
        return self.model.get_parameter(NAME)[9]

    def execute_model(self):
        self.seen.append(bool(self.row().any()))

    def sleep(self, level=1):
        self.saved = {name: tensor.clone() for name, tensor in self.model.state_dict().items()} if level == 1 else None
        for parameter in self.model.parameters():
            parameter.fill_(float("nan"))

    def wake_up(self, tags=None):
        if self.saved is not None:
            self.model.load_state_dict(self.saved)

    def reload_weights(self):
        self.model.load_state_dict(standins.model(self.tensors).state_dict())

    def start_weight_update(self):
        pass

    def update_weights(self, tensors):
        self.model.load_state_dict(standins.model(tensors).state_dict())

    def finish_weight_update(self):
        pass


def attached(tmp_path, idle_thread=False, tensors=None, **settings):
    path = standins.write_vault(tmp_path / "vault.safetensors", standins.checkpoint(), [(NAME, "row", 9)])
    environ = {"VAULT": path, "POLICY": "repair", "INTERVAL": "1000", "EVENTS": tmp_path / "events.jsonl", **settings}
    made = Settings.of({f"ACHILLES_GUARD_{key}": str(value) for key, value in environ.items()})
    worker = Worker(tmp_path)
    worker.tensors = tensors or worker.tensors
    worker.achilles_guard = plugin.Attached(worker, made, vault.read(path), tmp_path)
    worker.load_model()
    if idle_thread:
        worker.compile_or_warm_up_model()
    return worker


def events(tmp_path):
    file = tmp_path / "events.jsonl"
    return [json.loads(line)["when"] for line in file.read_text().splitlines()] if file.exists() else []


def make_due(worker):
    worker.achilles_guard.guard.next_check = time.monotonic()


def test_a_check_that_is_due_comes_before_the_step(tmp_path):
    worker = attached(tmp_path)
    worker.row().zero_()
    worker.execute_model()
    make_due(worker)
    worker.execute_model()
    assert worker.seen == [False, True] and events(tmp_path) == ["before a step"]


def test_an_idle_worker_is_checked(tmp_path):
    worker = attached(tmp_path, idle_thread=True, INTERVAL="0.1")
    worker.row().zero_()
    end = time.time() + 10
    while not worker.row().any() and time.time() < end:
        time.sleep(0.01)
    assert events(tmp_path) == ["while idle"] and not worker.seen


def test_no_check_comes_beside_a_step(tmp_path):
    worker = attached(tmp_path, idle_thread=True, INTERVAL="0.1")
    inside, leave = threading.Event(), threading.Event()

    def long_step():
        with worker.achilles_guard.lock:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=long_step)
    thread.start()
    inside.wait()
    worker.row().zero_()
    time.sleep(3 * plugin.IDLE_POLL_SECONDS)
    assert not worker.row().any()
    leave.set()
    thread.join()


def test_waking_up_is_followed_by_a_check(tmp_path):
    worker = attached(tmp_path)
    worker.sleep()
    make_due(worker)
    worker.achilles_guard._check_idle()
    assert not events(tmp_path)  # asleep: what is there is no weight
    worker.saved[NAME][9].zero_()
    worker.wake_up(["kv_cache"])
    assert not events(tmp_path)
    worker.wake_up(["weights"])
    assert events(tmp_path) == ["after wake_up"] and worker.row().any()


def test_weights_that_sleep_threw_away_are_checked_when_loaded_again(tmp_path):
    worker = attached(tmp_path)
    worker.sleep(2)
    worker.wake_up()
    worker.achilles_guard._check_idle()
    assert not events(tmp_path)
    worker.tensors[NAME][9].zero_()
    worker.reload_weights()
    assert events(tmp_path) == ["after reload_weights"] and worker.row().any()


def test_weights_that_are_never_loaded_again_are_found_before_a_step(tmp_path):
    worker = attached(tmp_path)
    worker.sleep(2)
    worker.wake_up()
    worker.execute_model()
    assert events(tmp_path) == ["before a step"]


def test_an_update_in_parts_is_checked_when_it_is_finished(tmp_path):
    worker = attached(tmp_path)
    worker.tensors[NAME][9].zero_()
    worker.start_weight_update()
    worker.update_weights(worker.tensors)
    make_due(worker)
    worker.achilles_guard._check_idle()
    assert not events(tmp_path)
    worker.finish_weight_update()
    assert events(tmp_path) == ["after finish_weight_update"]
    worker.update_weights(worker.tensors)
    assert events(tmp_path)[1:] == ["after update_weights"]


def test_an_update_that_failed_leaves_the_model_guarded(tmp_path):
    worker = attached(tmp_path)
    worker.start_weight_update()
    with pytest.raises(KeyError):
        worker.update_weights({})
    worker.row().zero_()
    make_due(worker)
    worker.execute_model()
    assert events(tmp_path) == ["before a step"]


def test_a_check_that_fails_is_counted_and_the_step_done(tmp_path, caplog):
    worker = attached(tmp_path)
    weight = worker.model.model.layers[0].mlp.down_proj.weight
    worker.model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(weight[:5].clone(), requires_grad=False)
    worker.row = lambda: weight[9]
    make_due(worker)
    worker.execute_model()
    assert worker.seen == [True] and worker.achilles_guard.guard.report.counters["failed_checks"] == 1
    assert "a check failed" in caplog.text


def test_stop_refuses_every_step(tmp_path):
    worker = attached(tmp_path, POLICY="stop")
    worker.execute_model()
    worker.row().zero_()
    make_due(worker)
    for _ in range(2):
        with pytest.raises(Stopped, match="L0.mlp.down_proj:out:9"):
            worker.execute_model()
    assert worker.seen == [True]


def test_a_damaged_checkpoint_does_not_start_under_stop(tmp_path):
    tensors = standins.checkpoint()
    tensors[NAME][9].zero_()
    with pytest.raises(Stopped):
        attached(tmp_path, tensors=tensors, POLICY="stop")


def test_another_models_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadVault, match="whose config.json is not that of"):
        attached(tmp_path)
    worker = attached(tmp_path, BAD_VAULT="warn")
    worker.execute_model()
    assert worker.achilles_guard.guard is None
    assert attached(tmp_path, BAD_VAULT="warn", ALL="1").achilles_guard.guard.checksums is not None


def test_metrics_are_those_of_all_workers(tmp_path):
    worker = attached(tmp_path)
    worker.row().zero_()
    make_due(worker)
    worker.execute_model()
    other = json.loads((tmp_path / "dp0-rank0.json").read_text()) | {"worker": "dp0-rank1"}
    (tmp_path / "dp0-rank1.json").write_text(json.dumps(other))
    registry = CollectorRegistry()
    registry.register(metrics.StatusCollector(tmp_path))
    text = generate_latest(registry).decode()
    for worker_name in ("dp0-rank0", "dp0-rank1"):
        assert f'achilles_guard_guarded_parts{{worker="{worker_name}"}} 1.0' in text
        assert f'achilles_guard_repairs_total{{worker="{worker_name}"}} 1.0' in text
        labels = f'kind="vault",tensor="{NAME}",worker="{worker_name}"'
        assert f"achilles_guard_differences_total{{{labels}}} 1.0" in text


def test_a_guarded_layer_is_not_packed(monkeypatch):
    packed = []

    def dispatch(layer, remove_weight):
        packed.append(layer.prefix)
        handle = object()
        layer.cpu_linear = lambda x, weight, bias: handle

    utils = types.ModuleType("utils")
    utils.dispatch_cpu_unquantized_gemm = dispatch
    layers = types.ModuleType("layers")
    layers.utils = utils
    for name in ("vllm", "vllm.model_executor"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.model_executor.layers", layers)
    plugin._keep_unpacked({"model.layers.0.mlp.gate_up_proj"})
    for prefix in ("language_model.model.layers.0.mlp.gate_up_proj", "model.layers.10.mlp.gate_up_proj"):
        layer = torch.nn.Module()
        layer.prefix = prefix
        utils.dispatch_cpu_unquantized_gemm(layer, True)
        assert getattr(layer, "achilles_packed", False) == (prefix in packed)
        assert (layer.cpu_linear is torch.nn.functional.linear) != (prefix in packed)
    assert packed == ["model.layers.10.mlp.gate_up_proj"]


def test_cached_keys_and_values_go_after_a_repair(tmp_path, monkeypatch):
    class Scheduler:
        calls: list = []

        def reset_prefix_cache(self, reset_running_requests):
            self.calls.append(reset_running_requests)
            return self.calls.count(True) > 1  # the first time it is not possible

        def schedule(self):
            self.calls.append("schedule")

    module = types.ModuleType("scheduler")
    module.Scheduler = Scheduler
    for name in ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.v1.core.sched.scheduler", module)
    plugin._hook_scheduler(tmp_path)
    scheduler = Scheduler()
    scheduler.schedule()
    (tmp_path / REPAIRED).write_text("1")
    for _ in range(3):
        scheduler.schedule()
    assert scheduler.calls == ["schedule", True, "schedule", True, "schedule", "schedule"]


def test_the_state_folder_is_shared_and_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.delenv(plugin.STATE_DIR, raising=False)
    made = plugin._state_folder()
    assert made.is_dir() and os.environ[plugin.STATE_DIR] == str(made) and plugin._state_folder() == made
    monkeypatch.setenv(plugin.STATE_DIR, str(tmp_path / "missing"))
    with pytest.raises(plugin.GuardError, match="no such folder"):
        plugin._state_folder()
    made.rmdir()
