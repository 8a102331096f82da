"""Reads the norms of activations off prompts that pass through the model, and holds them against a baseline.

Only what the baseline is of can be compared: a prompt from its first token, as much of it as the baseline's prompts
were cut to, computed in one step. Decoded tokens, and prompts of which the cache had a part, are not looked at.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .baseline import BadBaseline, Baseline, Deviation, Prompt, Rule, Site, deviations
from .report import LOG, Report
from .settings import Settings

LINEAR = ("RowParallelLinear", "ReplicatedLinear")
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64}


@dataclass(frozen=True)
class Candidate:
    """A prompt of the step to come that can be compared."""

    tokens: tuple[int, ...]
    """Cut as the baseline's were."""


class Check:
    """The prompts since the last verdict, up to as many as the rule asks for."""

    def __init__(self, baseline: Baseline, rule: Rule):
        self.baseline, self.rule = baseline, rule
        self.seen: set[tuple[int, ...]] = set()
        self.outside, self.largest = 0, 0.0
        self.worst: dict[int, Deviation] = {}
        self.not_finite: dict[int, tuple[int, int]] = {}

    def add(self, tokens: tuple[int, ...], prompt: Prompt) -> float:
        """A prompt's score. One that is there already says nothing new, and is for the caller to leave out."""
        self.seen.add(tokens)
        score = 0.0
        for found in deviations(self.baseline, prompt):
            score = max(score, found.size)
            known = self.worst.get(found.site)
            if found.size > self.rule.threshold and (known is None or found.size > known.size):
                self.worst[found.site] = found
        self.outside += score > self.rule.threshold
        self.largest = max(self.largest, score)
        for site, counts in prompt.not_finite.items():
            if self.baseline.sites[site].finite:
                self.not_finite[site] = counts
        return score

    @property
    def alarm(self) -> bool:
        """More prompts can only add to those outside, so that an alarm need not wait for the last."""
        return self.outside >= self.rule.fewest or bool(self.not_finite)

    @property
    def over(self) -> bool:
        """Whether the verdict is there."""
        return self.alarm or len(self.seen) >= self.rule.prompts


class Sampler:
    """Of one model in one process; it registers hooks, which do nothing but in the steps that are read."""

    def __init__(self, settings: Settings, baseline: Baseline, model: torch.nn.Module, report: Report, vllm_dtype: Any):
        self.settings, self.baseline, self.report = settings, baseline, report
        self.rule = Rule.of(baseline, settings.baseline_prompts, settings.false_alarm_rate)
        self.check = Check(baseline, self.rule)
        self.told = False
        self.due_at = time.monotonic()
        self.armed: list[Candidate] = []
        self.total = 0
        self.spans: list[tuple[Candidate, int]] = []
        self.read: list[tuple[int, list[torch.Tensor]]] = []
        self.seconds = 0.0
        self.failed: Exception | None = None
        modules, counted = dict(model.named_modules()), 0
        for place, site in enumerate(baseline.sites):
            module = _module(modules, site)
            if module is not None:
                counted += 1
                module.register_forward_hook(self._output_hook(place))
        if not counted:
            problem = "none of its sites is a module of its own here"
            raise BadBaseline(f"{baseline.path}: {problem}; vLLM has the outputs of o_proj, down_proj and the norms")
        model.register_forward_pre_hook(
            lambda _m, args, kwargs: self._guarded(self._on_inputs, args, kwargs), with_kwargs=True
        )
        report.gauges.update(baseline_sites=counted, baseline_threshold=self.rule.threshold, baseline_outside=0)
        report.counters.update(baseline_prompts=0, baseline_prompts_outside=0, baseline_checks=0, failed_samples=0)
        of = f"{counted} of {len(baseline.sites)} sites of {baseline.path}"
        every = f"a prompt every {settings.baseline_seconds:g} s"
        told = f"{self.rule.fewest} of {self.rule.prompts} with a score above {self.rule.threshold:.4g} are an alarm"
        LOG.info("achilles-guard: samples %s, %s; %s [%s]", of, every, told, report.worker)
        if vllm_dtype is not None and DTYPES.get(baseline.dtype) != vllm_dtype:
            rounding = f"the baseline was recorded in {baseline.dtype}, this computes in {vllm_dtype}"
            LOG.warning("achilles-guard: %s: rounding alone may differ [%s]", rounding, report.worker)

    def restart(self) -> None:
        """Weights were replaced: what was read before is not of these."""
        self.check, self.told = Check(self.baseline, self.rule), False
        self.report.gauges["baseline_outside"] = 0

    def before_step(self, step: Any) -> None:
        """Looks, when it is time, whether the step has prompts to read."""
        self.armed, self.spans, self.read, self.failed = [], [], [], None
        if time.monotonic() < self.due_at:
            return
        try:
            self.armed = list(self._candidates(step))
        except Exception as error:
            self._fail(error)
        self.total, self.seconds = step.total_num_scheduled_tokens if self.armed else 0, 0.0

    def after_step(self) -> bool:
        """Judges what was read. Whether that raised an alarm."""
        armed, self.armed = self.armed, []
        if not armed:
            return False
        began = time.perf_counter()
        try:
            if self.failed is not None:
                raise self.failed
            prompts = list(self._prompts())
        except Exception as error:
            self._fail(error)
            return False
        finally:
            self.spans, self.read = [], []
        if not prompts:
            return False  # not one was where it was looked for; the next step is tried
        self.due_at = time.monotonic() + self.settings.baseline_seconds
        alarm = False
        for candidate, prompt in prompts:
            score = self.check.add(candidate.tokens, prompt)
            self.report.counters["baseline_prompts"] += 1
            self.report.counters["baseline_prompts_outside"] += score > self.rule.threshold
            self.report.gauges["baseline_score"] = score
            if self.check.over:
                alarm = self._verdict() or alarm
        self.report.gauges["baseline_sample_seconds"] = self.seconds + time.perf_counter() - began
        self.report.write()
        return alarm

    def _fail(self, error: Exception) -> None:
        """What cannot be read must not take a step down; it is told and counted."""
        LOG.error("achilles-guard: activations could not be read [%s]", self.report.worker, exc_info=error)
        self.report.counters["failed_samples"] += 1
        self.due_at = time.monotonic() + self.settings.baseline_seconds
        self.report.write()

    def _verdict(self) -> bool:
        check, self.check = self.check, Check(self.baseline, self.rule)
        self.report.counters["baseline_checks"] += 1
        self.report.gauges["baseline_outside"] = int(check.alarm)
        if check.alarm and not self.told:
            self._tell(check)
        self.told = check.alarm
        return check.alarm

    def _tell(self, check: Check) -> None:
        sites, rule = self.baseline.sites, self.rule
        first = min((*check.not_finite, *check.worst))
        fields: dict[str, Any] = {"prompts": len(check.seen), "prompts_outside": check.outside, "score": check.largest}
        fields.update(threshold=rule.threshold, p_value=rule.p_value(check.outside), alpha=rule.alpha)
        fields.update(sites_outside=[sites[at].name for at in sorted({*check.worst, *check.not_finite})])
        if first in check.not_finite:
            nan, inf = check.not_finite[first]
            fields.update(nan=nan, inf=inf)
            what = f"{nan} values are NaN, {inf} infinite"
        else:
            worst = check.worst[first]
            spread = sites[first].spreads[worst.tokens, worst.statistic, worst.extreme]
            fields.update(tokens=worst.tokens, statistic=worst.statistic, extreme=worst.extreme, value=worst.value)
            fields.update(baseline_median=spread.median, baseline_range=[spread.smallest, spread.largest])
            token = "first token" if worst.tokens == "first" else "a later token"
            usual = f"in the baseline {spread.smallest:.4g} to {spread.largest:.4g}"
            what = f"{worst.statistic} of {token} {worst.value:.4g}, {usual}"
        score = f"{check.outside} of {len(check.seen)} prompts have a score above {rule.threshold:.4g}"
        text = f"activations left the baseline: {score}, the largest {check.largest:.4g}"
        text = f"{text}; first at {sites[first].name}: {what}"
        fields.update(change=text, action="alarm")
        self.report.event("baseline", f"{text}; left as it is", sites[first].name, **fields)

    def _candidates(self, step: Any) -> Iterator[Candidate]:
        known = set(self.check.seen)
        for request in step.scheduled_new_reqs:
            cut = tuple((request.prompt_token_ids or ())[: self.baseline.max_tokens])
            plain = not (request.num_computed_tokens or request.mm_features or request.lora_request)
            plain = plain and getattr(request, "prompt_embeds", None) is None
            if not plain or not 2 <= len(cut) <= step.num_scheduled_tokens[request.req_id] or cut in known:
                continue
            if len(known) == self.rule.prompts:
                return
            known.add(cut)
            yield Candidate(cut)

    def _output_hook(self, place: int) -> Callable:
        return lambda _module, _inputs, output: self._guarded(self._on_output, place, output)

    def _guarded(self, function: Any, *args: Any) -> None:
        """A hook that fails must not take the step down."""
        if not self.armed or self.failed is not None:
            return
        began = time.perf_counter()
        try:
            function(*args)
        except Exception as error:
            self.failed = error
        self.seconds += time.perf_counter() - began

    def _on_inputs(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Where in the batch the prompts lie: the order of a batch is the runner's own, the positions tell."""
        positions = kwargs["positions"] if "positions" in kwargs else args[1]
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        # Three rows, which are alike for text, where positions are of time, height and width.
        positions = (positions[0] if positions.dim() == 2 else positions)[: self.total].cpu()
        ids = None if ids is None else ids[: self.total].cpu()
        starts = (positions == 0).nonzero().flatten().tolist()
        self.spans = []
        for candidate in self.armed:
            n = len(candidate.tokens)
            for start in starts:
                if not torch.equal(positions[start : start + n], torch.arange(n, dtype=positions.dtype)):
                    continue
                # A later stage of a pipeline is not told the tokens.
                alone = ids is None and len(starts) == len(self.armed) == 1
                if alone or (ids is not None and ids[start : start + n].tolist() == list(candidate.tokens)):
                    self.spans.append((candidate, start))
                    starts.remove(start)
                    break

    def _on_output(self, place: int, output: Any) -> None:
        if not self.spans:
            return
        x = output[0] if isinstance(output, tuple) else output
        self.read.append((place, [_norms(x[start : start + len(c.tokens)]) for c, start in self.spans]))

    def _prompts(self) -> Iterator[tuple[Candidate, Prompt]]:
        for at, (candidate, _) in enumerate(self.spans):
            prompt = Prompt()
            table = torch.stack([norms[at] for _, norms in self.read]).cpu()  # (sites, 4, positions)
            for (place, _), (l2, max_abs, nan, inf) in zip(self.read, table, strict=True):
                broken = (nan > 0) | (inf > 0) | l2.isinf()
                if broken.any():
                    prompt.not_finite[place] = int(nan.sum()), int(torch.maximum(inf, l2.isinf().double()).sum())
                for statistic, values in (("l2", l2), ("max_abs", max_abs)):
                    for tokens, some in (("first", slice(0, 1)), ("rest", slice(1, None))):
                        kept = values[some][~broken[some]]
                        if len(kept):
                            prompt.extremes[place, tokens, statistic] = kept.min().item(), kept.max().item()
            yield candidate, prompt


def _norms(x: torch.Tensor) -> torch.Tensor:
    """x: (positions, channels) gives (4, positions): L2 norm, max |x|, how many channels are NaN and infinite, f64."""
    size = x.detach().flatten(1).double().abs()
    return torch.stack([size.norm(dim=1), size.amax(1), size.isnan().sum(1).double(), size.isinf().sum(1).double()])


def _module(modules: dict[str, torch.nn.Module], site: Site) -> torch.nn.Module | None:
    """The module whose output is what the baseline was recorded of, if vLLM computes that anywhere by itself."""
    path, _, side = site.name.rpartition(":")
    for name in (path, f"language_model.{path}", f"model.language_model.{path.removeprefix('model.')}"):
        module = modules.get(name)
        if side != "out" or module is None or type(module).__name__ == "PPMissingLayer":
            continue
        inner = getattr(module, "base_layer", module)  # LoRA wraps a layer
        kind = type(inner).__name__
        if kind.endswith("RMSNorm"):
            channels = inner.weight.shape[0] if isinstance(getattr(inner, "weight", None), torch.Tensor) else None
        elif kind in LINEAR:
            parts = kind == "RowParallelLinear" and not getattr(inner, "reduce_results", True) and inner.tp_size > 1
            if parts or getattr(inner, "skip_bias_add", False):
                return None  # its output is not all that the layer computes
            channels = inner.output_size
        else:
            return None
        if channels is not None and channels != site.channels:
            if path.endswith(("q_norm", "k_norm")):
                return None  # over each head alone
            raise BadBaseline(
                f"{site.name} has {site.channels} channels in the baseline and {channels} here: it is of another model"
            )
        return module
    return None
