"""One worker per key: locks that die with their holder, on local and on network file systems."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from alignpipe.errors import StageInterrupted, StoreError
from alignpipe.store.files import now_text, read_json, storing, write_json
from alignpipe.store.leases import Lease

WAIT_NOTICE_SECONDS = 5.0
"""When a waiting process first says so; then after twice as long each time."""
_LONGEST_SILENCE = 600.0
_LEASE_SECONDS = 90.0
_NETWORK_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.glusterfs", "afs",
    "9p", "fuse.sshfs", "fuse.s3fs", "fuse.juicefs", "wekafs", "panfs", "pvfs2", "orangefs",
}  # fmt: skip


class _SystemLock:
    """An OS lock, which ends with its process: it cannot be lost, and its holder is alive."""

    poll = 0.2
    holder_lives = True

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, fallback_to_soft=False)

    def try_once(self) -> bool:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:  # an OSError too, but no error here
            return False
        return True

    def lost(self) -> bool:
        return False

    def release(self) -> None:
        self._lock.release()


class HeldLock:
    """A lock this process holds."""

    def __init__(self, lock: Lease | _SystemLock, path: Path) -> None:
        self._lock = lock
        self._path = path

    def check(self) -> None:
        """Raise `StoreError` if the lock was lost meanwhile, which only one on a network file system can be."""
        if self.lost():
            raise StoreError(
                f"the lock {self._path} was lost: this process could not renew it for {_LEASE_SECONDS:.0f} s, and "
                f"{holder(self._path)} has taken it, so nothing more is written; if that one is gone too, give the "
                "same command again"
            )

    def lost(self) -> bool:
        """Whether another process has the lock by now."""
        with storing("checking a lock of the store", self._path):
            return self._lock.lost()


@contextmanager
def holding(
    path: Path,
    owner: str,
    say: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
    what: str = "",
) -> Iterator[HeldLock]:
    """Hold the lock at `path`, waiting for it if need be and saying now and then who holds it.

    `owner` is what waiting processes show of this one. Raises `StageInterrupted` if a stop is requested while waiting.
    """
    lock = _lock(path)
    _take(lock, path, say, stop_requested, what, wait_for_live_holder=True)
    with _noted(lock, path, owner) as held:
        yield held


@contextmanager
def holding_if_free(
    path: Path,
    owner: str,
    say: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
    what: str = "",
) -> Iterator[HeldLock | None]:
    """Hold the lock at `path` unless a live process holds it: yields the lock, or None.

    On a network file system that takes time to find out: `holding_if_free` returns when the holder is seen to renew its
    claim, or takes the lock once it has run out. Raises `StageInterrupted` if a stop is requested while waiting.
    """
    lock = _lock(path)
    if not _take(lock, path, say, stop_requested, what, wait_for_live_holder=False):
        yield None
        return
    with _noted(lock, path, owner) as held:
        yield held


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


def _lock(path: Path) -> Lease | _SystemLock:
    with storing("preparing the store", path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if on_network_file_system(path.parent):
        return Lease(path.with_suffix(".lease"), _LEASE_SECONDS)
    return _SystemLock(path)


def _take(
    lock: Lease | _SystemLock,
    path: Path,
    say: Callable[[str], None],
    stop_requested: Callable[[], bool],
    what: str,
    *,
    wait_for_live_holder: bool,
) -> bool:
    """Take the lock, waiting for its holder, or only until that is known to be alive; returns whether it was taken."""
    began, notice = time.monotonic(), WAIT_NOTICE_SECONDS
    while not _try(lock, path):
        if lock.holder_lives and not wait_for_live_holder:
            return False
        if stop_requested():
            raise StageInterrupted(f"stopped while waiting for {what or path.stem}")
        waited = time.monotonic() - began
        if waited >= notice:
            notice = waited + min(waited, _LONGEST_SILENCE)
            say(f"waiting for {what or path.stem}: {holder(path)} {_doing(lock)} ({waited:.0f} s)")
        time.sleep(lock.poll)
    return True


def _try(lock: Lease | _SystemLock, path: Path) -> bool:
    with storing("locking the store", path):
        return lock.try_once()


def _doing(lock: Lease | _SystemLock) -> str:
    """What is known about a lock's holder."""
    if lock.holder_lives:
        return "is at work on it"
    return f"has it and may have been killed; its lock runs out if it is not renewed for {_LEASE_SECONDS:.0f} s"


@contextmanager
def _noted(lock: Lease | _SystemLock, path: Path, owner: str) -> Iterator[HeldLock]:
    """Let waiting processes read who has the lock; release it when the block ends."""
    known = {"host": socket.gethostname(), "pid": os.getpid(), "owner": owner, "since": now_text()}
    try:
        with storing("locking the store", path):
            write_json(_holder_file(path), known, durable=False)
        yield HeldLock(lock, path)
    finally:
        try:
            if read_json(_holder_file(path)) == known:  # else another process has taken the lock
                _holder_file(path).unlink(missing_ok=True)
        finally:
            lock.release()


def _holder_file(path: Path) -> Path:
    return path.with_suffix(".holder")
