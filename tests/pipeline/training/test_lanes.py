"""Lanes: results in order, every lane its own threads and gradients, the same weights, errors after all have ended."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

from alignpipe.training.lanes import ONE_LANE, Copies, Lanes
from alignpipe.training.models import load_causal
from support import tiny_models
from support.context import FakeContext

TWO = Lanes(2)


def test_results_come_in_the_order_of_the_items_whoever_is_faster() -> None:
    def slow_if_first(item: int) -> tuple[int, str]:
        time.sleep(0.05 if item == 0 else 0.0)
        return item * item, threading.current_thread().name

    found = TWO.map(slow_if_first, range(5))
    assert [square for square, _ in found] == [0, 1, 4, 9, 16]
    assert len({name for _, name in found}) == 2
    assert {name for _, name in ONE_LANE.map(slow_if_first, range(5))} == {threading.current_thread().name}


def test_two_lanes_are_at_work_at_once() -> None:
    meeting = threading.Barrier(2)
    assert TWO.map(lambda _: meeting.wait(timeout=20) >= 0, range(2)) == [True, True]


def test_an_error_is_raised_when_all_lanes_are_done() -> None:
    done = []

    def compute(item: int) -> None:
        if item == 0:
            raise ValueError("the first")
        time.sleep(0.05)
        done.append(item)

    with pytest.raises(ValueError, match="the first"):
        TWO.map(compute, range(4))
    assert sorted(done) == [1, 2, 3]


def test_lanes_within_lanes_are_one() -> None:
    def compute(item: int) -> bool:
        me = threading.current_thread().name
        return TWO.map(lambda _: threading.current_thread().name, range(3)) == [me] * 3

    assert TWO.map(compute, range(4)) == [True] * 4


@pytest.mark.parametrize("gradients", [True, False])
def test_gradients_are_wanted_as_where_it_is_called(gradients: bool) -> None:
    with torch.set_grad_enabled(gradients):
        assert TWO.map(lambda _: torch.is_grad_enabled(), range(2)) == [gradients] * 2


def test_torchs_threads_are_divided_and_nobody_elses_changed() -> None:
    """In a process of its own: what torch does with threads can be set once only."""
    code = """
import threading, torch
from alignpipe.training.lanes import Lanes
torch.set_num_threads(4)
big = torch.ones(300, 300)
def used(_):
    (big @ big).relu_().sum()  # a thread's first parallel operation is where torch sets it up
    return torch.get_num_threads()
found = [Lanes(2).map(used, range(2)), torch.get_num_threads()]
later = []
thread = threading.Thread(target=lambda: later.append(used(0)))
thread.start(); thread.join()
print(found + later)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[[2, 2], 4, 4]"


@pytest.mark.parametrize(
    ("device", "threads", "wanted", "count"),
    [
        ("cpu", 4, None, 2),
        ("cpu", 2, None, 2),
        ("cpu", 1, None, 1),
        ("cpu", 1, 3, 3),
        ("cuda", 4, 2, 1),
    ],
)
def test_how_many(device, threads, wanted, count, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert Lanes.of(FakeContext(tmp_path, device=device, lanes=wanted)).count == count


@pytest.mark.parametrize(
    ("count", "most", "rows", "size"), [(1, 8, 20, 8), (2, 8, 20, 4), (2, 64, 20, 10), (2, 64, 5, 3), (4, 1, 9, 1)]
)
def test_all_lanes_have_work_and_hold_no_more_rows_than_one_would(count, most, rows, size) -> None:
    assert Lanes(count).rows_at_once(most, rows) == size


def test_copies_have_the_weights_of_the_module_and_gradients_of_their_own() -> None:
    model = load_causal(tiny_models.llama())  # its embedding is tied to its head
    model.model.norm.weight.requires_grad_(False)
    copies = Copies(model, Lanes(3))
    ids = torch.tensor([[5, 9, 20, 7]])
    for lane, copied in enumerate(copies):
        (copied(ids).logits[0, lane, 3] * (lane + 1)).backward()
    found = [[None if p.grad is None else p.grad.clone() for p in copied.parameters()] for copied in copies]
    copies.sum_lanes()
    summed = [parameter.grad for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    sum(model(ids).logits[0, lane, 3] * (lane + 1) for lane in range(3)).backward()
    for own, parameter, *parts in zip(summed, model.parameters(), *found, strict=True):
        if own is None:
            assert parameter.grad is None
            continue
        assert torch.equal(own, parts[0] + parts[1] + parts[2])
        torch.testing.assert_close(own, parameter.grad)
    assert sum(parameter is None for parameter in summed) == 1
    assert all(parameter.grad is None for lane in (1, 2) for parameter in copies[lane].parameters())


def test_a_step_of_the_module_moves_all_copies() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    copies = Copies(module, TWO)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    module(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    module.load_state_dict({name: value + 1 for name, value in module.state_dict().items()})
    for (name, own), other in zip(module.state_dict().items(), copies[1].state_dict().values(), strict=True):
        assert torch.equal(own, other), name
    assert len({id(parameter) for copied in copies for parameter in copied.parameters()}) == 8
    copies.train()
    assert all(copied.training for copied in copies)
