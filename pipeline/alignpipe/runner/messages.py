"""Messages from rank 0 to the other processes of a launch, numbered, in the launcher's key-value store."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alignpipe.errors import ProcessError, first_line
from alignpipe.importing import uncollected
from alignpipe.processes import Process
from alignpipe.runner.devices import share_cores

_POLL_SECONDS = 0.1
_FAILURE = "failure"

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store


class Messages:
    """One process's view of the messages; each reads them all, in their order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number = 0

    def post(self, message: Mapping[str, Any]) -> None:
        """Send a message to all others; only rank 0 does."""
        with _reaching():
            self._store.set(f"message/{self._number}", json.dumps(message))
        self._number += 1

    def next(self, patience: Callable[[], float]) -> dict[str, Any] | None:
        """The next message; None if none came within `patience()` seconds, which is asked again and again.

        Raises `ProcessError` if the store is gone, and rank 0 or the launcher with it.
        """
        began = time.monotonic()
        key = f"message/{self._number}"
        while True:
            with _reaching():
                if self._store.check([key]):
                    message: dict[str, Any] = json.loads(self._store.get(key))
                    self._number += 1
                    return message
            if time.monotonic() - began > patience():
                return None
            time.sleep(_POLL_SECONDS)

    def note_here(self, rank: int) -> None:
        """Record for rank 0 that this process is ready to take part."""
        with _reaching():
            self._store.set(f"here/{rank}", "")

    def wait_for_all(self, size: int, check: Callable[[], None]) -> None:
        """Wait until all `size` - 1 others are there; `check` raises if one never will be."""
        keys = [f"here/{rank}" for rank in range(1, size)]
        while True:
            with _reaching():
                if self._store.check(keys):
                    return
            check()
            time.sleep(_POLL_SECONDS)

    def note_failure(self, reason: str) -> None:
        """Record for rank 0 why this process failed."""
        with _reaching():
            self._store.set(_FAILURE, reason)

    def failure(self) -> str | None:
        """What a failing process left."""
        with _reaching():
            return self._store.get(_FAILURE).decode() if self._store.check([_FAILURE]) else None


def connect(process: Process) -> Messages:
    """Open the launcher's store.

    Raises `ProcessError` if there is none: the variables of torchrun are set, but nobody answers.
    """
    share_cores()  # before torch is imported
    with uncollected():
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

    with _reaching():
        store, _, _ = next(rendezvous("env://", process.rank, process.world_size))
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Messages(PrefixStore(f"alignpipe/{restart}", store))


@contextmanager
def _reaching() -> Iterator[None]:
    """Say in words that the store does not answer; torch raises RuntimeErrors and ValueErrors of its own."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        where = " ".join(f"{name}={os.environ.get(name, '')}" for name in ("MASTER_ADDR", "MASTER_PORT"))
        raise ProcessError(
            f"process 0 or the launcher (torchrun, accelerate launch) is gone: its store cannot be reached at {where}: "
            f"{first_line(error)}"
        ) from error
