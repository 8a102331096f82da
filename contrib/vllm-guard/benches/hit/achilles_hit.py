"""For `live.py` alone: a vLLM plugin that damages a weight of the worker that it runs in when a file asks for it."""

import json
import os
import threading
import time

import torch


def register():
    """Each worker watches for `hit.json` in the folder `ACHILLES_HIT`: {"parameter", "row", "factor"}."""
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
    """The answer, `done-RANK.json`, says when it was done and how many values it changed."""
    last = None
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
        with torch.inference_mode():
            row = worker.get_model().get_parameter(asked["parameter"]).detach()[asked["row"]]
            changed = int((row != 0).sum())
            row.mul_(asked["factor"])
        answer = {"number": last, "time": time.time(), "changed": changed}
        path = os.path.join(folder, f"done-{worker.rank}.json")
        with open(path + ".partial", "w") as file:
            json.dump(answer, file)
        os.replace(path + ".partial", path)
