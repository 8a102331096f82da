"""Which bytes a model is, told by what its files are called and how they are stamped, or by their digests."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from achilles_fleet.models import Model

_PART = re.compile(r"(.*-)\d{5}(-of-\d{5}\.gguf)", re.DOTALL)


def identity(model: Model, by_digest: bool) -> str | None:
    """A digest that changes where the model does; none for a hub id that names no commit, which may move at any time.

    Without digests it is made of each file's name, size, and times of change of content and of inode: the latter, which
    no program can set, betrays content that was replaced under an old date. By digest it is made of names and contents
    and holds wherever the files lie.
    """
    if model.is_hub:
        return _digest([model.target]) if model.is_pinned else None
    root = Path(model.target)
    found = sorted(_entries(root, by_digest))
    return _digest(found if by_digest else [model.target, *found])


def _digest(what: list) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _entries(root: Path, by_digest: bool) -> Iterator[list]:
    if os.path.isdir(root):
        yield from _folder(root, "", by_digest, frozenset())
        return
    # Parts of a split GGUF belong together; a signature lies beside a file.
    part = _PART.fullmatch(root.name)
    names = [root.name, root.name + ".sig"]
    if part:
        siblings = sorted(os.listdir(root.parent)) if os.path.isdir(root.parent) else []
        names += [n for n in siblings if (m := _PART.fullmatch(n)) and m.groups() == part.groups() and n != root.name]
    for name in names:
        yield _entry(root.parent / name, name, by_digest)


def _folder(folder: Path, below: str, by_digest: bool, above: frozenset) -> Iterator[list]:
    try:
        status = folder.stat()
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield [below, "unreadable", error.errno]
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        yield [below, "loop"]
        return
    for name in names:
        path, inner = folder / name, below + name
        yield _entry(path, inner, by_digest)
        if os.path.isdir(path):
            yield from _folder(path, inner + "/", by_digest, above | {here})


def _entry(path: Path, name: str, by_digest: bool) -> list:
    """What one name stands for; of a link, where it points and what is there."""
    try:
        link = os.readlink(path) if os.path.islink(path) else None
        status = path.stat()
    except OSError as error:
        return [name, "unreadable", error.errno]
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        return [name, link, kind]
    if not by_digest:
        return [name, link, kind, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    try:
        with path.open("rb") as file:
            return [name, link, kind, status.st_size, hashlib.file_digest(file, "sha256").hexdigest()]
    except OSError as error:
        return [name, "unreadable", error.errno]
