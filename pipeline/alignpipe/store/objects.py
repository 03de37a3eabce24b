"""Published objects: building one, checking one, moving a damaged one away."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignpipe.api import Artifact, Kind
from alignpipe.digests import file_digest, listing_digest
from alignpipe.errors import StoreError
from alignpipe.store.files import read_json, write_json
from alignpipe.store.layout import METRICS, TIMINGS, Layout, records_folder
from alignpipe.syncing import sync

_SCHEMA = 1
_READ_ONLY = 0o444


def make_manifest(payload: Path, stage: str, kind: Kind) -> dict[str, Any]:
    """The manifest of a payload; its files are on the disk when this returns.

    Raises `StoreError` if the payload is empty or holds a link.
    """
    files = []
    for path in (payload, *sorted(payload.rglob("*"))):
        if path.is_symlink():
            raise StoreError(f"stage {stage!r} left the link {path} in its payload; an artifact must hold real files")
        if path.is_file() and path != payload:  # a stage may have put a file in the folder's place
            sync(path)
            files.append((path.relative_to(payload).as_posix(), path.stat().st_size, file_digest(path)))
        elif path.is_dir():
            sync(path)
    if not files:
        raise StoreError(f"stage {stage!r} ended without writing anything into its payload folder")
    listed = [{"path": path, "size": size, "sha256": digest} for path, size, digest in files]
    return {"schema": _SCHEMA, "stage": stage, "kind": kind, "digest": listing_digest(files), "files": listed}


def place_object(layout: Layout, work: Path, manifest: Mapping[str, Any], record: Mapping[str, Any]) -> Artifact:
    """Turn a work folder's payload into an object; if the same object is there already, only add the key's records.

    1. The key's records are put together in the work folder (`object/`).
    2. A damaged object that is in the way goes to the trash.
    3. The payload joins the records, then the manifest; one rename publishes it all, so that a kill leaves no half.
    4. If the object is there, before that or because another process was quicker, the records are moved into it.

    The caller then points the key to it. A kill between 3 and that leaves an object that no key leads to: the next
    attempt goes on from its last checkpoint, and if it makes the same, ends with 4.
    """
    stage, digest, key = manifest["stage"], manifest["digest"], record["key"]
    target = layout.object(stage, digest)
    artifact = Artifact(manifest["kind"], stage, target / "payload", digest)
    staging = work / "object"
    if staging.exists():
        shutil.rmtree(staging)
    records = records_folder(staging, key)
    records.mkdir(parents=True)
    for name in (METRICS, TIMINGS):
        if (work / name).exists():
            shutil.copyfile(work / name, records / name)
            sync(records / name)
    write_json(records / "record.json", record)
    if target.exists() and problem_of(target) is not None:
        to_trash(layout, target)
    published = not target.exists() and _publish(work / "payload", staging, target, manifest)
    if not published:
        _add_records(records, target)
    return artifact


def _publish(payload: Path, staging: Path, target: Path, manifest: Mapping[str, Any]) -> bool:
    """Complete the object and move it to its place; False, and `staging` stays, if another has meanwhile."""
    payload.rename(staging / "payload")
    for entry in manifest["files"]:
        (staging / "payload" / entry["path"]).chmod(_READ_ONLY)
    write_json(staging / "manifest.json", manifest)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        staging.rename(target)
    except OSError:
        if not target.exists():
            raise
        return False
    sync(target.parent)
    return True


def _add_records(records: Path, obj: Path) -> None:
    """Put a key's records (a folder of its name) into an object that is there already, which is in use by that."""
    os.utime(obj)  # before the run has noted it, gc must not take it for an old one that nobody needs
    known = records_folder(obj, records.name)
    known.parent.mkdir(exist_ok=True)
    if known.exists():
        shutil.rmtree(known)
    records.rename(known)
    sync(known.parent)


def problem_of(obj: Path, deep: bool = False) -> str | None:
    """Why an object cannot be used: its manifest, a file's size, if `deep` the bytes too; None if it is sound."""
    manifest = read_json(obj / "manifest.json")
    name = f"the stored object {obj.name[:12]}"
    if not isinstance(manifest, dict) or "files" not in manifest:
        return f"{name} has no readable manifest"
    for entry in manifest["files"]:
        path = obj / "payload" / entry["path"]
        if not path.is_file():
            return f"{name} is damaged: {entry['path']} is missing"
        size = path.stat().st_size
        if size != entry["size"]:
            return f"{name} is damaged: {entry['path']} has {size} bytes, not {entry['size']}"
        if deep and file_digest(path) != entry["sha256"]:
            return f"{name} is damaged: the content of {entry['path']} changed"
    return None


def artifact_of(obj: Path) -> Artifact | None:
    """The artifact in an object's folder; None if its manifest cannot be read."""
    manifest = read_json(obj / "manifest.json")
    if not isinstance(manifest, dict):
        return None
    return Artifact(manifest["kind"], manifest["stage"], obj / "payload", manifest["digest"])


def to_trash(layout: Layout, folder: Path) -> Path:
    """Move a folder into the trash under a name that is free there."""
    layout.trash.mkdir(parents=True, exist_ok=True)
    target = layout.trash / f"{folder.parent.name}-{folder.name}-{uuid.uuid4().hex[:8]}"
    os.rename(folder, target)
    return target
