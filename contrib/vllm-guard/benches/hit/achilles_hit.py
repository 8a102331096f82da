"""For `live.py` alone: a vLLM plugin with which a file damages a weight of a worker, or takes the guard out of it."""

import json
import os
import threading
import time

import torch


def register():
    """Each worker watches for `hit.json` in the folder `ACHILLES_HIT`.

    {"number", "rank", "parameter", "row", "factor"} damages a row; {"number", "rank", "guard"} turns the guard on or
    off.
    """
    folder = os.environ.get("ACHILLES_HIT")
    if folder is None:
        return
    from vllm.v1.worker.worker_base import WorkerBase

    construct = WorkerBase.__init__

    def with_thread(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        threading.Thread(target=watch, args=(self, folder), daemon=True).start()

    WorkerBase.__init__ = with_thread


def watch(worker, folder):
    """The answer, `done-RANK.json`, says when it was done and how many values, or layers, it changed."""
    last, switch = None, None
    while True:
        time.sleep(0.005)
        try:
            with open(os.path.join(folder, "hit.json")) as file:
                asked = json.load(file)
        except (OSError, ValueError):
            continue
        if asked["number"] == last:
            continue
        last = asked["number"]
        if asked["rank"] != worker.rank:
            continue
        try:
            if "guard" in asked:
                switch = switch or Switch(worker)
                changed = switch.turn(asked["guard"])
            else:
                changed = damage(worker.get_model(), asked)
            answer = {"number": last, "time": time.time(), "changed": changed}
        except Exception as error:
            answer = {"number": last, "error": repr(error)}
        path = os.path.join(folder, f"done-{worker.rank}.json")
        with open(path + ".partial", "w") as file:
            json.dump(answer, file)
        os.replace(path + ".partial", path)


def damage(model, asked):
    with torch.inference_mode():
        row = model.get_parameter(asked["parameter"]).detach()[asked["row"]]
        changed = int((row != 0).sum())
        row.mul_(asked["factor"])
    return changed


class Switch:
    """Of a worker in the scheduler's process: all that the guard does while a model serves, and what it leaves undone.

    It is for a server that is idle.
    """

    def __init__(self, worker):
        from vllm.model_executor.layers import utils
        from vllm.v1.core.sched.scheduler import Scheduler

        self.worker, self.scheduler = worker, Scheduler
        self.step, self.schedule = worker.execute_model, Scheduler.schedule
        # Layers that the guard keeps from being packed, and what vLLM would compute them with.
        self.layers = []
        dispatch = utils.dispatch_cpu_unquantized_gemm
        for layer in worker.get_model().modules():
            if getattr(layer, "cpu_linear", None) is torch.nn.functional.linear:
                dispatch.__wrapped__(layer, False)
                self.layers.append((layer, layer.cpu_linear))

    def turn(self, on):
        self.worker.achilles_guard.serving = on  # the thread looks for that, and then sleeps on
        self.worker.execute_model = self.step if on else self.step.__wrapped__
        self.scheduler.schedule = self.schedule if on else self.schedule.__wrapped__
        for layer, packed in self.layers:
            layer.cpu_linear = torch.nn.functional.linear if on else packed
        return len(self.layers)
