"""Hooks the guard into vLLM's processes: the workers, the scheduler and the API server."""

import atexit
import functools
import hashlib
import os
import shutil
import signal
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import baseline, metrics, vault
from .baseline import BadBaseline, Baseline
from .guard import Guard, Stopped
from .layout import merged_names
from .report import LOG, REPAIRED, Report
from .sampler import Sampler
from .settings import PREFIX, GuardError, Settings
from .vault import BadVault, Vault

STATE_DIR = f"{PREFIX}STATE_DIR"
IDLE_POLL_SECONDS = 0.25
LONGEST_IN_FULL = 2048
"""Tokens of a prompt that is computed without the prefix cache so that it can be sampled."""
installed = False


def install(settings: Settings) -> None:
    """Once a process. What the processes share is told through the environment, which vLLM's children inherit."""
    global installed
    if installed:
        return
    installed = True
    state = _state_folder()
    kept, profile = _read_vault(settings), _read_baseline(settings)
    metrics.install(state)
    if kept is not None:
        _keep_unpacked({name for part in kept.parts for name in merged_names(part.tensor.rpartition(".")[0])})
    _hook_workers(settings, kept, profile, state)
    _hook_scheduler(state)
    if profile is not None:
        _compute_in_full(settings.baseline_seconds)


def _state_folder() -> Path:
    if STATE_DIR not in os.environ:
        made = Path(tempfile.mkdtemp(prefix="achilles-guard-"))
        os.environ[STATE_DIR] = str(made)
        process = os.getpid()
        # Forked children run this too.
        atexit.register(lambda: os.getpid() == process and shutil.rmtree(made, ignore_errors=True))
    state = Path(os.environ[STATE_DIR])
    if not state.is_dir() or not os.access(state, os.W_OK):
        raise GuardError(f"{STATE_DIR}={state}: no such folder, or it cannot be written to")
    return state


def _read_vault(settings: Settings) -> Vault | None:
    if settings.vault is None:
        return None
    try:
        return vault.read(settings.vault)
    except BadVault as error:
        if settings.refuse_bad_vault:
            raise
        LOG.error("achilles-guard: %s; the vault is not used", error)
        return None


def _read_baseline(settings: Settings) -> Baseline | None:
    if settings.baseline is None:
        return None
    try:
        return baseline.read(settings.baseline)
    except BadBaseline as error:
        if settings.refuse_bad_vault:
            raise
        LOG.error("achilles-guard: %s; activations are not sampled", error)
        return None


def _hook_workers(settings: Settings, kept: Vault | None, profile: Baseline | None, state: Path) -> None:
    from vllm.v1.worker.worker_base import WorkerBase

    construct = WorkerBase.__init__

    @functools.wraps(construct)
    def with_guard(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        if not hasattr(self, "achilles_guard"):
            self.achilles_guard = Attached(self, settings, kept, state, profile)

    WorkerBase.__init__ = with_guard


class Attached:
    """A guard and the worker whose methods it goes between."""

    def __init__(
        self, worker: Any, settings: Settings, kept: Vault | None, state: Path, profile: Baseline | None = None
    ):
        self.worker, self.settings, self.kept, self.state = weakref.proxy(worker), settings, kept, state
        self.profile = profile if profile is not None and self._can_sample(profile) else None
        self.lock = threading.RLock()
        self.guard: Guard | None = None
        self.sampler: Sampler | None = None
        self.serving = False
        """Whether warming up is over; before, another thread must leave a GPU alone, which may be capturing graphs."""
        self.away: str | None = None
        """Why the weights are not there to be read: asleep, or being replaced."""
        self.discarded = False
        """Whether they were thrown away in sleep, so that waking up does not bring them back."""
        after = {
            "load_model": self._after_load,
            "compile_or_warm_up_model": self._after_warm_up,
            "wake_up": self._after_wake_up,
            "reload_weights": functools.partial(self._after_reload, "reload_weights"),
            "finish_weight_update": functools.partial(self._after_reload, "finish_weight_update"),
            "update_weights": self._after_update,
            "execute_model": self._after_step,
        }
        before = {
            "execute_model": self._before_step,
            "sleep": self._before_sleep,
            "discard": self._before_discard,
            "start_weight_update": self._before_update,
        }
        for name in {**after, **before}:
            if callable(getattr(worker, name, None)):
                setattr(worker, name, self._wrapped(getattr(worker, name), before.get(name), after.get(name)))

    def _wrapped(self, method: Callable, before: Callable | None, after: Callable | None) -> Callable:
        @functools.wraps(method)
        def locked(*args: Any, **kwargs: Any) -> Any:
            with self.lock:
                if before is not None:
                    before(*args, **kwargs)
                try:
                    result = method(*args, **kwargs)
                except BaseException:
                    if self.away == "being replaced":
                        self.away = None  # an update that failed has ended
                    raise
                if after is not None:
                    after(*args, **kwargs)
                return result

        return locked

    def _before_step(self, step: Any = None, *_args: Any, **_kwargs: Any) -> None:
        guard = self.guard
        if guard is None:
            return
        if guard.stopped is None and self.away is None and guard.due():
            _run_due(guard, "before a step")
        if guard.stopped is not None:
            raise Stopped(f"achilles-guard: {guard.stopped}")
        if self.sampler is not None and step is not None:
            self.sampler.before_step(step)

    def _after_step(self, *_args: Any, **_kwargs: Any) -> None:
        if self.sampler is not None and self.guard is not None and self.sampler.after_step():
            self.guard.next_check = time.monotonic()  # the vault may know what it is

    def _can_sample(self, profile: Baseline) -> bool:
        """Of the workers that hold slices of the same layers the first samples: the outputs are the same in all."""
        if self.worker.rank % getattr(self.worker.parallel_config, "tensor_parallel_size", 1):
            return False
        why = _why_no_hooks(self.worker)
        if why is None:
            return True
        problem = f"{profile.path}: activations cannot be sampled: {why}"
        if self.settings.refuse_bad_vault:
            raise BadBaseline(problem)
        LOG.error("achilles-guard: %s; they are not", problem)
        return False

    def _after_load(self, *_args: Any, **_kwargs: Any) -> None:
        worker = self.worker
        name = f"dp{worker.parallel_config.data_parallel_index}-rank{worker.rank}"
        guard = Guard(self.settings, self.kept, worker.get_model(), Report(name, self.state, self.settings.events))
        try:
            _check_config(self.kept, worker.model_config.model)
            guard.loaded("when loaded")
        except BadVault as error:
            if self.settings.refuse_bad_vault:
                raise
            LOG.error("achilles-guard: %s; no weight is guarded by it [%s]", error, name)
            if not self.settings.everything and self.profile is None:
                return
            guard = Guard(self.settings, None, worker.get_model(), guard.report)
            guard.loaded("when loaded")
        if guard.stopped is not None:
            raise Stopped(f"achilles-guard: {guard.stopped}")
        self.guard = guard
        self._start_sampling()
        threading.Thread(target=self._watch_idle, name="achilles-guard", daemon=True).start()

    def _start_sampling(self) -> None:
        if self.profile is None:
            return
        dtype = getattr(self.worker.model_config, "dtype", None)
        try:
            self.sampler = Sampler(self.settings, self.profile, self.worker.get_model(), self.guard.report, dtype)
        except BadBaseline as error:
            if self.settings.refuse_bad_vault:
                raise
            LOG.error("achilles-guard: %s; activations are not sampled", error)
        self.guard.report.write()

    def _after_warm_up(self, *_args: Any, **_kwargs: Any) -> None:
        self.serving = True

    def _before_sleep(self, level: int = 1, *_args: Any, **_kwargs: Any) -> None:
        if level >= 1:
            self.away, self.discarded = "asleep", level >= 2

    def _before_discard(self, tags: tuple[str, ...] = (), *_args: Any, **_kwargs: Any) -> None:
        if "weights" in tags:
            self.away, self.discarded = "asleep", True

    def _after_wake_up(self, tags: list[str] | None = None, *_args: Any, **_kwargs: Any) -> None:
        if self.guard is None or not (tags is None or "weights" in tags):
            return
        self.away = None
        # Weights that sleep threw away are compared when they are loaded again, at the latest before the next step.
        self.guard.next_check = time.monotonic()
        if not self.discarded:
            self.guard.check("after wake_up")
            self.guard.last_sums = time.monotonic()

    def _before_update(self, *_args: Any, **_kwargs: Any) -> None:
        self.away = "being replaced"

    def _after_reload(self, name: str, *_args: Any, **_kwargs: Any) -> None:
        self.away, self.discarded = None, False
        if self.guard is not None:
            self.guard.loaded(f"after {name}")
        if self.sampler is not None:
            self.sampler.restart()

    def _after_update(self, *_args: Any, **_kwargs: Any) -> None:
        if self.away != "being replaced":
            self._after_reload("update_weights")

    def _watch_idle(self) -> None:
        """Between requests no step comes to check before. A step in progress holds the lock; the next will check."""
        while True:
            time.sleep(IDLE_POLL_SECONDS)
            try:
                if not self.serving or not self.lock.acquire(blocking=False):
                    continue
                try:
                    self._check_idle()
                finally:
                    self.lock.release()
            except ReferenceError:
                return  # the worker is gone

    def _check_idle(self) -> None:
        guard = self.guard
        if guard is None or guard.stopped is not None or self.away is not None or self.discarded or not guard.due():
            return
        device = self.worker.device
        if device is not None and device.type != "cpu":
            torch.accelerator.set_device_index(device)
            torch.accelerator.synchronize()  # no kernel may still be reading what is repaired
        _run_due(guard, "while idle")
        if device is not None and device.type != "cpu":
            torch.accelerator.synchronize()
        if guard.stopped is not None:
            os.kill(os.getpid(), signal.SIGTERM)  # vLLM then takes the engine, and with it the server, down


def _run_due(guard: Guard, when: str) -> None:
    """A check that fails does not take the server down, but is told and counted, since nothing is guarded then."""
    try:
        guard.run_due(when)
    except Exception:
        LOG.exception("achilles-guard: a check failed [%s]", guard.report.worker)
        guard.failed()


def _why_no_hooks(worker: Any) -> str | None:
    """What keeps Python from being called for each module of a step."""
    compilation = getattr(worker, "compilation_config", None)
    mode, graphs = getattr(compilation, "mode", None), getattr(compilation, "cudagraph_mode", None)
    remedy = "serve with --enforce-eager"
    if mode:
        return f"the model is compiled ({mode.name}), which leaves hooks out; {remedy}"
    if graphs is not None and graphs.name not in ("NONE", "FULL_DECODE_ONLY"):
        return f"steps are replayed as CUDA graphs ({graphs.name}), which leaves hooks out; {remedy}"
    if getattr(worker.parallel_config, "use_ubatching", False):
        return "steps are split into micro-batches"
    return None


def _check_config(kept: Vault | None, model: str) -> None:
    """A vault names the config.json of its model; a model that is no folder is told by its weights alone."""
    config = Path(model) / "config.json"
    if kept is None or not config.is_file():
        return
    if hashlib.sha256(config.read_bytes()).hexdigest() != kept.config_sha256:
        raise BadVault(f"{kept.path}: was taken from {kept.source}, whose config.json is not that of {model}")


def _keep_unpacked(modules: set[str]) -> None:
    """On CPUs vLLM may pack a layer's weight for its kernels and drop the original; guarded layers keep theirs.

    Such a layer is computed by torch's `linear`. The others are marked where they were packed, so that they are told.
    """
    from vllm.model_executor.layers import utils

    dispatch = getattr(utils, "dispatch_cpu_unquantized_gemm", None)
    if dispatch is None:
        return

    @functools.wraps(dispatch)
    def dispatch_unless_guarded(layer: torch.nn.Module, remove_weight: bool) -> None:
        path = getattr(layer, "prefix", "")
        if any(path == name or path.endswith(f".{name}") for name in modules):
            layer.cpu_linear = torch.nn.functional.linear
            return
        dispatch(layer, remove_weight)
        # Only kernels with a copy of their own close over something.
        layer.achilles_packed = bool(getattr(getattr(layer, "cpu_linear", None), "__closure__", None))

    utils.dispatch_cpu_unquantized_gemm = dispatch_unless_guarded


def _hook_scheduler(state: Path) -> None:
    """After a repair, cached keys and values that damaged weights computed must not answer another request."""
    from vllm.v1.core.sched.scheduler import Scheduler

    schedule, marker = Scheduler.schedule, state / REPAIRED

    def repaired_at() -> int:
        try:
            return marker.stat().st_mtime_ns
        except OSError:
            return 0

    @functools.wraps(schedule)
    def schedule_clean(self: Any, *args: Any, **kwargs: Any) -> Any:
        at = repaired_at()
        if at != getattr(self, "achilles_repaired_at", 0):
            try:
                done = self.reset_prefix_cache(reset_running_requests=True)
            except RuntimeError as error:
                done = False
                LOG.warning("achilles-guard: the prefix cache is not reset yet: %s", error)
            if done:
                self.achilles_repaired_at = at
                LOG.warning("achilles-guard: the prefix cache is reset, running requests are computed anew")
        return schedule(self, *args, **kwargs)

    Scheduler.schedule = schedule_clean


def _compute_in_full(seconds: float) -> None:
    """A prompt of which the cache has a part cannot be compared: now and then one is computed without it."""
    from vllm.v1.core.sched.scheduler import Scheduler

    add = Scheduler.add_request

    @functools.wraps(add)
    def add_and_choose(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        now, due = time.monotonic(), getattr(self, "achilles_sample_at", 0.0)
        plain = not (request.mm_features or request.lora_request or getattr(request, "kv_transfer_params", None))
        if now >= due and plain and 2 <= len(request.prompt_token_ids or ()) <= LONGEST_IN_FULL:
            request.skip_reading_prefix_cache, self.achilles_sample_at = True, now + seconds
        return add(self, request, *args, **kwargs)

    Scheduler.add_request = add_and_choose
