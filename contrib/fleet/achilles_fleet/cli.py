"""The command line."""

import argparse
import datetime
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import ray

from achilles_fleet import cluster, page, table, verdicts
from achilles_fleet.fleet import Fleet
from achilles_fleet.models import read_models
from achilles_fleet.refused import Refused
from achilles_fleet.settings import settings
from achilles_fleet.store import Store, replace
from achilles_fleet.text import printable

_EPILOG = """Exit code: 0 all models pass; 1 one fails; 2 none fails, but one was not examined, or the run could not be
done, which one line says; 130 interrupted. Run the same again to go on where it was interrupted."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    top = argparse.ArgumentParser(prog="achilles-fleet", description="Scans checkpoints with achilles-audit, on Ray")
    commands = top.add_subparsers(dest="command", required=True)
    scan = commands.add_parser(
        "scan",
        help="scan all models of a list",
        epilog=_EPILOG,
        allow_abbrev=False,
        usage="%(prog)s MODELS -o DIR [options] [-- OPTIONS OF achilles-audit scan]",
    )
    scan.add_argument(
        "models", metavar="MODELS", type=Path, help="a list: a folder, .gguf or hub id a line; # comments"
    )
    scan.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder of the results")
    scan.add_argument(
        "--rules", metavar="FILE", default="default", help="default, release, or a file [default: default]"
    )
    scan.add_argument("--static", action="store_true", help="do not run the models: look at their files only")
    scan.add_argument(
        "--address", help="a Ray cluster (auto, HOST:PORT, ray://HOST:PORT) [default: this machine alone]"
    )
    scan.add_argument("--workers", metavar="N", type=_at_least(1), help="on this machine: CPUs for Ray [default: all]")
    scan.add_argument("--cpus", metavar="N", type=_at_least(1), default=1, help="CPUs of a scan [default: 1]")
    scan.add_argument(
        "--gpus", metavar="N", type=_share, default=0, help="GPUs of a scan, 1 or a part of one [default: 0]"
    )
    scan.add_argument(
        "--timeout", metavar="SECONDS", type=_at_least(1), default=86400, help="of a scan [default: a day]"
    )
    scan.add_argument("--retries", metavar="N", type=_at_least(0), default=3, help="of lost scans [default: 3]")
    scan.add_argument("--digests", action="store_true", help="know models again by SHA-256 of all bytes")
    scan.add_argument("--node-memory", metavar="BYTES", type=_at_least(1), help="of the largest node that may yet come")
    scan.add_argument("--binary", default="achilles-audit", help="its path on all nodes [default: found on PATH]")
    return top


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}")
        return int(text)

    return number


def _share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError("expected 0 to 1")
    return float(text)


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    at = arguments.index("--") if "--" in arguments else len(arguments)
    given = parser().parse_args(arguments[:at])
    given.options = arguments[at + 1 :]
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return scan(given)
    except Refused as problem:
        _say(str(problem))
        return 2
    except ray.exceptions.RayError as problem:
        _say(f"Ray: {str(problem).strip().splitlines()[0]}; run it again to go on")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; run it again to go on")
        return 130


def scan(given: argparse.Namespace) -> int:
    """Scans all models of a list and reports."""
    models = read_models(given.models)
    binary = _located(given.binary) if given.address is None else given.binary
    asked = settings(
        binary=binary,
        rules=given.rules,
        options=given.options,
        static=given.static,
        by_digest=given.digests,
        timeout_s=given.timeout,
        cpus=given.cpus,
        gpus=given.gpus,
    )
    store = Store(given.output)
    with store.locked(), cluster.connected(given.address, given.workers):
        nodes = cluster.able_nodes(asked)
        asked = asked.of_version(cluster.version_everywhere(asked, nodes))
        most_bytes = max(given.node_memory or 0, cluster.largest_memory(nodes))
        fleet = Fleet(store, asked, most_bytes, given.retries, _say)
        fleet.run(models)
        rows = verdicts.rows(store, models)
        finished = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        html = page.page(rows, given.rules, asked.version, finished)
        replace(given.output / "verdicts.parquet", table.parquet(rows))
        replace(given.output / "index.html", html.encode("utf-8", "backslashreplace"))
    new = fleet.total - fleet.kept
    print(f"{verdicts.summary(rows)} ({new} scanned, {fleet.kept} kept): {printable(str(given.output / 'index.html'))}")
    return verdicts.exit_code(rows)


def _located(binary: str) -> str:
    """Where the binary is, since scans run elsewhere."""
    found = shutil.which(binary)
    if found is None:
        raise Refused(f"{binary}: not found; install achilles-audit, or name it with --binary")
    return str(Path(found).absolute())


def _say(line: str) -> None:
    print(f"achilles-fleet: {printable(line)}", file=sys.stderr, flush=True)
