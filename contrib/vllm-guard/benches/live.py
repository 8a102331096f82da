"""Damages the critical row in the memory of a vLLM that serves over HTTP, and measures what the guard does about it.

    python benches/live.py MODEL VAULT [--only serve,speed,stop,refuse,baseline] [--hits 20] [--requests 500]
    python benches/live.py MODEL VAULT --only parallel

With vLLM and achilles-vllm-guard installed; `baseline` runs achilles-audit, too. MODEL is SmolLM2-135M-Instruct as a
folder, VAULT one of its `L11.mlp.down_proj:out:507`. `parallel` serves any model whose heads two workers can share,
with a vault of a row of a `down_proj` and one of an `up_proj`. Prints one JSON line an experiment.
"""

import argparse
import ast
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

from achilles_vllm_guard import vault

PROMPT = "The capital of France is"
# Long enough to fill blocks of the prefix cache, whose keys and values a damaged model spoils.
LONG = "Paris, Rome, Madrid, Berlin, Vienna and Lisbon are the capitals of six countries in Europe. " * 12 + PROMPT
RIGHT = " Paris"
PARAMETER, ROW = "model.layers.11.mlp.down_proj.weight", 507
OTHER_ROW = 100


class Server:
    """A vLLM of its own on loopback, with what the guard and the hits need in a folder of its own."""

    def __init__(self, args, folder, serve=(), **settings):
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
                [*command, *serve, *args.serve],
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
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

    def ask(self, prompt=PROMPT, tokens=6, **more):
        body = {"model": "model", "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}
        url = f"http://127.0.0.1:{self.port}/v1/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["choices"][0]["text"]

    def hit(self, number, factor=0.0, parameter=PARAMETER, row=ROW, rank=0):
        """Damages what one worker holds of a row; returns when that was done."""
        return self.order(number, rank, parameter=parameter, row=row, factor=factor)["time"]

    def order(self, number, rank=0, **what):
        """Has a worker do what `hit/achilles_hit.py` can; returns its answer."""
        (self.folder / "hit.partial").write_text(json.dumps({"number": number, "rank": rank, **what}))
        os.replace(self.folder / "hit.partial", self.folder / "hit.json")
        while True:
            with contextlib.suppress(OSError, ValueError):
                done = json.loads((self.folder / f"done-{rank}.json").read_text())
                if done["number"] == number:
                    assert "error" not in done, done["error"]
                    return done
            assert self.process.poll() is None, self.log.read_text()[-3000:]
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
    """Tokens a second with the guard and without, of one server: a worker takes the guard out and puts it back.

    Each pair asks the same requests twice, the order turns with every pair (off on, on off, …), nothing is cached
    between them, and a block lasts as long as the guard's interval at least. Neighbouring blocks of the same kind, one
    of each pair, say how much a ratio of two blocks varies where nothing differs.
    """
    asked = dict(VAULT=args.vault, POLICY="repair", ALL="1")
    with Server(args, folder, ["--no-enable-prefix-caching"], **asked) as server:
        assert server.wait(), server.log.read_text()[-3000:]

        def block(requests):
            with ThreadPoolExecutor(4) as pool:
                began = time.time()
                list(pool.map(lambda prompt: server.ask(prompt, 32, ignore_eos=True), requests))
                return len(requests) * 32 / (time.time() - began)

        rate = min(block([f"{PROMPT} {n}" for n in range(16)]) for _ in range(2))
        count = max(16, round(rate / 32 * args.block))
        rates, blocks = {True: [], False: []}, []
        for number in range(args.pairs):
            requests = [f"{PROMPT} {random.random()}" for _ in range(count)]
            for on in (True, False) if number % 2 else (False, True):
                unpacked = server.order(len(blocks), guard=on)["changed"]
                blocks.append((on, block(requests)))
                rates[on].append(blocks[-1][1])
        metrics = server.metrics()
    same = [
        later / earlier for (kind, earlier), (other, later) in zip(blocks, blocks[1:], strict=False) if kind == other
    ]
    ratios = [with_it / without for with_it, without in zip(rates[True], rates[False], strict=True)]
    return {
        "pairs": args.pairs,
        "requests_a_block": count,
        "tokens_a_second": {"guarded": spread(rates[True], 1), "plain": spread(rates[False], 1)},
        "ratio_of_pairs": spread(ratios, 4),
        "ratio_of_neighbours_alike": spread(same, 4) if same else None,
        "layers_that_the_guard_leaves_unpacked": unpacked,
        "checks": [value for name, value in metrics.items() if "guard_checks_total" in name],
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
    """Vaults that are missing or spoiled, a setting mistyped, a baseline of another model, or one where the model is
    compiled: the server does not start, and one line says why.
    """
    spoiled = folder.with_name("spoiled.safetensors")
    data = bytearray(Path(args.vault).read_bytes())
    data[-1] ^= 1
    spoiled.write_bytes(data)
    found = {}
    foreign = Path(__file__).parents[1] / "tests" / "data" / "baseline.json"
    for name, settings in (
        ("compiled", dict(BASELINE=foreign)),
        ("foreign", dict(BASELINE=foreign)),
        ("missing", dict(VAULT="/nowhere/vault.safetensors")),
        ("spoiled", dict(VAULT=spoiled)),
        ("mistyped", dict(VAULT=args.vault, POLCY="stop")),
    ):
        serve = ["--no-enforce-eager"] if name == "compiled" else []
        with Server(args, folder.with_name(f"refuse-{name}"), serve, **settings) as server:
            started = server.wait()
            lines = server.log.read_text().strip().splitlines()
            # A worker's error is followed by those of the processes that wait for it.
            says = [line for line in lines if "Bad" in line or "GuardError" in line] or lines
            found[name] = {"started": started, "exit_code": server.process.returncode, "says": says[-1]}
    return found


def baseline(args, folder):
    """Do the activations tell damage, that of a row which the vault lacks, too, and leave prompts like theirs in peace?

    The vault keeps the layer from being packed, so that it can be damaged.
    """
    texts = paragraphs()
    recorded, others = texts[:200], iter(texts[200:])
    prompts, profile = folder.with_name("prompts.jsonl"), args.baseline or folder.with_name("baseline.json")
    if not profile.exists():
        prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in recorded))
        record = ["monitor", "record", str(args.model), "--prompts", str(prompts), "--sites", "down_proj"]
        subprocess.run([args.tool, *record, "-o", str(profile)], check=True)
    asked, scores = [next(others) for _ in range(args.prompts)], {}
    tool = tool_scores(args, profile, asked, prompts)
    with Server(args, folder, VAULT=args.vault, BASELINE=profile, BASELINE_SECONDS=0.1) as server:
        assert server.wait(), server.log.read_text()[-3000:]

        def metric(name):
            return next(value for key, value in server.metrics().items() if key.startswith(f"achilles_guard_{name}{{"))

        def until(outside):
            """Prompts sampled, and seconds, until the verdict is that."""
            began, sampled = time.time(), metric("baseline_prompts_total")
            while metric("baseline_outside") != outside:
                server.ask(next(others), 1)
            return {"prompts": metric("baseline_prompts_total") - sampled, "seconds": round(time.time() - began, 1)}

        for at, text in enumerate(asked):
            time.sleep(0.11)
            server.ask(text, 1)
            if metric("baseline_prompts_total") > len(scores):
                scores[at] = metric("baseline_score")
        clean = {"asked": len(asked), "sampled": len(scores), "highest_score": max(scores.values())}
        clean.update(verdicts=metric("baseline_checks_total"), outside=metric("baseline_prompts_outside_total"))
        clean.update(events=len(server.events()), threshold=metric("baseline_threshold"))
        for text in asked[:20]:
            time.sleep(0.11)
            server.ask(text, 1)
        clean["sampled_of_20_that_are_cached"] = metric("baseline_prompts_total") - clean["sampled"]
        took, found = metric("baseline_sample_seconds"), {}
        steps = [(ROW, 0.25), (ROW, 4.0), (OTHER_ROW, 1024.0), (OTHER_ROW, 1 / 1024), (ROW, 0.0)]
        for number, (row, factor) in enumerate(steps):
            server.hit(number, factor, row=row)
            found[f"row {row} times {factor:.4g}"] = until(int(number % 2 == 0))
        first = [line for line in server.log.read_text().splitlines() if "achilles-guard: samples" in line]
        events = server.events()
    clean["most_that_a_score_differs_from_the_tools"] = max(abs(score - tool[at]) for at, score in scores.items())
    return {"clean": clean, "sample_seconds": took, "after": found, "events": events, "first_lines": first}


def tool_scores(args, profile, texts, file):
    """What `monitor check` gives the same prompts, in arithmetic of its own."""
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    check = [args.tool, "monitor", "check", str(args.model), "--prompts", str(file), "--baseline", str(profile)]
    done = subprocess.run([*check, "--format", "json"], capture_output=True, check=False)
    return {int(at): score for at, score in json.loads(done.stdout)["result"]["scores"].items()}


def paragraphs():
    """Of docstrings of Python's standard library, 80 to 500 characters, each once, in an order of chance."""
    found = set()
    for file in sorted(Path(os.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                found.update(" ".join(part.split()) for part in (ast.get_docstring(node) or "").split("\n\n"))
    kept = sorted(text for text in found if 80 <= len(text) <= 500)
    random.Random(0).shuffle(kept)
    return kept


def parallel(args, folder):
    """Two workers with a half each: one's half of a row is damaged, then the other's, then a row that only one has."""
    parts = {part.tensor.split(".")[-2]: part for part in vault.read(args.vault).parts if part.axis == "row"}
    down, up = parts["down_proj"], parts["up_proj"]
    share = up.shape[0] // 2
    holder = up.index // share
    merged = up.tensor.replace("up_proj", "gate_up_proj"), share + up.index - holder * share
    settings = dict(VAULT=args.vault, POLICY="repair", INTERVAL=args.interval, ALL="1", ALL_SECONDS=60)
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    with Server(args, folder, ["--tensor-parallel-size", "2"], **settings) as server:
        assert server.wait(), server.log.read_text()[-3000:]
        clean, hits = [server.ask(LONG), server.ask()], []
        for number, (rank, parameter, row) in enumerate(
            [(0, down.tensor, down.index), (1, down.tensor, down.index), (holder, *merged)]
        ):
            known = len(server.events())
            at = server.hit(number, 100.0, parameter, row, rank)
            before = [server.ask(LONG), server.ask()]
            while len(server.events()) == known:
                assert time.time() < at + 600, "not told"
                time.sleep(0.05)
            (event,) = server.events()[known:]
            hits.append(
                {"rank": rank, "seconds": round(event["time"] - at, 2), "before": before, "after": server.ask()}
            )
            hits[-1].update({key: event[key] for key in ("worker", "change", "action", "when")})
        metrics = {name: value for name, value in server.metrics().items() if "rank" in name}
        log = [line for line in server.log.read_text().splitlines() if "achilles-guard: watches" in line]
    return {"clean": clean, "hits": hits, "metrics": metrics, "first_lines": log}


EXPERIMENTS = {"serve": serve, "speed": speed, "stop": stop, "refuse": refuse, "baseline": baseline}


def main():
    parser = argparse.ArgumentParser(description="What the guard does in a vLLM that serves.")
    parser.add_argument("model", metavar="MODEL", type=Path)
    parser.add_argument("vault", metavar="VAULT", type=Path)
    parser.add_argument("--hits", type=int, default=20)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=10, help="of blocks with and without the guard")
    parser.add_argument("--block", type=float, default=12, help="seconds that a block is to last")
    parser.add_argument("--prompts", type=int, default=100, help="that are asked before there is damage")
    parser.add_argument("--baseline", type=Path, help="of an earlier run; recorded where it is not there")
    parser.add_argument("--tool", default="achilles-audit", help="which records the baseline")
    parser.add_argument("--interval", type=float, default=10, help="seconds between checks while there are hits")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help="which experiments")
    parser.add_argument("--serve", nargs="*", default=[], help="more arguments of `vllm serve`")
    args = parser.parse_args()
    args.model, args.vault = args.model.resolve(), args.vault.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only.split(","):
            experiment = parallel if name == "parallel" else EXPERIMENTS[name]
            print(json.dumps({"experiment": name, **experiment(args, Path(scratch) / name)}), flush=True)


if __name__ == "__main__":
    main()
