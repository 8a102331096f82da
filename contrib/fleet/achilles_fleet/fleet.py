"""Scans models on Ray and keeps each result as it comes."""

import datetime
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from achilles_fleet import worker
from achilles_fleet.audit import Ended
from achilles_fleet.models import Model
from achilles_fleet.plan import STATIC_BYTES, Plan
from achilles_fleet.refused import Refused
from achilles_fleet.settings import Settings
from achilles_fleet.store import SCHEMA, Store

_WAIT_S = 60


@dataclass(frozen=True)
class Job:
    """A model that is to be scanned; without a plan, to be planned first."""

    model: Model
    known: worker.Key | None
    plan: Plan | None
    attempts: int = 0


class Fleet:
    """One run over a list of models.

    Tasks are not left to Ray's own retries: those of a task that memory ran out for are without end, and each asks for
    as much as before. Here every loss counts as an attempt, and what ran out of memory is given twice as much.
    """

    def __init__(
        self, store: Store, settings: Settings, most_bytes: int, retries: int, say: Callable[[str], None]
    ) -> None:
        self.store, self.settings, self.most_bytes, self.retries, self.say = store, settings, most_bytes, retries, say
        self.shared = ray.put(settings)
        self.prepare = ray.remote(max_retries=0)(worker.prepare)
        self.examine = ray.remote(max_retries=0)(worker.examine)
        self.queue: deque[Job] = deque()
        self.running: dict[ray.ObjectRef, Job] = {}
        self.total = self.done = self.kept = 0

    def run(self, models: list[Model]) -> None:
        """Until there is a document of each model."""
        self.total = len(models)
        plan = Plan(STATIC_BYTES, ()) if self.settings.static else None
        self.queue.extend(Job(model, self._known(model), plan) for model in models)
        window = max(64, int(4 * ray.cluster_resources().get("CPU", 1)))
        while self.queue or self.running:
            while self.queue and len(self.running) < window:
                self._submit(self.queue.popleft())
            ready, _ = ray.wait(list(self.running), timeout=_WAIT_S)
            for reference in ready:
                self._received(self.running.pop(reference), reference)
            if not ready:
                self.say(f"waiting for {len(self.running)} of {self.total} models")

    def _known(self, model: Model) -> worker.Key | None:
        """The key of a verdict that is there; what need be no fault of the model is done again."""
        document = self.store.read(model)
        if document is None:
            return None
        # Of a hub id the network may have been at fault.
        lasting = ("pass", "fail") if model.is_hub else ("pass", "fail", "not-examined")
        is_refused = document["cause"] == "refused" and not model.is_hub
        return document["key"] if document["verdict"] in lasting or is_refused else None

    def _submit(self, job: Job) -> None:
        name = {"name": f"achilles {job.model.name[:80]}"}
        if job.plan is None:
            task = self.prepare.options(num_cpus=1, memory=STATIC_BYTES, **name)
            reference = task.remote(self.shared, job.model, job.known, self.most_bytes)
        else:
            needs = {"num_cpus": self.settings.cpus, "num_gpus": self.settings.gpus, "memory": job.plan.bytes}
            task = self.examine.options(**needs, **name)
            reference = task.remote(self.shared, job.model, job.known, job.plan.options)
        self.running[reference] = job

    def _received(self, job: Job, reference: ray.ObjectRef) -> None:
        job = replace(job, attempts=job.attempts + 1) if job.plan else job
        try:
            found = ray.get(reference)
        except Refused as error:
            raise Refused(str(getattr(error, "cause", error))) from None
        except RayError as error:
            # An error of our own code in a task is a RayTaskError, too; it is told by its last line.
            is_memory = isinstance(error, OutOfMemoryError)
            text = str(error).strip().splitlines()
            told = text[-1 if isinstance(error, RayTaskError) else 0] if text else type(error).__name__
            self._again(job, Ended(None, f"the worker was lost: {told}"), "memory" if is_memory else "lost")
            return
        match found:
            case None:
                self.done, self.kept = self.done + 1, self.kept + 1
            case Plan():
                self.queue.appendleft(replace(job, plan=found))
            case Ended():
                self._finish(job, found, "no-memory" if found.cause == "refused" else found.cause)
            case worker.Result(cause="killed"):
                self._again(job, found.ended, "killed")
            case worker.Result():
                self._finish(job, found.ended, found.cause, found)

    def _again(self, job: Job, ended: Ended, cause: str) -> None:
        """Another attempt, with more memory where that may have been it."""
        if job.plan is None:
            job = replace(job, attempts=job.attempts + 1)
        if job.attempts > self.retries:
            self._finish(job, ended, cause)
            return
        if job.plan and cause in ("memory", "killed"):
            doubled = min(2 * job.plan.bytes, max(self.most_bytes, job.plan.bytes))
            job = replace(job, plan=replace(job.plan, bytes=doubled))
        self.say(f"{job.model.name}: {ended.message}; trying again")
        self.queue.appendleft(job)

    def _finish(self, job: Job, ended: Ended, cause: str | None, result: worker.Result | None = None) -> None:
        report = result.report if result else None
        verdict = report["verdict"] if report else "error"
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "model": job.model.name,
            "target": job.model.target,
            "verdict": verdict,
            "cause": cause,
            "message": None if report else ended.message,
            "exit_code": ended.code,
            "key": result.key if result else {"version": self.settings.version},
            "attempts": job.attempts,
            "memory_bytes": job.plan.bytes if job.plan else None,
            "seconds": round(result.seconds, 3) if result else 0.0,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "report": report,
        }
        self.store.write(job.model, document)
        self.done += 1
        if verdict != "pass":
            why = f": {ended.message}" if not report else ""
            self.say(f"[{self.done}/{self.total}] {verdict} {job.model.name}{why}")
