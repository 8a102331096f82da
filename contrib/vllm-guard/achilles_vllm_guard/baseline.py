"""Reads a baseline (schema `achilles-audit/baseline/v1`) and holds prompts against it, as `monitor check` does.

The arithmetic is that of `src/monitor/{sketch,score,check}.rs`.
"""

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .settings import GuardError

SCHEMA = "achilles-audit/baseline/v1"
LARGEST_FILE = 256 << 20
NARROWEST = 0.05
"""What a deviation is at least measured in."""
TOKENS, STATISTICS, EXTREMES = ("first", "rest"), ("l2", "max_abs"), ("smallest", "largest")
Key = tuple[int, str, str]
"""A site by its place in the baseline, positions, and the statistic."""


class BadBaseline(GuardError):
    """The baseline is not one, belongs to another model, or cannot be used here."""


@dataclass(frozen=True)
class Spread:
    """Of one statistic over the baseline's prompts."""

    median: float
    smallest: float
    largest: float

    def deviation(self, value: float) -> float:
        """|ln (value / median)| over that of the end of the range on the same side."""
        # Experts that most positions are not routed to show zeros there: how rarely is not judged.
        if self.median == 0 and value <= self.largest:
            return 0.0
        end = self.largest if value > self.median else self.smallest
        return abs(_ln(value) - _ln(self.median)) / max(abs(_ln(end) - _ln(self.median)), NARROWEST)


@dataclass(frozen=True)
class Site:
    """The output of a module, and how its norms are distributed."""

    name: str
    """As the checkpoint has it, such as `model.layers.3.mlp.down_proj:out`."""
    channels: int
    finite: bool
    """Whether the baseline's model had finite values alone."""
    spreads: dict[tuple[str, str, str], Spread]
    """By positions, statistic and extreme."""


@dataclass(frozen=True)
class Baseline:
    """What a file that was found sound says of itself."""

    path: Path
    source: str
    dtype: str
    max_tokens: int
    scores: tuple[float, ...]
    """Of the calibration prompts, largest first."""
    sites: tuple[Site, ...]
    """In the order of computation."""


@dataclass(frozen=True)
class Rule:
    """When `prompts` prompts are an alarm: `fewest` or more of them have a score above `threshold`."""

    calibration: int
    prompts: int
    alpha: float
    rank: int
    threshold: float
    fewest: int

    @classmethod
    def of(cls, baseline: Baseline, prompts: int, alpha: float) -> "Rule":
        """`BadBaseline` where so few prompts cannot be told from chance."""
        n = len(baseline.scores)
        rank = min(max(math.floor(alpha * (n + 1)), 1), n)
        # Chances fall as more prompts are outside.
        fewest = next((k for k in range(1, prompts + 1) if p_value(n, prompts, rank, k) <= alpha), None)
        if fewest is None:
            least = p_value(n, prompts, rank, prompts)
            problem = f"{prompts} prompts against {n} calibration prompts cannot be told from chance below {least:.2e}"
            raise BadBaseline(f"{baseline.path}: {problem}, and the false-alarm rate is {alpha:g}: take more prompts")
        return cls(n, prompts, alpha, rank, baseline.scores[rank - 1], fewest)

    def p_value(self, outside: int) -> float:
        """The probability of so many prompts outside, or more, by chance."""
        return p_value(self.calibration, self.prompts, self.rank, outside)


@dataclass(frozen=True)
class Deviation:
    """How far one extreme of a prompt is from the baseline's: 1 is the end of its range."""

    size: float
    site: int
    tokens: str
    statistic: str
    extreme: str
    value: float


@dataclass
class Prompt:
    """What was read of one prompt."""

    extremes: dict[Key, tuple[float, float]] = field(default_factory=dict)
    """The smallest and the largest value over positions whose values are finite."""
    not_finite: dict[int, tuple[int, int]] = field(default_factory=dict)
    """NaN and infinite values by site."""


def deviations(baseline: Baseline, prompt: Prompt) -> list[Deviation]:
    """All of a prompt; its score is the largest."""
    found = []
    for (site, tokens, statistic), values in prompt.extremes.items():
        for extreme, value in zip(EXTREMES, values, strict=True):
            spread = baseline.sites[site].spreads.get((tokens, statistic, extreme))
            size = 0.0 if spread is None else spread.deviation(value)
            found.append(Deviation(size, site, tokens, statistic, extreme, value))
    return found


def p_value(n: int, m: int, rank: int, k: int) -> float:
    """P(K ≥ k), where K of m new prompts score above the rank-th largest of n and all n + m are exchangeable."""
    if k == 0:
        return 1.0
    drawn = k + rank - 1
    ways = sum(math.comb(m, new) * math.comb(n, drawn - new) for new in range(max(k, drawn - n), min(m, drawn) + 1))
    return min(ways / math.comb(n + m, min(drawn, n + m)), 1.0)


def read(path: Path) -> Baseline:
    """Reads and checks a baseline. `BadBaseline` has one line that says what is wrong."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadBaseline(f"{path}: is larger than any baseline")
        return _parse(path, json.loads(path.read_bytes()))
    except OSError as error:
        raise BadBaseline(f"{path}: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        problem = f"is not a baseline as `achilles-audit monitor record` writes it: {error!r}"
        raise BadBaseline(f"{path}: {problem}") from None


def _parse(path: Path, document: dict[str, Any]) -> Baseline:
    if document["schema"] != SCHEMA:
        raise ValueError(f"its schema is {document['schema']!r}, expected {SCHEMA!r}")
    scores = tuple(float(score) for score in document["calibration_scores"])
    if not scores or min(scores) < 0 or not all(map(math.isfinite, scores)) or list(scores) != sorted(scores)[::-1]:
        raise ValueError("its calibration scores are not numbers from 0 on, largest first")
    sites = tuple(_site(site) for site in document["sites"])
    if not sites or len({site.name for site in sites}) != len(sites):
        raise ValueError("it has no sites, or one twice")
    settings = document["settings"]
    max_tokens = int(settings["max_tokens"])
    if max_tokens < 2:
        raise ValueError(f"max_tokens is {max_tokens}")
    return Baseline(path, str(document["model"]["source"]), str(settings["dtype"]), max_tokens, scores, sites)


def _site(site: dict[str, Any]) -> Site:
    spreads = {}
    for tokens in TOKENS:
        for statistic in STATISTICS:
            for extreme in EXTREMES:
                spread = _spread(site[tokens][statistic][extreme])
                if spread is not None:
                    spreads[tokens, statistic, extreme] = spread
    finite = not any(site[tokens][kind] for tokens in TOKENS for kind in ("nan", "inf"))
    return Site(str(site["site"]), int(site["channels"]), finite, spreads)


def _spread(sketch: dict[str, Any]) -> Spread | None:
    """The median is that of rank ⌊(n − 1) / 2⌋, in buckets of a relative error of 1%."""
    zeros, buckets = int(sketch["zeros"]), {int(bucket): int(count) for bucket, count in sketch["buckets"].items()}
    total = zeros + sum(buckets.values())
    if sketch["range"] is None or total == 0:
        if sketch["range"] is not None or total:
            raise ValueError("a sketch has values but no range, or a range but no values")
        return None
    smallest, largest = map(float, sketch["range"])
    if not 0 <= smallest <= largest < math.inf or zeros < 0 or min(buckets.values(), default=0) < 0:
        raise ValueError("a sketch's range or counts are none")
    rank, below, gamma = (total - 1) // 2, zeros, 1.01 / 0.99
    if rank < below:
        return Spread(0.0, smallest, largest)
    for bucket, count in sorted(buckets.items()):
        below += count
        if rank < below:
            median = min(max(2 * gamma**bucket / (gamma + 1), smallest), largest)
            return Spread(median, smallest, largest)
    return Spread(largest, smallest, largest)


def _ln(value: float) -> float:
    return math.log(max(value, sys.float_info.min))
