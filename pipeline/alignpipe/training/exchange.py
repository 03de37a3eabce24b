"""How processes that train together on one machine's processor reach each other: by sockets and shared memory.

Gloo connects processes anywhere, but takes a millisecond for the smallest message, which is as long as a small model
needs for a layer, and sends every gradient through the network's stack. See `tests/benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from alignpipe.errors import ProcessError

T = TypeVar("T", bytes, list[int])

_SLOT_BYTES = 1 << 23
"""What a process adds at once; there are two slots for each. Larger tensors go piece by piece."""
_ANSWER_SECONDS = 20.0
"""How long rank 0 waits for the other processes to call."""


class LocalExchange:
    """Connections of rank 0 with every other process, and memory that all of them see.

    All processes call the same methods in the same order. Raises `ProcessError` if another is gone.
    """

    def __init__(self, rank: int, size: int, connections: Sequence[Connection], memory: Tensor) -> None:
        self._rank, self._size = rank, size
        self._connections = connections
        self._buffers = memory.view(2, size, _SLOT_BYTES)
        self._turn = 0

    def gather(self, item: object) -> list[Any]:
        """The items of all processes, by rank; plain data and CPU tensors."""
        own = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        with _connected():
            if self._rank > 0:
                self._connections[0].send_bytes(own)
                parts = [self._connections[0].recv_bytes() for _ in range(self._size)]
            else:
                parts = [own, *(connection.recv_bytes() for connection in self._connections)]
                for connection in self._connections:
                    for part in parts:
                        connection.send_bytes(part)
        return [pickle.loads(part) for part in parts]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the processes' tensors, of one shape and type, in the order of ranks: the same bits in all."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        self.sum_in_place([total])
        return total

    def sum_in_place(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors of one type, which share no memory, by their sums, as `sum` gives them; many of them at once.

        Those that lie in order need no memory beside: to fill new one for the first time takes as long as the sum.
        """
        joined: list[Tensor] = []
        room = 0
        copies = []
        for tensor in tensors:
            whole = tensor.detach()
            flat = whole.reshape(-1)
            if not whole.is_contiguous():  # in this process; others may have it in order, so it goes with the rest
                copies.append((whole, flat))
            most = _SLOT_BYTES // flat.element_size()
            for piece in (flat,) if len(flat) <= most else torch.split(flat, most):
                if len(piece) > room:
                    self._sum_joined(joined)
                    joined, room = [], most
                joined.append(piece)
                room -= len(piece)
        self._sum_joined(joined)
        for whole, flat in copies:
            whole.copy_(flat.view_as(whole))

    def _sum_joined(self, pieces: list[Tensor]) -> None:
        if not pieces:
            return
        lengths = [len(piece) for piece in pieces]
        # Two buffers in turn: who is ahead may write the next pieces while others still read the sum of these.
        slots = self._buffers[self._turn].view(pieces[0].dtype)[:, : sum(lengths)]
        self._turn = 1 - self._turn
        torch.cat(pieces, out=slots[self._rank])
        self._wait()
        start, end = (sum(lengths) * rank // self._size for rank in (self._rank, self._rank + 1))
        first, *others = slots[:, start:end]  # each process adds a part
        for other in others:
            first.add_(other)
        self._wait()
        for piece, total in zip(pieces, torch.split(slots[0], lengths), strict=True):
            piece.copy_(total)

    def _wait(self) -> None:
        """A barrier: what the others wrote before it can be read after it."""
        with _connected():
            if self._rank == 0:
                for connection in self._connections:
                    connection.recv_bytes()
            for connection in self._connections:
                connection.send_bytes(b"")
            if self._rank > 0:
                self._connections[0].recv_bytes()


@contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except BlockingIOError as error:
        raise lost("it did not answer in time") from error
    except (EOFError, OSError) as error:
        raise lost("it closed the connection") from error


def lost(reason: str) -> ProcessError:
    """What is said when another process does not answer."""
    return ProcessError(
        f"another process of this run has ended or cannot be reached ({reason}); what was saved is kept: give the "
        "same command again, with as many processes as you like"
    )


def connect_locally(
    rank: int, size: int, gather: Callable[[object], list[Any]], patience: timedelta
) -> LocalExchange | None:
    """Connect all processes, which reach each other by `gather` so far; None in all of them if one cannot.

    They can on one machine with Linux. `patience` is how long one waits for the others afterwards.
    """
    with ExitStack() as stack:
        listener = _listener(size, stack) if rank == 0 else None
        host, address = gather((socket.gethostname(), listener and listener.getsockname()))[0]
        exchange = None
        if address is not None and host == socket.gethostname():
            # torch raises a RuntimeError for memory that it cannot map.
            with suppress(OSError, RuntimeError):
                sockets, memory = _called(address, rank) if listener is None else _answered(listener, size)
                stack.callback(os.close, memory)
                whole = torch.from_file(
                    f"/proc/self/fd/{memory}", shared=True, size=2 * size * _SLOT_BYTES, dtype=torch.uint8
                )
                exchange = LocalExchange(rank, size, [_connection(one, patience) for one in sockets], whole)
        if listener is not None:
            listener.close()  # who has not been answered waits no longer
        everywhere = all(gather(exchange is not None))
    return exchange if everywhere else None


def _listener(size: int, stack: ExitStack) -> socket.socket | None:
    """Where the others can call rank 0; None if that is not possible here."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="alignpipe-"))
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(Path(folder, "team")))
        listener.listen(size)
        listener.settimeout(_ANSWER_SECONDS)
    except OSError:
        return None
    return listener


def _answered(listener: socket.socket, size: int) -> tuple[list[socket.socket], int]:
    """Rank 0's connections with the others, by rank, and the memory that it shares with them, a file descriptor.

    The memory is on no disk; the system frees it when all processes have ended, however they end.
    """
    memory = os.memfd_create("alignpipe")
    try:
        os.ftruncate(memory, 2 * size * _SLOT_BYTES)
        by_rank = {}
        for _ in range(size - 1):
            caller, _ = listener.accept()
            (rank,) = struct.unpack("i", _exactly(caller.recv(4, socket.MSG_WAITALL), 4))
            socket.send_fds(caller, [b"m"], [memory])
            by_rank[rank] = caller
    except BaseException:
        os.close(memory)
        raise
    return [by_rank[rank] for rank in sorted(by_rank)], memory


def _called(address: str, rank: int) -> tuple[list[socket.socket], int]:
    """Another rank's connection with rank 0, and the memory that it shares."""
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(address)
    caller.sendall(struct.pack("i", rank))
    _, descriptors, _, _ = socket.recv_fds(caller, 1, 1)
    (memory,) = _exactly(descriptors, 1)
    return [caller], memory


def _exactly(received: T, count: int) -> T:
    """What was received; raises `OSError` if it is not so much, since the other side is gone."""
    if len(received) != count:
        raise OSError("the connection was closed")
    return received


def _connection(connected: socket.socket, patience: timedelta) -> Connection:
    seconds = struct.pack("ll", int(patience.total_seconds()), 0)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
    return Connection(connected.detach())
