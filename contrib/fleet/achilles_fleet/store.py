"""The results' folder."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from achilles_fleet.models import Model
from achilles_fleet.refused import Refused

SCHEMA = "achilles-fleet/result/v1"
_FOLDER = "models"


class Store:
    """A folder with one JSON document a model, in which one run writes at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, keeps others out, and removes what a run that was killed left half written."""
        try:
            (self.root / _FOLDER).mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("w")
        except OSError as error:
            raise Refused(f"{self.root}: {error.strerror}; expected a folder for results") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Refused(f"{self.root}: another run writes to it") from None
            for partial in (self.root / _FOLDER).glob(".*.partial"):
                partial.unlink()
            yield

    def path(self, model: Model) -> Path:
        """The model's document, relative to the folder."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", model.name).strip("._")[-60:]
        digest = hashlib.sha256(os.fsencode(model.target)).hexdigest()[:16]
        return Path(_FOLDER, f"{readable or 'model'}-{digest}.json")

    def read(self, model: Model) -> dict[str, Any] | None:
        """The model's document; none where there is none, or none that this version wrote."""
        try:
            document = json.loads((self.root / self.path(model)).read_bytes())
        except (OSError, ValueError):
            return None
        is_ours = isinstance(document, dict) and document.get("schema") == SCHEMA
        return document if is_ours and document.get("target") == model.target else None

    def write(self, model: Model, document: dict[str, Any]) -> None:
        """Puts the model's document in place, whole or not at all."""
        text = json.dumps(document, ensure_ascii=True, indent=1) + "\n"
        replace(self.root / self.path(model), text.encode())


def replace(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all, and stays if the machine then stops."""
    descriptor, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
