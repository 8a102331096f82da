"""What the environment asks for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)
PREFIX = "ACHILLES_GUARD_"
POLICIES = ("alarm", "repair", "stop")
KEYS = (
    *("VAULT", "ALL", "ALL_SECONDS", "INTERVAL", "POLICY", "BAD_VAULT", "EVENTS", "STATE_DIR"),
    *("BASELINE", "BASELINE_SECONDS", "BASELINE_PROMPTS", "FALSE_ALARM_RATE"),
)


class GuardError(Exception):
    """The guard cannot do what it was asked to; one line says why."""


@dataclass(frozen=True)
class Settings:
    """Checked settings: a file that is named is there, a number is one."""

    vault: Path | None
    everything: bool
    round_seconds: float
    interval_seconds: float
    policy: str
    refuse_bad_vault: bool
    events: Path | None
    baseline: Path | None
    baseline_seconds: float
    baseline_prompts: int
    false_alarm_rate: float

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Settings | None":
        """None where nothing is to be guarded. A key that is not known is an error: it may be one mistyped."""
        given = {key.removeprefix(PREFIX): value for key, value in environ.items() if key.startswith(PREFIX) and value}
        for key in given:
            if key not in KEYS:
                raise GuardError(f"{PREFIX}{key} is no setting; there are {', '.join(PREFIX + key for key in KEYS)}")
        everything = _flag(given, "ALL")
        if "VAULT" not in given and "BASELINE" not in given and not everything:
            return None
        return cls(
            vault=_file(given, "VAULT"),
            everything=everything,
            round_seconds=_seconds(given, "ALL_SECONDS", 600.0),
            interval_seconds=_seconds(given, "INTERVAL", 10.0),
            policy=_one_of(given, "POLICY", POLICIES),
            refuse_bad_vault=_one_of(given, "BAD_VAULT", ("refuse", "warn")) == "refuse",
            events=_new_file(given, "EVENTS"),
            baseline=_file(given, "BASELINE"),
            baseline_seconds=_seconds(given, "BASELINE_SECONDS", 10.0),
            baseline_prompts=_number(given, "BASELINE_PROMPTS", 10, 1, 1000, "prompts"),
            false_alarm_rate=_number(given, "FALSE_ALARM_RATE", 1e-4, 1e-12, 0.5, "a probability"),
        )


def _one_of(given: Mapping[str, str], key: str, choices: tuple[str, ...]) -> str:
    value = given.get(key, choices[0])
    if value not in choices:
        raise GuardError(f"{PREFIX}{key}={value}: expected {', '.join(choices)}")
    return value


def _flag(given: Mapping[str, str], key: str) -> bool:
    return _one_of(given, key, ("0", "1")) == "1"


def _seconds(given: Mapping[str, str], key: str, default: float) -> float:
    return _number(given, key, default, 0.1, 86400, "seconds")


def _number(given: Mapping[str, str], key: str, default: Number, least: float, most: float, what: str) -> Number:
    text = given.get(key, str(default))
    try:
        value = type(default)(text)
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        raise GuardError(f"{PREFIX}{key}={text}: expected {what}, from {least:g} to {most:g}")
    return value


def _file(given: Mapping[str, str], key: str) -> Path | None:
    if key not in given:
        return None
    path = Path(given[key])
    if not path.is_file() or not os.access(path, os.R_OK):
        raise GuardError(f"{PREFIX}{key}={path}: no such file, or it cannot be read")
    return path.resolve()


def _new_file(given: Mapping[str, str], key: str) -> Path | None:
    if key not in given:
        return None
    path = Path(given[key]).absolute()
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise GuardError(f"{PREFIX}{key}={path}: {error.strerror}") from None
    return path
