"""The Ray cluster: its own on this machine, or one that is there."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from achilles_fleet import worker
from achilles_fleet.plan import STATIC_BYTES
from achilles_fleet.refused import Refused
from achilles_fleet.settings import Settings


@contextlib.contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[None]:
    """A connection to Ray, ended with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        how: dict[str, Any] = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    else:
        _reach(address)
        # Its nodes need Ray and achilles-audit; this package goes along.
        how = {"address": address, "runtime_env": {"py_modules": [str(Path(__file__).parent)]}}
    try:
        ray.init(**how, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises plain ones, too.
        raise Refused(f"Ray at {address or 'this machine'}: {_first_line(error)}") from None
    try:
        # What Ray says of workers goes to standard output, which is for the summary.
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Refuses an address where nothing answers, which Ray itself would wait for for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise Refused(f"Ray at {address}: {error}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def able_nodes(settings: Settings) -> list[dict[str, Any]]:
    """The nodes that a scan without a critical set fits on."""
    needs = {"CPU": settings.cpus, "GPU": settings.gpus, "memory": STATIC_BYTES}

    def fits(node: dict[str, Any]) -> bool:
        return node["Alive"] and all(node["Resources"].get(name, 0) >= need for name, need in needs.items())

    found = [node for node in ray.nodes() if fits(node)]
    if not found:
        gpu = f", {settings.gpus:g} GPUs" if settings.gpus else ""
        raise Refused(f"no node of the cluster has {settings.cpus:g} CPUs{gpu} and {STATIC_BYTES >> 20} MiB of memory")
    return found


def largest_memory(nodes: list[dict[str, Any]]) -> int:
    """Bytes of the node that has most."""
    return int(max(node["Resources"]["memory"] for node in nodes))


def version_everywhere(settings: Settings, nodes: list[dict[str, Any]]) -> str:
    """The version of achilles-audit, which has to be the same on all nodes, and takes the options on each."""
    task = ray.remote(max_retries=3, num_cpus=0)(worker.probe)
    asked = {}
    for node in nodes:
        at = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_gpus": settings.gpus} if settings.gpus else {}
        asked[task.options(scheduling_strategy=at, **options).remote(settings)] = node["NodeManagerAddress"]
    versions: dict[str, str] = {}
    for reference, place in asked.items():
        try:
            versions.setdefault(ray.get(reference), place)
        except Refused as error:
            where = f"node {place}: " if len(nodes) > 1 else ""
            raise Refused(f"{where}{_cause(error)}") from None
    if len(versions) > 1:
        told = ", ".join(f"{version} on node {place}" for version, place in sorted(versions.items()))
        raise Refused(f"achilles-audit is not the same everywhere: {told}")
    return next(iter(versions))


def _cause(error: Refused) -> str:
    """The text of what a task raised, which Ray sends wrapped in a traceback."""
    return str(getattr(error, "cause", error))
