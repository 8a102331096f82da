"""What the run says of each model, and of all of them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from achilles_fleet.models import Model
from achilles_fleet.store import Store

ORDER = ("fail", "error", "not-examined", "pass")


@dataclass(frozen=True)
class Row:
    """A model's line of the table."""

    model: str
    verdict: str
    cause: str | None
    message: str
    rules: tuple[str, ...]
    errors: int
    warnings: int
    notes: int
    waived: int
    architecture: str | None
    seconds: float
    attempts: int
    version: str
    finished: str
    result: str


def rows(store: Store, models: list[Model]) -> list[Row]:
    """Those of all models of a list, in its order."""
    return [_row(store, model) for model in models]


def _row(store: Store, model: Model) -> Row:
    document = store.read(model)
    if document is None:
        raise FileNotFoundError(store.root / store.path(model))
    report = document["report"] or {}
    findings = report.get("findings", [])
    told = [finding for finding in findings if not finding.get("waived")]
    severities = Counter(finding["severity"] for finding in told)
    strongest = [f for f in told if f["severity"] != "note"] or told
    unexamined = [f"{part['measurement']}: {part['why']}" for part in report.get("not_examined", [])]
    first = [_told(finding) for finding in strongest[:1]]
    message = document["message"] if not report else "; ".join(unexamined[:1] or first)
    if document["verdict"] == "fail":
        message = "; ".join(first)
    return Row(
        model=model.name,
        verdict=document["verdict"],
        cause=document["cause"],
        message=message,
        rules=tuple(dict.fromkeys(finding["id"] for finding in strongest)),
        errors=severities["error"],
        warnings=severities["warning"],
        notes=severities["note"],
        waived=len(findings) - len(told),
        architecture=(report.get("model") or {}).get("architecture"),
        seconds=document["seconds"],
        attempts=document["attempts"],
        version=document["key"]["version"] or "",
        finished=document["finished"],
        result=store.path(model).as_posix(),
    )


def _told(finding: dict[str, Any]) -> str:
    """What was found, after the tensor or file."""
    location = finding.get("location", {})
    where = location.get("tensor") or location.get("file")
    return f"{where}: {finding['message']}" if where else finding["message"]


def summary(rows: list[Row]) -> str:
    """One line for all."""
    count = Counter(row.verdict for row in rows)
    names = {"fail": "fail", "error": "could not be scanned", "not-examined": "not examined in full", "pass": "pass"}
    word = "FAIL" if count["fail"] else "PASS" if count["pass"] == len(rows) else "NOT EXAMINED"
    parts = ", ".join(f"{count[verdict]} {names[verdict]}" for verdict in reversed(ORDER) if count[verdict])
    return f"{word}: {len(rows)} model{'s' if len(rows) != 1 else ''}: {parts}"


def exit_code(rows: list[Row]) -> int:
    """As achilles-audit's: 1 where a model fails, else 2 where one was not examined, else 0."""
    found: set[Any] = {row.verdict for row in rows}
    return 1 if "fail" in found else 2 if found - {"pass"} else 0
