"""How much memory a scan is to have."""

from dataclasses import dataclass

from achilles_fleet import audit
from achilles_fleet.audit import Ended
from achilles_fleet.settings import Settings

# What a scan that computes nothing takes, with room to spare: its files are mapped, and read a part at a time.
STATIC_BYTES = 512 << 20
# What rows, logits and lint take beside the weights.
_BESIDE_BYTES = 512 << 20


@dataclass(frozen=True)
class Plan:
    """Bytes to reserve, and the options of scan that keep within them."""

    bytes: int
    options: tuple[str, ...]


def plan(settings: Settings, target: str, most_bytes: int) -> Plan | Ended:
    """The plan of a scan on nodes that have so many bytes at most; else why there is none.

    `estimate` tells what weights take, resident or streamed, and whether a scan within a given --memory finds enough.
    So that is asked with the weights and a margin, doubled while it does not suffice. On a GPU, weights pass through
    the host's memory as when they are streamed, and stay on the card where they fit.
    """
    gpu = ("--device", "cuda:0") if settings.gpus else ()
    needs, ended = audit.estimate(settings, target, ["--device", "cpu"])
    if needs is None:
        # What is not computed here (another kind of model, broken files) is for scan to tell; it computes nothing.
        return Plan(STATIC_BYTES, gpu) if ended.cause == "refused" else ended
    problem = ""
    for weights in ("stream",) if gpu else ("resident", "stream"):
        size = needs["memory"]["resident_bytes" if weights == "resident" else "streamed_bytes"]
        size += size // 4 + _BESIDE_BYTES
        while size <= most_bytes:
            options = ("--weights", weights, "--memory", f"{size}B")
            within, ended = audit.estimate(settings, target, ["--device", "cpu", *options])
            if within is None:
                return ended
            problem = within["memory"]["problem"]
            if problem is None:
                return Plan(size, gpu or options)
            size *= 2
        problem = problem or f"with weights {weights} it takes {size >> 20} MiB"
    return Ended(2, f"no node has enough memory, the largest {most_bytes >> 20} MiB: {problem}")
