"""The processes that a run starts itself to help it (`processes=N`), as torchrun would from outside."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from alignpipe.errors import ConfigError, ProcessError
from alignpipe.importing import uncollected
from alignpipe.processes import SIZE_TO_COME, Process, this_process
from alignpipe.runner.devices import share_cores

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch's stubs lack it

_ENTER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from alignpipe.runner.launching import end_with_rank_0; end_with_rank_0(); "
    "from alignpipe.cli.main import main; sys.exit(main())"
)
"""What a helper runs: the console script's command, with this process's places of modules."""
_TO_END, _TO_END_IN_VAIN = 20.0, 5.0
"""Seconds that helpers have to end by themselves when the run is over, and when it has failed."""
_TO_FAIL = 300.0
"""Seconds in which a process that misses a helper, and is not just busy with work of its own, should have noticed."""


class Helpers:
    """Ranks 1 to N - 1 of a run, on this machine; they start when the first stage needs them, and end with the run."""

    def __init__(self, process: Process, words: Sequence[str], cwd: Path) -> None:
        """For rank 0, `process`; `words`, given in the folder `cwd`, is the command line of the same run."""
        self._process = process
        self._words = words
        self._cwd = cwd
        self._children: list[subprocess.Popen[bytes]] = []
        self._environment: dict[str, str | None] = {}
        """What this process's variables were before."""
        self._store: TCPStore | None = None

    def announce(self) -> None:
        """Say in this process's environment how many processes there will be."""
        self._set({SIZE_TO_COME: str(self._process.world_size)})

    def start(self) -> None:
        """Start them, and make this process rank 0 for all who read the launcher's variables.

        They reach it at a socket that listens already, while torch, which answers there, is still to be imported.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        size = self._process.world_size
        launch = launch_variables(size, listening.getsockname()[1])
        places = json.dumps([os.path.join(self._cwd, path) for path in sys.path])
        command = [sys.executable, "-P", "-c", _ENTER, places, *self._words]
        for rank in range(1, size):
            # What torch says of a lost connection takes a page, and rank 0 or the helper says it in words.
            environment = {"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, **launch, **rank_variables(rank)}
            # Of its own session: Ctrl-C and a closed terminal are for this process, which tells the others. The pipe
            # tells them when this process has ended.
            child = subprocess.Popen(
                command, env=environment, cwd=self._cwd, stdin=subprocess.PIPE, start_new_session=True
            )
            self._children.append(child)
        self._set({**launch, **rank_variables(0)})
        self._serve(listening)

    def _serve(self, listening: socket.socket) -> None:
        share_cores()  # before torch is imported
        with uncollected():
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
        """End this process, without tidying up, if a helper ends in the block and the block does not within minutes.

        Who waits for the dead in a collective operation on a GPU, or while processes connect, cannot be interrupted.
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
                if child.stdin is not None:
                    child.stdin.close()
            self._children.clear()
            self._store = None
            self._put_back()

    def _set(self, variables: Mapping[str, str]) -> None:
        self._environment.update({name: os.environ.get(name) for name in variables})
        os.environ.update(variables)

    def _put_back(self) -> None:
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._environment = {}


def end_with_rank_0() -> None:
    """In a helper: end it when rank 0 has ended, however that was, and whatever it waits for."""

    def watch() -> None:
        while os.read(0, 1):  # not `sys.stdin`, whose lock Python wants at its end
            pass
        if this_process().rank == 1:  # one of them says so
            sys.stderr.write(
                "alignpipe: error: process 0, which leads the run, has ended; what was saved is kept: give the same "
                "command again\n"
            )
            sys.stderr.flush()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
