"""Puts the guards' counters among vLLM's own on `/metrics`."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import REGISTRY, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from .report import read_all

NAMESPACE = "achilles_guard"
HELP = {
    "guarded_parts": "Rows, columns and elements of the vault that are held against this worker's memory",
    "unguarded_parts": "Parts of the vault that cannot be, as vLLM keeps them in another layout",
    "damaged_parts": "Parts that are not as the vault has them now",
    "last_check_timestamp_seconds": "When the vault was last held against memory",
    "check_seconds": "How long that took",
    "checksum_bytes": "Bytes of parameters and buffers that are summed",
    "checks": "Times that the vault was held against memory",
    "failed_checks": "Times that it could not be; the log says why",
    "repairs": "Parts that were put back from the vault",
    "checksum_rounds": "Times that all of the model was summed",
    "baseline_sites": "Sites of the baseline whose activations are sampled",
    "baseline_prompts": "Prompts whose activations were held against the baseline",
    "baseline_prompts_outside": "Those of them with a score above the threshold",
    "baseline_checks": "Verdicts, each over several prompts",
    "baseline_outside": "1 where the last verdict was an alarm",
    "baseline_score": "How far the last prompt was from the baseline",
    "baseline_threshold": "The score beyond which a prompt is outside",
    "baseline_sample_seconds": "What reading and judging the last sample took",
    "failed_samples": "Times that activations could not be read; the log says why",
}


class StatusCollector:
    """Reads the workers' status files whenever metrics are asked for: workers are other processes."""

    def __init__(self, state: Path):
        self.state = state

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        differences = CounterMetricFamily(
            f"{NAMESPACE}_differences", "Changes found in memory, by tensor", labels=("worker", "kind", "tensor")
        )
        for status in read_all(self.state):
            for group, family_of in (("gauges", GaugeMetricFamily), ("counters", CounterMetricFamily)):
                for name, value in status[group].items():
                    family = families.setdefault(name, family_of(f"{NAMESPACE}_{name}", HELP[name], labels=("worker",)))
                    family.add_metric([status["worker"]], value)
            for kind, tensors in status["differences"].items():
                for tensor, count in tensors.items():
                    differences.add_metric([status["worker"], kind, tensor], count)
        yield from families.values()
        yield differences


def install(state: Path) -> None:
    """Into the registry of this process, and into what vLLM collects where it has several API servers."""
    collector = StatusCollector(state)
    REGISTRY.register(collector)
    collect = multiprocess.MultiProcessCollector.collect

    def with_guards(self: multiprocess.MultiProcessCollector) -> Iterator[Metric]:
        yield from collect(self)
        yield from collector.collect()

    multiprocess.MultiProcessCollector.collect = with_guards
