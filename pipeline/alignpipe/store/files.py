"""Files that are complete or absent: atomic writes, and OS errors in one sentence."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alignpipe.errors import StoreError
from alignpipe.syncing import sync

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}


@contextmanager
def storing(what: str, where: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StoreError` that says what was being done and what to do now."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, what, where) from error


def storage_error(error: OSError, what: str, where: Path) -> StoreError:
    """The sentence for an operating system's error."""
    path = error.filename or where
    if error.errno in _FULL:
        return StoreError(
            f"no space left on the disk while {what} ({path}); free some (alignpipe store gc shows what can go), "
            "then give the same command again: what is finished is kept"
        )
    if error.errno in _FORBIDDEN:
        return StoreError(f"cannot write {path} while {what}: {error.strerror}; set outputs=<a folder of your own>")
    if error.errno in _IN_THE_WAY:
        return StoreError(
            f"cannot write {path} while {what}: {error.strerror}; something else lies there: move it away, or set "
            "outputs=<another folder>"
        )
    return StoreError(f"{type(error).__name__} while {what} ({path}): {error.strerror or error}")


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file so that others see all of it or nothing.

    If `durable`, it is still so after a power cut, which costs two waits for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        if durable:
            sync(draft)
        draft.chmod(0o644)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write plain data as JSON, atomically, with its keys in the order given (stages in the order of the run)."""
    write_atomically(path, json.dumps(value, indent=1) + "\n", durable=durable)


def now_text() -> str:
    """This moment, as records hold it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it is missing or no JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def empty_folder(folder: Path) -> None:
    """Make sure a folder is there and empty."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def folder_bytes(folder: Path) -> int:
    """The size of all regular files below a folder, in bytes."""
    return sum(status.st_size for status in statuses_below(folder) if stat.S_ISREG(status.st_mode))


def statuses_below(folder: Path) -> Iterator[os.stat_result]:
    """The status of everything below a folder, links as links; what another process removes meanwhile is left out."""
    for where, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with suppress(FileNotFoundError):
                yield os.lstat(os.path.join(where, name))
