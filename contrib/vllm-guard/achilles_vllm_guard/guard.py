"""Holds one worker's memory against the vault and the sums, and repairs it."""

import hashlib
import time
from dataclasses import dataclass

import torch

from .checksum import Changed, Checksums
from .layout import Elsewhere, Held, Slice, Unguarded, find, slices
from .report import LOG, Report
from .settings import GuardError, Settings
from .vault import BadVault, Part, Vault

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
MOST_SECONDS_AT_ONCE = 5.0
"""Of the sums' share: after a long step they do not catch up at the cost of the next."""


class Stopped(GuardError):
    """By the policy `stop`: the model must not compute with these weights."""


@dataclass(eq=False)
class Watched:
    """A slice of a part and what it has to hold, in the dtype and on the device of the parameter."""

    part: Part
    slice: Slice
    expected: torch.Tensor
    told: torch.Tensor | None = None
    """The damaged values that were told last, so that the same damage is told once."""

    def is_damaged(self) -> bool:
        """Bit for bit: 0 and -0 differ, NaN equals itself."""
        return not torch.equal(_bits(self.slice.view()), _bits(self.expected))

    def describe(self) -> str:
        """What became of the values."""
        now, run = self.slice.view(), self.slice.run
        differ = int((_bits(now) != _bits(self.expected)).sum())
        whole = run.length == len(self.part.values)
        where = "" if whole else f" (elements {run.source} to {run.source + run.length - 1})"
        change = _change(now.double().cpu(), self.expected.double().cpu())
        return f"{self.part.name}{where}: {differ} of {run.length} values differ, {change}"


class Guard:
    """Of one model in one process. It is for its owner to call it between forward passes alone."""

    def __init__(self, settings: Settings, vault: Vault | None, model: torch.nn.Module, report: Report):
        self.settings, self.vault, self.model, self.report = settings, vault, model, report
        self.watched: list[Watched] = []
        self.checksums: Checksums | None = None
        self.stopped: str | None = None
        self.foreign: str | None = None
        """Why the weights that are loaded are taken for another model's; they are then not repaired."""
        self.next_check = self.last_sums = time.monotonic()
        self.blocks_due = 0.0

    @torch.inference_mode()
    def loaded(self, when: str) -> None:
        """Finds everything anew after weights were loaded, compares it, and takes the sums.

        `BadVault` where the first load shows that the vault is not this model's. After a reload that is a difference
        like another, since weights may be replaced on purpose, but nothing is repaired from it.
        """
        if self.vault is not None:
            first = not self.watched
            self._find(self.vault)
            self.foreign = self._why_foreign()
            if self.foreign and first and self.settings.refuse_bad_vault:
                raise BadVault(f"{self.vault.path}: {self.foreign}")
            if self.foreign:
                LOG.error("achilles-guard: %s; nothing is repaired [%s]", self.foreign, self.report.worker)
        self.check(when)
        if self.settings.everything:
            self.checksums = Checksums(self.model)
            self.report.gauges["checksum_bytes"] = self.checksums.bytes
            for path in _packed_modules(self.model):
                copy = f"the copy of {path} that vLLM computes with, in a layout of its kernels"
                LOG.warning("achilles-guard: not summed: %s [%s]", copy, self.report.worker)
        self.report.write()

    def due(self) -> bool:
        """Whether the time has come for a check or for another share of the sums."""
        now = time.monotonic()
        return now >= self.next_check or (self.checksums is not None and now >= self.last_sums + 1)

    @torch.inference_mode()
    def run_due(self, when: str) -> None:
        """The check, if it is its time, and a second's share of the sums."""
        now = time.monotonic()
        if now >= self.next_check:
            self.check(when)
        if self.checksums is not None and now >= self.last_sums + 1:
            self._sum_share(self.checksums, now, when)

    @torch.inference_mode()
    def check(self, when: str) -> int:
        """Compares all that is watched; returns how many slices were damaged. Under `repair` they no longer are."""
        began, damaged, left = time.monotonic(), 0, 0
        for watched in self.watched:
            if watched.is_damaged():
                damaged += 1
                left += not self._repaired(watched, when)
            else:
                watched.told = None
        now = time.monotonic()
        self.next_check = now + self.settings.interval_seconds
        self.report.counters["checks"] += 1
        self.report.gauges.update(
            damaged_parts=left, last_check_timestamp_seconds=time.time(), check_seconds=now - began
        )
        self.report.write()
        return damaged

    def failed(self) -> None:
        """Counts a check that could not be done; the next is tried at its time."""
        self.next_check = time.monotonic() + self.settings.interval_seconds
        self.report.counters["failed_checks"] += 1
        self.report.write()

    def _repaired(self, watched: Watched, when: str) -> bool:
        text, now = watched.describe(), watched.slice.view()
        part, policy = watched.part, self.settings.policy
        repair = policy == "repair" and self.foreign is None
        known = watched.told is not None and torch.equal(_bits(watched.told), _bits(now))
        if repair:
            now.copy_(watched.expected)
            repair = not watched.is_damaged()
        watched.told = None if repair else now.clone()
        if repair or not known:
            action = "repaired" if repair else "stop" if policy == "stop" else "alarm"
            done = {"repaired": "put back from the vault", "stop": "the server stops", "alarm": "left as it is"}[action]
            fields = {"change": text, "action": action, "when": when}
            place = {"neurons": list(part.neurons), "part": f"{part.axis} {part.index}"}
            self.report.event("vault", f"{text}; {done} ({when})", part.tensor, **place, **fields)
        if repair:
            self.report.repaired()
        elif policy == "stop":
            self.stopped = text
        return repair

    def _sum_share(self, sums: Checksums, now: float, when: str) -> None:
        elapsed = min(now - self.last_sums, MOST_SECONDS_AT_ONCE)
        self.last_sums = now
        self.blocks_due += elapsed * len(sums.blocks) / self.settings.round_seconds
        while self.blocks_due >= 1:
            self.blocks_due -= 1
            changed = sums.next()
            # What the vault explains, and repairs, is told by the vault alone.
            if changed is not None and self.check(when) and not (changed := sums.again(changed)):
                continue
            if changed is not None:
                self._tell_changed(sums, changed, when)
        self.report.counters["checksum_rounds"] = sums.rounds

    def _tell_changed(self, sums: Checksums, changed: Changed, when: str) -> None:
        sums.accept(changed)
        block = changed.block
        place = f"bytes {block.start} to {block.start + block.size - 1} of {changed.of}"
        text = f"{block.tensor}: {place} are not what was loaded"
        action = "stop" if self.settings.policy == "stop" else "alarm"
        done = "the server stops" if action == "stop" else "left as it is"
        self.report.event("checksum", f"{text}; {done} ({when})", block.tensor, change=text, action=action, when=when)
        if action == "stop":
            self.stopped = text

    def _find(self, vault: Vault) -> None:
        watched, unguarded, found = [], [], 0
        for part in vault.parts:
            held = find(self.model, part)
            if isinstance(held, Unguarded):
                unguarded.append((part, held.reason))
                continue
            found += 1
            if isinstance(held, Elsewhere):
                continue
            to = held.parameter()
            # As vLLM's loaders do: `copy_` of the checkpoint's values into the parameter.
            values = part.values.to(to.dtype).to(to.device)
            for own in slices(part, held):
                expected = values.narrow(0, own.run.source if part.axis != "element" else 0, own.run.length)
                watched.append(Watched(part, own, expected))
        for part, reason in unguarded:
            LOG.warning("achilles-guard: not guarded: %s: %s [%s]", part.name, reason, self.report.worker)
        if not found:
            raise BadVault(f"{vault.path}: nothing of it can be guarded here: {unguarded[0][1]}")
        self.watched = watched
        self.report.gauges.update(guarded_parts=len({id(w.part) for w in watched}), unguarded_parts=len(unguarded))
        parts = f"{found} of {len(vault.parts)} parts of {vault.path}, {len(watched)} slices of them here"
        every = f"every {self.settings.interval_seconds:g} s, policy {self.settings.policy}"
        LOG.info("achilles-guard: watches %s, %s [%s]", parts, every, self.report.worker)

    def _why_foreign(self) -> str | None:
        """What shows that the vault was not taken from these weights: the rest of the tensors that its parts are of."""
        by_tensor: dict[str, list[Watched]] = {}
        for watched in self.watched:
            by_tensor.setdefault(watched.part.tensor, []).append(watched)
        for tensor, parts in by_tensor.items():
            held, part = parts[0].slice.held, parts[0].part
            if held.is_whole() and held.parameter().dtype == part.dtype:
                if _rest_sha256(held, [p.part for p in parts]) != part.rest_sha256:
                    return f"{tensor} differs in more than the kept parts: this is another model's vault"
            elif any(watched.is_damaged() for watched in parts):
                why = "its slices or its dtype do not allow to tell another model from a damaged one"
                return f"{tensor} is not as the vault has it when loaded, and {why}"
        return None


def _rest_sha256(held: Held, parts: list[Part]) -> str:
    """Of all elements of a tensor but the parts', in the checkpoint's order."""
    value = _bits(held.whole())
    keep = torch.ones(value.shape, dtype=torch.bool, device=value.device)
    for part in parts:
        keep.select(1 if part.axis == "column" else 0, part.index).fill_(False)
    rest = value[keep].cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(rest.numpy().data).hexdigest()


def _packed_modules(model: torch.nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if getattr(module, "achilles_packed", False)]


def _bits(value: torch.Tensor) -> torch.Tensor:
    return value.view(BITS[value.element_size()])


def _change(now: torch.Tensor, was: torch.Tensor) -> str:
    """In words: all zero, a factor, not finite, or the largest difference."""
    if not now.isfinite().all():
        return f"{int((~now.isfinite()).sum())} are not finite"
    if not now.any():
        return "all zero, were not"
    factor = float(now @ was / (was @ was)) if was.any() else 0.0
    if factor and torch.allclose(now, was * factor, rtol=0.01, atol=0.0) and abs(factor - 1) > 0.01:
        return f"{factor:.3g} times what they were"
    at = int((now - was).abs().argmax())
    return f"the most at element {at}: {float(now[at]):.4g}, was {float(was[at]):.4g}"
