"""Processes that train together: the same gradients, weights and figures as one process with the whole batch."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alignpipe.errors import ProcessError
from alignpipe.training import parallel
from alignpipe.training.checkpoint import latest_step
from alignpipe.training.parallel import Team
from support import teams, tiny_models
from support.teams import together


@pytest.mark.parametrize("lengths", [[], [5], [3, 1, 2], [4, 4, 1, 9, 2, 2, 7]], ids=len)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_row_has_one_process(lengths: list[int], size: int) -> None:
    shares = [Team(rank, size).share(lengths) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == list(range(len(lengths)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_are_alike_in_length() -> None:
    lengths = [100, 1, 2, 99, 50, 51]
    first, second = (sum(lengths[row] for row in Team(rank, 2).share(lengths)) for rank in range(2))
    assert abs(first - second) <= 3


def test_alone_nothing_changes() -> None:
    team, weight = Team(), torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    team.sum_gradients([weight])
    assert weight.grad.tolist() == [1.0, 2.0]
    assert team.share([3, 1, 2]) == [0, 1, 2]  # in the order they came
    assert (team.gather("x"), team.any(True), team.any(False), team.from_leader(7)) == (["x"], True, False, 7)
    assert team.sum_figures({"a": 0.1}) == {"a": 0.1}
    assert team.spread([2, 1], lambda rows: [f"row {row}" for row in rows]) == ["row 0", "row 1"]


def test_parameters_go_in_buckets_of_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_BUCKET_VALUES", 10)
    sizes = [(4, torch.float32), (5, torch.bfloat16), (6, torch.float32), (1, torch.float32), (20, torch.float32)]
    parameters = [torch.nn.Parameter(torch.zeros(size, dtype=dtype)) for size, dtype in sizes]
    buckets = list(parallel._buckets(parameters))
    assert [[p.numel() for p in bucket] for bucket in buckets] == [[4, 6], [1], [20], [5]]
    assert all(len({p.dtype for p in bucket}) == 1 for bucket in buckets)


def test_a_lost_connection_is_told_in_words() -> None:
    said = "[/src/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:4005. This is typically caused by ..."
    with pytest.raises(ProcessError, match=r"\(Connection closed by peer \S+\); what was saved"), parallel.collective():
        raise RuntimeError(said)


CASES = [([0, 1, 2, 3, 4], [1, 3]), ([2], [4, 4])]
"""Rows, and the micro-batch sizes of the two processes; a batch of one row leaves the second process without any."""


@pytest.fixture(scope="module", params=["local", "gloo"])
def way(request: pytest.FixtureRequest) -> str:
    """How the processes reach each other: as those of one machine do, or as those of several."""
    return str(request.param)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, way: str) -> Path:
    return tmp_path_factory.mktemp(way)


@pytest.fixture(scope="module")
def both(root: Path, way: str) -> list[dict[str, Any]]:
    """What two processes did, by rank."""
    return together("support.teams:everything", root, tiny_models.llama(), CASES, way)


@pytest.mark.slow
def test_they_agree(both: list[dict[str, Any]], way: str) -> None:
    assert [result["local"] for result in both] == [way == "local" and sys.platform == "linux"] * 2
    first, second = (dict(result["told"]) for result in both)
    assert (first.pop("leads"), second.pop("leads")) == (True, False)
    assert first == second
    assert first["gathered"] == [{"rank": 0}, {"rank": 1}]
    assert first["any"] == [True, True, False]
    assert first["from_leader"] == 5
    assert first["sums"] == {"a": 0.1 + 0.2, "b": 1.0}
    assert first["sum"] == [2.0, 10.0]
    assert first["spread"] == ["0 by 1", "1 by 0", "2 by 0"], "dealt out by length"
    assert first["one"] == ["0 by 0"], "and nothing for the other"
    assert first["read"] == "by rank 0"


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=["uneven micro-batches", "one row"])
def test_gradients_are_those_of_one_process(both: list[dict[str, Any]], tmp_path: Path, case: int) -> None:
    alone = teams.gradients(tmp_path, 0, *CASES[case])
    for result in both:
        summed = result["summed"][case]
        assert summed["never"] is None, "weight decay would move it"
        assert summed["frozen"] is None
        for name in ("often", "once"):
            torch.testing.assert_close(summed[name], alone[name], rtol=0, atol=1e-6 * float(alone[name].abs().max()))


@pytest.mark.slow
def test_a_stop_for_one_is_a_stop_for_all_and_rank_0_saves(both: list[dict[str, Any]], root: Path) -> None:
    assert [result["before"][2] for result in both] == [True, True]
    assert latest_step(root / "copy" / "work") == 4


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_resumed_by_as_many_or_fewer_it_ends_as_one_process_does(
    both: list[dict[str, Any]], root: Path, tmp_path: Path, count: int
) -> None:
    weights, logged, _ = teams.learn(tmp_path / "whole", 0, tiny_models.llama(), micro_batch_size=4)
    if count == 1:
        shutil.copytree(root / "copy", tmp_path / "rest")
        after = [teams.learn(tmp_path / "rest", 0, tiny_models.llama())]
    else:
        after = [result["after"] for result in both]
    for ended, _, interrupted in after:
        assert not interrupted
        assert all(torch.equal(ended[name], after[0][0][name]) for name in ended), "the processes drift apart"
        for name, value in weights.items():
            torch.testing.assert_close(ended[name], value, rtol=0, atol=1e-5)
    assert metrics([*both[0]["before"][1], *after[0][1]]) == pytest.approx(metrics(logged), abs=1e-5)


def metrics(logged: list[tuple[int, dict[str, float]]]) -> dict[tuple[int, str], float]:
    return {(step, name): value for step, figures in logged for name, value in figures.items()}
