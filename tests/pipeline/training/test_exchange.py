"""Sums and messages among the processes of a machine; here threads play them, in `test_parallel.py` they are real."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
import torch

from alignpipe.errors import ProcessError
from alignpipe.training import exchange
from alignpipe.training.exchange import LocalExchange, connect_locally

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only where memory can be shared (Linux)")

MINUTE = timedelta(minutes=1)


def as_processes(size: int, act: Callable[[int, Callable[[object], list[Any]]], Any]) -> list[Any]:
    """What `act(rank, gather)` gave in each of `size` threads, by rank."""
    barrier, items = Barrier(size), [None] * size

    def gather_of(rank: int) -> Callable[[object], list[Any]]:
        def gather(item: object) -> list[Any]:
            items[rank] = item
            barrier.wait(30)
            gathered = list(items)
            barrier.wait(30)
            return gathered

        return gather

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: act(rank, gather_of(rank)), range(size)))


def connected(size: int, act: Callable[[int, LocalExchange], Any], patience: timedelta = MINUTE) -> list[Any]:
    """What `act(rank, exchange)` gave, by rank."""

    def enter(rank: int, gather: Callable[[object], list[Any]]) -> Any:
        made = connect_locally(rank, size, gather, patience)
        assert made is not None
        return act(rank, made)

    return as_processes(size, enter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(0,), (1,), (), (3, 5), (1000,)], ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_sums_in_pieces_are_those_in_the_order_of_ranks(
    size: int, shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_SLOT_BYTES", 256)  # 1000 values are 16 pieces and more
    generator = torch.Generator().manual_seed(0)
    rounds = [[(torch.randn(shape, generator=generator) * 9).to(dtype) for _ in range(size)] for _ in range(3)]
    kept = [[tensor.clone() for tensor in tensors] for tensors in rounds]
    found = connected(size, lambda rank, made: [made.sum(tensors[rank]) for tensors in rounds])
    for number, tensors in enumerate(kept):
        expected = sum(tensors[1:], start=tensors[0])
        for sums in found:
            assert sums[number].shape == shape
            assert torch.equal(sums[number], expected)
        assert all(map(torch.equal, tensors, rounds[number])), "what is added stays"


def test_what_is_added_may_lie_anyhow_in_memory_and_have_a_graph() -> None:
    given = torch.arange(6.0, requires_grad=True).view(2, 3).t()
    (first, _) = connected(2, lambda _rank, made: made.sum(given))
    assert torch.equal(first, 2 * given.detach())
    assert not first.requires_grad


@pytest.mark.parametrize("size", [2, 3])
def test_many_tensors_are_summed_where_they_lie(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several that fit together, one that needs pieces, none at all, and one that lies in no order in one process."""
    monkeypatch.setattr(exchange, "_SLOT_BYTES", 256)
    shapes = [(3,), (4, 5), (), (7, 3), (0,), (10, 30), (2,), (60,)]
    generator = torch.Generator().manual_seed(0)
    given = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(size)]
    given[0][3] = given[0][3].t().contiguous().t()
    expected = [sum(each[1:], start=each[0].clone()) for each in zip(*given, strict=True)]
    places = [[tensor.data_ptr() for tensor in tensors] for tensors in given]
    connected(size, lambda rank, made: made.sum_in_place(given[rank]))
    for tensors, where in zip(given, places, strict=True):
        assert all(map(torch.equal, tensors, expected))
        assert [tensor.data_ptr() for tensor in tensors] == where


def test_items_come_by_rank_and_are_copies() -> None:
    items = [{"weights": torch.ones(3), "big": "x" * 2_000_000}, [1.5, None], "last"]
    found = connected(3, lambda rank, made: (made.gather(items[rank]), made.gather(rank)))
    for gathered, ranks in found:
        assert ranks == [0, 1, 2]
        assert torch.equal(gathered[0]["weights"], torch.ones(3))
        assert gathered[0]["weights"] is not items[0]["weights"]
        assert len(gathered[0]["big"]) == 2_000_000
        assert gathered[1:] == items[1:]


@pytest.mark.parametrize("gone", [0, 1])
def test_a_process_that_is_gone_is_noticed_at_once(gone: int) -> None:
    def act(rank: int, made: LocalExchange) -> str:
        if rank == gone:
            for connection in made._connections:
                connection.close()
            return ""
        with pytest.raises(ProcessError, match=r"it closed the connection.*same command again") as raised:
            made.sum(torch.ones(2))
        return str(raised.value)

    assert any(connected(2, act))


def test_a_process_that_does_not_answer_is_not_waited_for_forever() -> None:
    barrier = Barrier(2)

    def act(rank: int, made: LocalExchange) -> None:
        if rank == 1:
            with pytest.raises(ProcessError, match="did not answer in time"):
                made.gather(1)
        barrier.wait(30)

    connected(2, act, timedelta(seconds=1))


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    call = exchange._called
    monkeypatch.setattr(exchange, "_called", lambda address, rank: call(address + ("x" if rank == 2 else ""), rank))
    monkeypatch.setattr(exchange, "_ANSWER_SECONDS", 0.3)


def no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")


def memory_cannot_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, **_: object) -> torch.Tensor:
        raise RuntimeError(f"unable to mmap {path}")

    monkeypatch.setattr(torch, "from_file", refuse)


def gone_before_it_says_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(address: str, rank: int) -> None:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(address)
        raise ConnectionResetError

    monkeypatch.setattr(exchange, "_called", called)


def no_memory_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int, __: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "ftruncate", full)


def name_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long:
        def __init__(self, prefix: str) -> None: ...

        def __enter__(self) -> str:
            return "/tmp/" + "x" * 200

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(exchange.tempfile, "TemporaryDirectory", Long)


def another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(f"host-{number}" for number in range(99))
    monkeypatch.setattr(socket, "gethostname", lambda: next(names))


@pytest.mark.parametrize(
    "prevent",
    [
        unreachable,
        no_shared_memory,
        memory_cannot_be_mapped,
        gone_before_it_says_who_it_is,
        no_memory_left,
        name_too_long,
        another_machine,
    ],
)
def test_where_one_cannot_connect_none_does(
    prevent: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    prevent(monkeypatch)
    assert as_processes(3, lambda rank, gather: connect_locally(rank, 3, gather, MINUTE)) == [None] * 3
