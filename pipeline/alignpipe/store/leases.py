"""Locks for network file systems, where the system's own cannot be trusted between machines: claims that run out.

A lock is a folder of numbered claims, of which the newest counts. Its holder rewrites it every few seconds. Whoever
finds it given back, or has watched it stand still for `seconds`, takes the lock by making the next number, which only
one process can (`O_EXCL`). Nothing else is asked of the file system: filelock's lease needs a rename that exchanges two
names, which NFS refuses, and its read-write lock hard links, which sshfs has none of. Clocks of two machines are never
compared.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

_BYTES = 256
"""Every claim is as long, so that a reader who knows an old length reads a whole one."""
_KEPT = 16
"""Claims that stay: who sees an old list of the folder finds the number it wants to make taken."""
_BEATS = 6
_LONGEST_STEP = 5.0
"""Seconds between two looks that count at most: while this process or the file server stood still, nothing is seen."""


class Lease:
    """A lock on a network file system, to be taken once; two of one process exclude each other as well."""

    poll = 0.5

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self.holder_lives = False
        """Whether the holder was seen at work: its claim changed while it was watched."""
        self._folder = folder
        self._mine = 0
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._renew, name=f"lease {folder.name}", daemon=True)
        self._seen: tuple[int, bytes] | None = None
        self._looked = self._still = 0.0

    def try_once(self) -> bool:
        """Take the lock if nobody has it, or the holder is found dead; raises `OSError`."""
        newest = self._newest()
        if newest and not self._abandoned(newest):
            return False
        self._mine = newest + 1
        if not self._make():
            return False
        for old in range(self._mine - _KEPT, 0, -1):
            try:
                self._claim(old).unlink()
            except FileNotFoundError:
                break
        self._heart.start()
        return True

    def _make(self) -> bool:
        """Create the claim `_mine`; returns False if another process was quicker."""
        path = self._claim(self._mine)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        made = False
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self._content(0))
            made = not self.lost()
        finally:
            if not made:
                path.unlink(missing_ok=True)
        return made

    def lost(self) -> bool:
        """Whether another process has taken the lock, because this one could not renew its claim for too long."""
        return self._newest() != self._mine

    def release(self) -> None:
        """Give the lock back; if another process has it by now, that changes nothing."""
        self._stopped.set()
        self._heart.join()
        with suppress(OSError):  # the claim runs out then
            _rewrite(self._claim(self._mine), _padded({"free": True}))

    def _renew(self) -> None:
        beat = 0
        while not self._stopped.wait(self.seconds / _BEATS):
            beat += 1
            with suppress(OSError):  # the server is away for a moment; `lost` tells whether that was too long
                if self.lost():
                    return
                _rewrite(self._claim(self._mine), self._content(beat))

    def _abandoned(self, number: int) -> bool:
        """Whether a claim was given back, its process has ended on this machine, or it stood still for long enough."""
        now = time.monotonic()
        try:
            content = self._claim(number).read_bytes()
        except FileNotFoundError:  # an old list of the folder: there is a newer one
            return False
        claim = _parsed(content)
        here = claim.get("place") == _pid_namespace() != ""
        if claim.get("free") or (here and not _runs(claim.get("pid"))):
            return True
        if self._seen != (number, content):
            self.holder_lives = self._seen is not None
            self._seen, self._still = (number, content), 0.0
        else:
            self._still += min(now - self._looked, _LONGEST_STEP)
        self._looked = now
        return self._still >= self.seconds

    def _newest(self) -> int:
        try:
            return max((int(name) for name in os.listdir(self._folder) if name.isdecimal()), default=0)
        except FileNotFoundError:
            return 0

    def _claim(self, number: int) -> Path:
        return self._folder / f"{number:08d}"

    def _content(self, beat: int) -> bytes:
        return _padded({"place": _pid_namespace(), "pid": os.getpid(), "beat": beat})


def _rewrite(path: Path, content: bytes) -> None:
    """Overwrite a claim that is there; raises `FileNotFoundError` rather than make one."""
    with path.open("r+b") as file:
        file.write(content)


def _padded(claim: dict[str, object]) -> bytes:
    return json.dumps(claim).ljust(_BYTES - 1).encode() + b"\n"


def _parsed(content: bytes) -> dict[str, object]:
    """A claim; one that is only half written says nothing, but it is a claim."""
    try:
        claim = json.loads(content)
    except ValueError:
        return {}
    return claim if isinstance(claim, dict) else {}


def _pid_namespace() -> str:
    """Where a process id is unique: this machine since it booted, and the container; "" if that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()[:64]} {boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _runs(pid: object) -> bool:
    """Whether a process of this machine and container is there."""
    try:
        os.kill(int(str(pid)), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):  # another user's, or nothing that can be asked about
        return True
    return True
