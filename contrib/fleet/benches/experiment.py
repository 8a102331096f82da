"""Shows that no verdict is lost, doubled or wrong, and what the fleet costs beside a plain loop.

python benches/experiment.py achilles-audit SCRATCH [--models 1000] [--faulty 200] [--real LIST]

1. A plain loop scans a registry that make_registry.py made. The fleet scans it on two workers; the worker of a scan
   that runs is killed, then the driver; the same command goes on. Every verdict has to be the loop's.
2. Loop and fleet in turn, over models without faults.
3. With --real, a list of other models: both again, once.

What is printed at the end is also SCRATCH/figures.json.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from make_registry import make

# Ray's own, which compute nothing and look for their parent about once a minute.
AGENTS = ("ray::Dashboard", "ray::RuntimeEnv")
LOOP = """
n=0
while IFS= read -r model; do
  n=$((n + 1))
  code=0
  "$1" scan --static --format json --progress none -o "$3/$n.json" -- "$model" 2>> "$3/stderr" || code=$?
  echo "$code" >> "$3/codes"
done < "$2"
"""


def loop(binary: str, listing: Path, out: Path) -> tuple[float, list[str]]:
    """Seconds and verdicts of a plain shell loop."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    plain = out / "list"
    plain.write_text("".join(f"{line}\n" for line in models_of(listing)))
    start = time.monotonic()
    subprocess.run(["bash", "-c", LOOP, "loop", binary, plain, out], check=True)
    seconds = time.monotonic() - start
    verdicts = []
    for number, code in enumerate((out / "codes").read_text().split(), 1):
        document = out / f"{number}.json"
        verdict = json.loads(document.read_text())["verdict"] if document.exists() else "error"
        expected = {"pass": "0", "fail": "1", "not-examined": "2", "error": "2"}[verdict]
        assert code == expected, (number, code, verdict)
        verdicts.append(verdict)
    return seconds, verdicts


def models_of(listing: Path) -> list[str]:
    return [line for line in listing.read_text().splitlines() if not line.startswith("#")]


def command(binary: str, listing: Path, out: Path, workers: int) -> list[str]:
    options = ["-o", str(out), "--static", "--workers", str(workers), "--binary", binary]
    return [sys.executable, "-m", "achilles_fleet", "scan", str(listing), *options]


def fleet(binary: str, listing: Path, out: Path, workers: int) -> float:
    """Seconds of a whole run into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.monotonic()
    done = subprocess.run(command(binary, listing, out, workers), capture_output=True, text=True)
    assert done.returncode in (0, 1, 2) and (out / "index.html").exists(), done.stderr
    return time.monotonic() - start


def verdicts_of(out: Path) -> list[str]:
    return pq.read_table(out / "verdicts.parquet")["verdict"].to_pylist()


def processes() -> Iterator[tuple[int, int, str]]:
    """Id, parent and name of each."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if state != "Z":
            yield int(folder.name), int(parent), name.partition("(")[2]


def descendants(root: int) -> dict[int, tuple[int, str]]:
    """By id: parent and name of all that a process started, and they in turn."""
    found: dict[int, tuple[int, str]] = {}
    everything = list(processes())
    wanted = {root}
    while wanted:
        new = {pid: (parent, name) for pid, parent, name in everything if parent in wanted and pid not in found}
        found.update(new)
        wanted = set(new)
    return found


def kill_a_worker(driver: int) -> None:
    """Kills the worker whose scan runs just now."""
    while True:
        for scan, (worker, name) in descendants(driver).items():
            if name != "achilles-audit":
                continue
            try:
                # Held, so that it cannot end in between.
                os.kill(scan, signal.SIGSTOP)
                os.kill(worker, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return


def wait_for_results(out: Path, count: int, driver: subprocess.Popen) -> None:
    while len(list((out / "models").glob("*.json"))) < count:
        assert driver.poll() is None, "the driver ended too early"
        time.sleep(0.02)


def survive(binary: str, listing: Path, scratch: Path) -> dict:
    """Kills a worker, then the driver, and goes on."""
    out = scratch / "killed"
    shutil.rmtree(out, ignore_errors=True)
    count = len(models_of(listing))
    _, expected = loop(binary, listing, scratch / "loop")
    with (scratch / "killed.log").open("wb") as log:
        driver = subprocess.Popen(command(binary, listing, out, 2), stdout=log, stderr=log)
        wait_for_results(out, count // 4, driver)
        kill_a_worker(driver.pid)
        wait_for_results(out, count // 2, driver)
        started = {pid: name for pid, (_, name) in descendants(driver.pid).items() if not name.startswith(AGENTS)}
        driver.kill()
        driver.wait()
    before = {path: path.stat().st_mtime_ns for path in (out / "models").glob("*.json")}
    deadline = time.monotonic() + 60
    while left := {pid for pid, _, name in processes() if pid in started and name == started[pid]}:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)
    gone_s = time.monotonic() - deadline + 60
    done = subprocess.run(command(binary, listing, out, 2), capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    documents = {path: json.loads(path.read_bytes()) for path in (out / "models").glob("*.json")}
    repeated = [path for path, changed in before.items() if path.stat().st_mtime_ns != changed]
    named = Counter(document["model"] for document in documents.values())
    table = pq.read_table(out / "verdicts.parquet")
    assert set(named) == set(models_of(listing)) == set(table["model"].to_pylist()), "a model is missing"
    assert set(named.values()) == {1} and table.num_rows == count, "a model is there twice"
    assert verdicts_of(out) == expected, "a verdict is not the loop's"
    assert not repeated, f"done again: {repeated}"
    retried = [document["model"] for document in documents.values() if document["attempts"] > 1]
    assert retried, "the killed worker's model was not tried again"
    assert not list((out / "models").glob(".*")), "something half written is left"
    faults = json.loads((listing.parent / "faults.json").read_text())
    for document in documents.values():
        fault = faults[document["model"]]
        right = {None: "pass", "empty": "error"}.get(fault, "fail")
        assert document["verdict"] == right, (document["model"], fault, document["verdict"])
    return {
        "models": count,
        "verdicts": dict(Counter(expected)),
        "results_before_the_driver_was_killed": len(before),
        "done_again_after": len(repeated),
        "attempted_twice": len(retried),
        "seconds_until_workers_and_scans_were_gone": round(gone_s, 1),
        "said": done.stdout.strip().rpartition(": ")[0],
    }


def spread(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in (min(values), statistics.median(values), max(values)))


def overhead(binary: str, listing: Path, scratch: Path, runs: int, count: int) -> dict:
    """What a checkpoint costs beside the loop: minimum / median / maximum of alternating runs."""
    faults = json.loads((listing.parent / "faults.json").read_text())
    some, one = scratch / "some.txt", scratch / "one.txt"
    sound = [model for model, fault in faults.items() if fault is None][:count]
    some.write_text("".join(f"{model}\n" for model in sound))
    one.write_text(f"{sound[0]}\n")
    seconds: dict[str, list[float]] = {name: [] for name in ("loop", "start", "fleet1", "fleet2")}
    for _ in range(runs):
        seconds["loop"].append(loop(binary, some, scratch / "overhead")[0])
        seconds["start"].append(fleet(binary, one, scratch / "overhead", 1))
        seconds["fleet1"].append(fleet(binary, some, scratch / "overhead", 1))
        seconds["fleet2"].append(fleet(binary, some, scratch / "overhead", 2))
    ms = {
        name: [1000 * (total - start) / (len(sound) - 1) for total, start in zip(seconds[name], starts, strict=True)]
        for name, starts in (("fleet1", seconds["start"]), ("fleet2", seconds["start"]))
    }
    ms["loop"] = [1000 * total / len(sound) for total in seconds["loop"]]
    more = [fleet - plain for fleet, plain in zip(ms["fleet1"], ms["loop"], strict=True)]
    return {
        "checkpoints": len(sound),
        "runs": runs,
        "start and end, s": spread(seconds["start"]),
        "loop, ms a checkpoint": spread(ms["loop"]),
        "fleet of 1 worker, ms a checkpoint": spread(ms["fleet1"]),
        "fleet of 2 workers, ms a checkpoint": spread(ms["fleet2"]),
        "overhead of 1 worker, ms a checkpoint": spread(more),
    }


def real(binary: str, listing: Path, scratch: Path) -> dict:
    """Other models, once."""
    loop_s, expected = loop(binary, listing, scratch / "loop-real")
    fleet_s = fleet(binary, listing, scratch / "real", 2)
    assert verdicts_of(scratch / "real") == expected, "a verdict is not the loop's"
    again_s = time.monotonic()
    done = subprocess.run(command(binary, listing, scratch / "real", 2), capture_output=True, text=True)
    again_s = time.monotonic() - again_s
    assert f"(0 scanned, {len(expected)} kept)" in done.stdout, done.stdout + done.stderr
    figures = {"loop, s": loop_s, "fleet of 2 workers, s": fleet_s, "the same again, all kept, s": again_s}
    return {"verdicts": dict(Counter(expected)), **{name: round(value, 1) for name, value in figures.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--faulty", type=int, default=200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--timed", type=int, default=300, help="checkpoints of each timed run")
    parser.add_argument("--real", type=Path)
    given = parser.parse_args()
    binary = shutil.which(given.binary)
    assert binary, f"{given.binary}: not found"
    scratch = given.scratch.absolute()
    make(scratch / "registry", given.models, given.faulty)
    listing = scratch / "registry" / "models.txt"
    figures = {"killed": survive(binary, listing, scratch)}
    print(json.dumps(figures["killed"], indent=1), flush=True)
    figures["overhead"] = overhead(binary, listing, scratch, given.runs, given.timed)
    if given.real:
        figures["real"] = real(binary, given.real.absolute(), scratch)
    text = json.dumps(figures, indent=1)
    (scratch / "figures.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
