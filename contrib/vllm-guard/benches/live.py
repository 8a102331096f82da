"""Damages the critical row in the memory of a vLLM that serves over HTTP, and measures what the guard does about it.

    python benches/live.py MODEL VAULT [--hits 20] [--requests 500] [--rounds 12] [--only serve,speed,stop,refuse]

With vLLM and achilles-vllm-guard installed. MODEL is SmolLM2-135M-Instruct as a folder, VAULT one of its
`L11.mlp.down_proj:out:507`. Prints one JSON line an experiment.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROMPT = "The capital of France is"
# Long enough to fill blocks of the prefix cache, whose keys and values a damaged model spoils.
LONG = "Paris, Rome, Madrid, Berlin, Vienna and Lisbon are the capitals of six countries in Europe. " * 12 + PROMPT
RIGHT = " Paris"
PARAMETER, ROW = "model.layers.11.mlp.down_proj.weight", 507


class Server:
    """A vLLM of its own on loopback, with what the guard and the hits need in a folder of its own."""

    def __init__(self, args, folder, **settings):
        self.folder = folder
        folder.mkdir()
        plugin = folder / "site"
        shutil.copytree(Path(__file__).parent / "hit", plugin)
        about = plugin / "achilles_hit-0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: achilles-hit\nVersion: 0\n")
        (about / "entry_points.txt").write_text("[vllm.general_plugins]\nachilles_hit = achilles_hit:register\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ACHILLES_GUARD_")}
        environ.update(
            HF_HUB_OFFLINE="1",
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_NO_USAGE_STATS="1",
            ACHILLES_HIT=str(folder),
            PYTHONPATH=os.pathsep.join(filter(None, [str(plugin), os.environ.get("PYTHONPATH")])),
            **{f"ACHILLES_GUARD_{key}": str(value) for key, value in settings.items()},
        )
        if settings:
            environ["ACHILLES_GUARD_EVENTS"] = str(folder / "events.jsonl")
        self.log = folder / "log"
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(args.model), "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--dtype", args.dtype, "--max-model-len", "1024", "--enforce-eager"]
        command += ["--served-model-name", "model"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, *args.serve], env=environ, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait(self, seconds=1800):
        """Until it serves. False where it gives up."""
        end = time.time() + seconds
        while time.time() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("/health")
                return True
            time.sleep(0.5)
        return False

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read().decode()

    def ask(self, prompt=PROMPT, tokens=6):
        body = {"model": "model", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        url = f"http://127.0.0.1:{self.port}/v1/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["choices"][0]["text"]

    def hit(self, number, factor=0.0):
        """Damages the row; returns when that was done."""
        asked = {"number": number, "parameter": PARAMETER, "row": ROW, "factor": factor}
        (self.folder / "hit.partial").write_text(json.dumps(asked))
        os.replace(self.folder / "hit.partial", self.folder / "hit.json")
        while True:
            with contextlib.suppress(OSError, ValueError):
                done = json.loads((self.folder / "done-0.json").read_text())
                if done["number"] == number:
                    return done["time"]
            time.sleep(0.005)

    def events(self):
        file = self.folder / "events.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def metrics(self):
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith("achilles_guard_")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def spread(values, digits=3):
    return {name: round(f(values), digits) for name, f in (("min", min), ("median", statistics.median), ("max", max))}


def serve(args, folder):
    """Hits at random times, half of them while other requests run, then requests without a hit."""
    settings = dict(VAULT=args.vault, POLICY="repair", INTERVAL=args.interval, ALL="1", ALL_SECONDS=60)
    with Server(args, folder, **settings) as server:
        assert server.wait(), server.log.read_text()[-3000:]
        found = {"hits": hits(args, server), "clean": clean(args, server), "metrics": server.metrics()}
        log = [line for line in server.log.read_text().splitlines() if "achilles-guard" in line]
    return {**found, "first_lines": log[:3], "cache_resets": sum("prefix cache is reset" in line for line in log)}


def clean(args, server):
    """No event and no alarm while nothing is damaged."""
    words = "time river stone letter engine garden winter number island mirror".split()
    prompts = [" ".join(random.choices(words, k=random.randint(2, 20))) for _ in range(args.requests)]
    began, known = time.time(), len(server.events())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda prompt: server.ask(prompt, 4), prompts))
    seconds = round(time.time() - began, 1)
    right = server.ask().startswith(RIGHT) and server.ask(LONG).startswith(RIGHT)
    return {"requests": args.requests, "seconds": seconds, "events": len(server.events()) - known, "right": right}


def hits(args, server):
    """Is the answer garbage, is that told and repaired, and is the next answer right, with a cached prefix, too?"""
    found, busy, ends = [], threading.Event(), threading.Event()

    def load():
        while not ends.is_set():
            if busy.wait(0.1):
                server.ask(f"Once upon a time {random.random()}", 32)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(args.hits):
        (busy.set if number % 2 else busy.clear)()
        time.sleep(random.uniform(0, args.interval))
        known = len(server.events())
        at = server.hit(number)
        before = []
        while len(server.events()) == known:
            assert time.time() < at + 60 + 10 * args.interval, "not told"
            before = before or [server.ask(LONG), server.ask()]
            time.sleep(0.01)
        (event,) = server.events()[known:]
        after = [server.ask(LONG), server.ask()]
        found.append({"seconds": event["time"] - at, "before": before, "after": after, "event": event})
    ends.set()
    for thread in threads:
        thread.join()
    spoiled = [hit["before"] for hit in found if hit["before"] and not hit["before"][1].startswith(RIGHT)]
    return {
        "hits": args.hits,
        "interval_seconds": args.interval,
        "repaired": sum(hit["event"]["action"] == "repaired" for hit in found),
        "told_after_seconds": spread([hit["seconds"] for hit in found]),
        "when": sorted(hit["event"]["when"] for hit in found),
        "garbage_before": len(spoiled),
        "right_after": sum(hit["after"][1].startswith(RIGHT) for hit in found),
        "right_after_with_cached_prefix": sum(hit["after"][0].startswith(RIGHT) for hit in found),
        "garbage": spoiled[:1],
        "event": found[0]["event"] if found else None,
    }


def speed(args, folder):
    """Tokens a second with the guard and without, in turn, of two servers that both run all the time."""
    asked = dict(VAULT=args.vault, POLICY="repair", ALL="1")
    with Server(args, folder, **asked) as guarded, Server(args, folder.with_name("plain")) as plain:
        assert guarded.wait() and plain.wait()

        def round_of(server):
            prompts = [f"{PROMPT} {random.random()}" for _ in range(16)]
            began = time.time()
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda prompt: server.ask(prompt, 24), prompts))
            return 16 * 24 / (time.time() - began)

        for server in (guarded, plain):
            round_of(server)
        rates = {"guarded": [], "plain": []}
        for number in range(args.rounds):
            pair = [("guarded", guarded), ("plain", plain)]
            for name, server in pair[:: 1 if number % 2 else -1]:
                rates[name].append(round_of(server))
        ratios = [with_it / without for with_it, without in zip(rates["guarded"], rates["plain"], strict=True)]
        metrics = guarded.metrics()
    return {
        "tokens_a_second": {name: spread(values, 1) for name, values in rates.items()},
        "ratio_of_medians": round(statistics.median(rates["guarded"]) / statistics.median(rates["plain"]), 4),
        "ratio_of_pairs": spread(ratios, 4),
        "check_seconds": [value for name, value in metrics.items() if "check_seconds" in name],
    }


def stop(args, folder):
    """The policy `stop`: how long after a hit the server is gone, idle and busy."""
    found = {}
    for name in ("idle", "busy"):
        with Server(args, folder.with_name(f"stop-{name}"), VAULT=args.vault, POLICY="stop", INTERVAL=2) as server:
            assert server.wait(), server.log.read_text()[-3000:]
            at, answered = server.hit(0), 0
            with contextlib.suppress(OSError, urllib.error.URLError, ConnectionError):
                while name == "busy" and time.time() < at + 60:
                    server.ask()
                    answered += 1
            server.process.wait(60)
            gone = round(time.time() - at, 1)
            found[name] = {"gone_after_seconds": gone, "exit_code": server.process.returncode, "answered": answered}
    return found


def refuse(args, folder):
    """Vaults that are missing or spoiled, and a setting mistyped: the server does not start, and one line says why."""
    spoiled = folder.with_name("spoiled.safetensors")
    data = bytearray(Path(args.vault).read_bytes())
    data[-1] ^= 1
    spoiled.write_bytes(data)
    found = {}
    for name, settings in (
        ("missing", dict(VAULT="/nowhere/vault.safetensors")),
        ("spoiled", dict(VAULT=spoiled)),
        ("mistyped", dict(VAULT=args.vault, POLCY="stop")),
    ):
        with Server(args, folder.with_name(f"refuse-{name}"), **settings) as server:
            started = server.wait()
            last = server.log.read_text().strip().splitlines()[-1]
            found[name] = {"started": started, "exit_code": server.process.returncode, "says": last}
    return found


EXPERIMENTS = {"serve": serve, "speed": speed, "stop": stop, "refuse": refuse}


def main():
    parser = argparse.ArgumentParser(description="What the guard does in a vLLM that serves.")
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("vault", metavar="VAULT", type=Path)
    parser.add_argument("--hits", type=int, default=20)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--interval", type=float, default=10, help="seconds between checks while there are hits")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help="which experiments")
    parser.add_argument("--serve", nargs="*", default=[], help="more arguments of `vllm serve`")
    args = parser.parse_args()
    args.model, args.vault = args.model.resolve(), args.vault.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only.split(","):
            print(json.dumps({"experiment": name, **EXPERIMENTS[name](args, Path(scratch) / name)}), flush=True)


if __name__ == "__main__":
    main()
