"""One worker per key: locks that die with their holder, on local and on network file systems."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from alignpipe.errors import StageInterrupted, StoreError
from alignpipe.store.files import as_json, read_json, storing, write_fleeting

WAIT_NOTICE_SECONDS = 5.0
_LEASE_SECONDS = 90.0
_POLL_SECONDS = 0.2
_NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.glusterfs", "afs",
    "9p", "fuse.sshfs", "fuse.s3fs", "fuse.juicefs", "wekafs", "panfs", "pvfs2", "orangefs",
}  # fmt: skip


class HeldLock:
    """A lock this process holds."""

    def __init__(self, lock: BaseFileLock) -> None:
        self._lock = lock

    def check(self) -> None:
        """Raise `StoreError` if the lock was lost meanwhile, which only a network file system's lease can be."""
        if isinstance(self._lock, SoftFileLease) and self._lock.compromise is not None:
            raise StoreError(
                f"the lock {self._lock.lock_file} was lost ({self._lock.compromise.reason}): another process may be at "
                "work on the same stage, so nothing is published; give the same command again"
            )


@contextmanager
def holding(
    path: Path,
    owner: str,
    say: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
    what: str = "",
) -> Iterator[HeldLock]:
    """Hold the lock at `path`, waiting for it if need be and telling every few seconds who has it.

    `owner` is what waiting processes are told of us. Raises `StageInterrupted` if a stop is requested while waiting.
    """
    lock = _lock(path)
    _acquire(lock, path, say, stop_requested, what)
    with _noted(lock, path, owner):
        yield HeldLock(lock)


@contextmanager
def holding_if_free(path: Path, owner: str) -> Iterator[bool]:
    """Hold the lock at `path` if nobody else does; gives whether it is held now."""
    lock = _lock(path)
    if not _try(lock, path, timeout=0):
        yield False
        return
    with _noted(lock, path, owner):
        yield True


def holder(path: Path) -> str:
    """Who holds the lock at `path`, as far as is known."""
    known = read_json(_holder_file(path))
    if not isinstance(known, dict):
        return "another process"
    return f"process {known.get('pid')} on {known.get('host')} ({known.get('owner')}, since {known.get('since')})"


def on_network_file_system(folder: Path, mounts: str | None = None) -> bool:
    """Whether `folder` lies on a network file system, where flock cannot be trusted between machines.

    `mounts` is the text of /proc/self/mounts; where there is none (not Linux) the answer is no.
    """
    if mounts is None:
        table = Path("/proc/self/mounts")
        mounts = table.read_text() if table.exists() else ""
    resolved = folder.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = Path(words[1].replace("\\040", " "))
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), words[2]
    return kind in _NETWORK_FILE_SYSTEMS


def _lock(path: Path) -> BaseFileLock:
    with storing("preparing the store", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if on_network_file_system(path.parent):
        return SoftFileLease(path.with_suffix(".lease"), lease_duration=_LEASE_SECONDS)
    return FileLock(path, fallback_to_soft=False)


def _acquire(
    lock: BaseFileLock, path: Path, say: Callable[[str], None], stop_requested: Callable[[], bool], what: str
) -> None:
    waited = 0.0
    while not _try(lock, path, WAIT_NOTICE_SECONDS, stop_requested):
        if stop_requested():
            raise StageInterrupted(f"stopped while waiting for {what or path.stem}")
        waited += WAIT_NOTICE_SECONDS
        say(f"waiting for {what or path.stem}: {holder(path)} is at work on it ({waited:.0f} s)")


def _try(lock: BaseFileLock, path: Path, timeout: float, give_up: Callable[[], bool] | None = None) -> bool:
    """Try to get a lock for `timeout` seconds."""
    with storing("locking the store", path):
        try:
            lock.acquire(timeout=timeout, poll_interval=_POLL_SECONDS, cancel_check=give_up)
        except Timeout:  # an OSError too, but no error here
            return False
    return True


@contextmanager
def _noted(lock: BaseFileLock, path: Path, owner: str) -> Iterator[None]:
    """Let waiting processes read who has the lock; release it when the block ends."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    known = {"host": socket.gethostname(), "pid": os.getpid(), "owner": owner, "since": since}
    try:
        with storing("locking the store", path):
            write_fleeting(_holder_file(path), as_json(known))
        yield
    finally:
        _holder_file(path).unlink(missing_ok=True)
        lock.release()


def _holder_file(path: Path) -> Path:
    return path.with_suffix(".holder")


def now() -> float:
    """The wall clock, in seconds; one place, so that tests can move it."""
    return time.time()
