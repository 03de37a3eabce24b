"""The processes that a run starts itself to help it (`processes=N`), as torchrun would from outside."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from alignpipe.errors import ConfigError, ProcessError
from alignpipe.processes import Process

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch's stubs lack it

_ENTER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from alignpipe.cli.main import main; sys.exit(main())"
)
"""What a helper runs: the console script's command, with this process's places of modules."""
_TO_END, _TO_END_IN_VAIN = 20.0, 5.0
"""Seconds that helpers have to end by themselves when the run is over, and when it has failed."""
_TO_FAIL = 30.0
"""Seconds that this process has to notice that a helper is gone; torchrun allows as many."""


class Helpers:
    """Ranks 1 to N - 1 of a run, on this machine; they start when the first stage needs them, and end with the run."""

    def __init__(self, process: Process, words: Sequence[str]) -> None:
        """For rank 0, `process`; `words` is the command line that gives the same run."""
        self._process = process
        self._words = words
        self._children: list[subprocess.Popen[bytes]] = []
        self._environment: dict[str, str | None] = {}
        """What this process's variables were before."""
        self._store: TCPStore | None = None

    def start(self) -> None:
        """Start them, and make this process rank 0 for all who read the launcher's variables.

        They reach it at a socket that listens already, while torch, which answers there, is still to be imported.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        size = self._process.world_size
        launch = launch_variables(size, listening.getsockname()[1])
        command = [sys.executable, "-P", "-c", _ENTER, json.dumps([path or os.getcwd() for path in sys.path])]
        for rank in range(1, size):
            # What torch says of a lost connection takes a page, and rank 0 or the helper says it in words.
            environment = {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, **launch, **rank_variables(rank)}
            # Of its own session: Ctrl-C and a closed terminal are for this process, which tells the others.
            child = subprocess.Popen([*command, *self._words], env=environment, start_new_session=True)
            self._children.append(child)
        mine = {**launch, **rank_variables(0)}
        self._environment = {name: os.environ.get(name) for name in mine}
        os.environ.update(mine)
        self._serve(listening)

    def _serve(self, listening: socket.socket) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        port, handle = listening.getsockname()[1], listening.detach()
        self._store = TCPStore("127.0.0.1", port, None, True, wait_for_workers=False, master_listen_fd=handle)

    def check(self) -> None:
        """Raise `ProcessError` if one has ended."""
        if (ended := self._ended()) is not None:
            raise ProcessError(f"{ended}, and this run needs it; what it said stands above, if anything")

    def _ended(self) -> str | None:
        """Which helper has ended, and how."""
        for rank, child in enumerate(self._children, start=1):
            status = child.poll()
            if status is not None:
                how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
                return f"process {rank} of {self._process.world_size} {how}"
        return None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """End this process, without tidying up, if a helper ends in the block and the block does not within a while.

        A collective operation on a GPU waits for the dead, and cannot be interrupted.
        """
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(0.5):
            if (ended := self._ended()) is not None and not over.wait(_TO_FAIL):
                sys.stderr.write(
                    f"alignpipe: error: {ended}, and this one waits for it in vain; what was saved is kept: give the "
                    "same command again\n"
                )
                sys.stderr.flush()
                os._exit(1)

    def end(self, *, well: bool) -> None:
        """Wait for the helpers, who have been told, and be a process by itself again.

        Who does not end by itself is killed: not `well`, a helper may be waiting in vain for this process.
        """
        until = time.monotonic() + (_TO_END if well else _TO_END_IN_VAIN)
        try:
            for child in self._children:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, until - time.monotonic()))
        finally:
            for child in self._children:
                child.kill()  # nothing happens to one that has ended
                child.wait()
            self._children.clear()
            self._store = None
            self._put_back()

    def _put_back(self) -> None:
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._environment = {}


def rank_0_of(processes: int, launched: Process) -> Process:
    """The place of a process that is to start `processes` - 1 others; `launched` is the one that its launcher gave it.

    Raises `ConfigError` if a launcher has started several.
    """
    if processes == 1:
        return launched
    if launched.world_size > 1:
        raise ConfigError(
            f"processes={processes}, and a launcher (torchrun, accelerate launch) has started {launched.world_size}: "
            "leave one of the two out"
        )
    return Process(0, processes, 0, processes)


def launch_variables(size: int, port: int) -> dict[str, str]:
    """What torchrun tells all processes of a launch on one machine: torch and Accelerate read it.

    The store that rank 0 holds stands for the one of torchrun's agent, to which all connect.
    """
    return {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def rank_variables(rank: int) -> dict[str, str]:
    """What torchrun tells one process."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}
