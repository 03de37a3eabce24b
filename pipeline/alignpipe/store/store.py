"""The store as the runner uses it: look up a key, work on it under a lock, publish the result."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import alignpipe
from alignpipe.api import Artifact, Kind
from alignpipe.errors import StoreError
from alignpipe.store.files import now_text, read_json, storing, write_json
from alignpipe.store.layout import Layout, records_folder
from alignpipe.store.locks import HeldLock, holding
from alignpipe.store.objects import artifact_of, make_manifest, place_object, problem_of, to_trash
from alignpipe.store.work import WorkFolder

_COMPARED_KEYS = 200
"""How many known keys of a stage, newest first, a miss is compared with."""


Fingerprint = dict[str, Any]
"""What a key is the digest of, as plain data; files hold it under `explained`."""


@dataclass(frozen=True)
class Stored:
    """What is stored under a key: the artifact and how it was made; `problem` says why it cannot be used."""

    artifact: Artifact
    created: str
    folder: str  # of the run that made it
    code: Mapping[str, str]
    problem: str | None = None


class Store:
    """A store below `root` (made when something is first written)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = Layout(root)

    # --- what the plan asks; nothing here writes ---

    def lookup(self, stage: str, key: str) -> Stored | None:
        """The result under a key, cheaply checked; None if the key is unknown."""
        entry = read_json(self.layout.index(stage, key))
        if not isinstance(entry, dict):
            return None
        obj = self.layout.object(stage, entry["digest"])
        artifact = Artifact(entry["kind"], stage, obj / "payload", entry["digest"])
        created = _shown(entry["created"])
        record = read_json(records_folder(obj, key) / "record.json")
        problem = problem_of(obj) if obj.exists() else f"its result of {created} is no longer in the store"
        if problem is None and record is None:
            problem = f"the stored object {obj.name[:12]} has lost the record of this key"
        return Stored(artifact, created, entry["folder"], (record or {}).get("code", {}), problem)

    def fingerprints(self, stage: str) -> Iterator[tuple[str, Fingerprint]]:
        """(when it was made, its fingerprint) of the keys known for a stage, newest first."""
        paths = sorted(self.layout.indexed(stage), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in islice(paths, _COMPARED_KEYS):
            entry = read_json(path)
            if isinstance(entry, dict):
                yield _shown(entry["created"]), entry["explained"]

    def find(self, digest: str) -> list[Artifact]:
        """The stored artifacts whose digest begins with `digest`."""
        found = (artifact_of(obj) for obj in self.objects() if obj.name.startswith(digest))
        return [artifact for artifact in found if artifact is not None]

    def objects(self) -> Iterable[Path]:
        """The folders of all published objects."""
        return sorted((self.root / "objects").glob("*/*"))

    # --- what the runner does ---

    def lock(
        self, stage: str, key: str, owner: str, say: Callable[[str], None], stop_requested: Callable[[], bool]
    ) -> AbstractContextManager[HeldLock]:
        """Hold the lock of a key; while waiting, say who holds it."""
        return holding(self.layout.lock(f"{stage}-{key}"), owner, say, stop_requested, f"stage {stage}")

    def use_records(self, artifact: Artifact, key: str) -> Path:
        """Note that an object is in use (gc spares it a while), and give the folder with the records of one key."""
        obj = artifact.folder.parent
        with storing("reading the store", obj):
            os.utime(obj)
        return records_folder(obj, key)

    def work(self, stage: str, key: str) -> WorkFolder:
        """The work folder of a key."""
        return WorkFolder(self.layout, stage, key)

    def publish(
        self,
        work: WorkFolder,
        *,
        kind: Kind,
        fingerprint: Fingerprint,
        code: Mapping[str, str],
        run_key: str,
        folder: Path,
        seconds: float,
    ) -> Artifact:
        """Publish a work folder's payload under its digest, record the rest beside it, and point the key to it.

        Raises `StoreError` if the disk is full or not writable; the key then points to what it did before.
        """
        with storing(f"publishing the result of stage {work.stage!r}", work.path):
            manifest = make_manifest(work.payload, work.stage, kind)
            record = {
                "schema": 1,
                "key": work.key,
                "digest": manifest["digest"],
                "kind": kind,
                "created": now_text(),
                "run_key": run_key,
                "folder": str(folder),
                "host": socket.gethostname(),
                "alignpipe": alignpipe.__version__,
                "seconds": round(seconds, 3),
                "code": dict(code),
                "explained": fingerprint,
            }
            artifact = place_object(self.layout, work.path, manifest, record)
            entry = {name: value for name, value in record.items() if name != "code"}  # the object's record has it
            write_json(self.layout.index(work.stage, work.key), entry)
            self._remove(work.path)
        return artifact

    def _remove(self, work: Path) -> None:
        """Remove a work folder at one blow: a checkpoint that lacks files, since a kill came between, ends a resume.

        The result is stored, so what cannot be deleted, or gc is deleting too, fails nothing: it waits in the trash.
        """
        shutil.rmtree(to_trash(self.layout, work), ignore_errors=True)

    def discard_damaged(self, artifact: Artifact) -> None:
        """Move an object into the trash if its own files are damaged; one that only lost a record serves other keys."""
        obj = artifact.folder.parent
        with storing("moving a damaged object to the trash", obj):
            if obj.exists() and problem_of(obj) is not None:
                to_trash(self.layout, obj)

    def check_writable(self) -> None:
        """Raise `StoreError` if the store's folder cannot be made or written."""
        with storing("opening the store", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK | os.X_OK):
                raise StoreError(f"cannot write the store {self.root}: permission denied; set outputs=<another folder>")


def _shown(moment: str) -> str:
    """A moment as people read it."""
    return f"{moment[:16].replace('T', ' ')} UTC"
