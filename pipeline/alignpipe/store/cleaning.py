"""Garbage collection: what no run and no pin needs any more goes to the trash, and the trash is emptied."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from alignpipe.errors import StoreError
from alignpipe.store.files import folder_bytes, statuses_below, storing
from alignpipe.store.locks import holding_if_free
from alignpipe.store.objects import to_trash
from alignpipe.store.runs import RunRecords
from alignpipe.store.store import Store

_DAY = 86_400.0
_GRACE_SECONDS = 3_600.0
"""An object used within the last hour is spared: the run that uses it may not have said so in its record yet."""


@dataclass(frozen=True)
class Removal:
    """One folder that gc would remove."""

    path: Path
    size: int
    """In bytes."""
    reason: str


def removals(store: Store, days: float) -> list[Removal]:
    """What can go: objects no run folder and no pin needs, work folders older than `days` days, and the trash."""
    found = [
        Removal(obj, folder_bytes(obj), "no run folder and no pin needs it")
        for obj in unused(store)
        if not _recent(obj)
    ]
    for work in _children(store.root / "work"):
        age = (time.time() - _newest(work)) / _DAY
        if age >= days:
            found.append(Removal(work, folder_bytes(work), f"unfinished for {age:.0f} days"))
    found += [Removal(path, folder_bytes(path), "in the trash") for path in _children(store.layout.trash)]
    return found


def spared(store: Store) -> int:
    """How many objects nothing needs but that are too recent to go."""
    return sum(map(_recent, unused(store)))


def unused(store: Store) -> list[Path]:
    """The objects that no run folder and no pin needs."""
    roots = RunRecords(store.layout).used_digests() | pinned(store)
    return [obj for obj in store.objects() if obj.name not in roots]


def _recent(obj: Path) -> bool:
    return time.time() - _changed(obj) <= _GRACE_SECONDS


def remove(store: Store, planned: Iterable[Removal]) -> list[Removal]:
    """Remove what `removals` listed, except what is in use by now; index lines stay, so that plans can explain."""
    done = []
    for entry in planned:
        with storing("removing old objects", entry.path), ExitStack() as locks:
            names = _locks_of(entry.path)
            free = [locks.enter_context(holding_if_free(store.layout.lock(name), "gc")) for name in names]
            # Adding up the sizes took time, in which a run may have come to use an object.
            used = entry.path.parent.parent == store.root / "objects" and _recent(entry.path)
            if used or not all(free) or not entry.path.exists():
                continue
            gone = entry.path if entry.path.parent == store.layout.trash else to_trash(store.layout, entry.path)
            with suppress(FileNotFoundError):  # a run is removing the same folder from the trash
                shutil.rmtree(gone)
        done.append(entry)
    return done


def pin(store: Store, digest: str) -> str:
    """Keep an object whatever happens; gives its full digest.

    Raises `StoreError` if the digest fits no object, or several.
    """
    full = _only(store, digest)
    with storing("pinning", store.layout.pins):
        store.layout.pins.mkdir(parents=True, exist_ok=True)
        (store.layout.pins / full).touch()
    return full


def unpin(store: Store, digest: str) -> str:
    """Take a pin away; gives the full digest."""
    full = _only(store, digest)
    with storing("unpinning", store.layout.pins):
        (store.layout.pins / full).unlink(missing_ok=True)
    return full


def pinned(store: Store) -> set[str]:
    """The pinned digests."""
    return {path.name for path in _children(store.layout.pins)}


def _only(store: Store, digest: str) -> str:
    found = sorted({artifact.digest for artifact in store.find(digest)})
    if len(found) != 1:
        raise StoreError(f"{digest!r} fits {len(found)} objects of {store.root}; 'alignpipe store ls' lists them")
    return found[0]


def _locks_of(path: Path) -> list[str]:
    """The names of the locks that guard a folder: the keys of an object's records, or the work folder's own."""
    if path.parent.name == "work":
        return [path.name]
    return [f"{path.parent.name}-{record.name}" for record in _children(path / "records")]


def _newest(folder: Path) -> float:
    """When anything in a folder was last changed."""
    return max([_changed(folder), *(status.st_mtime for status in statuses_below(folder))])


def _changed(path: Path) -> float:
    """When a folder itself was last changed; just now if another process has removed it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
