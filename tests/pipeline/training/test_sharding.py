"""A model split over two processes: gradients, weights and figures of one process, and checkpoints that it can read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from alignpipe.errors import ConfigError
from alignpipe.training.checkpoint import latest_step
from alignpipe.training.lanes import Copies
from alignpipe.training.parallel import Team, join
from alignpipe.training.sharding import Shards, copies_of
from support import split, teams, tiny_models
from support.context import FakeContext
from support.teams import together
from support.token_rows import ROWS


@pytest.mark.parametrize("rows", range(8))
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("processes", [2, 3])
def test_all_processes_make_as_many_passes(rows: int, size: int, processes: int) -> None:
    passes = []
    for rank in range(processes):
        team = Team(rank, processes, shard=True)
        shards = Shards.__new__(Shards)
        shards._team = team
        own = team.share([1] * rows)
        passes.append(-(-len(own) // size) + shards.needs_empty_pass(rows, size))
    assert len(set(passes)) == 1


def test_alone_there_is_nothing_to_split_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError, match=r"model\.shard=true .* there is only this one: start several"):
        join(FakeContext(tmp_path), shard=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    team = join(FakeContext(tmp_path), shard=True)  # a stage that rank 0 runs alone
    assert (team.size, team.shard) == (1, False)


def test_without_sharding_there_are_copies() -> None:
    copies = copies_of(nn.Linear(2, 1), Team(0, 2))
    assert type(copies) is Copies
    assert not copies.needs_empty_pass(1, 1)


def test_weights_of_two_types_are_refused() -> None:
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to(torch.bfloat16))
    with pytest.raises(ConfigError, match=r"model\.shard=true needs .* these are bfloat16 and float32"):
        copies_of(mixed, Team(0, 2, shard=True))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("split")


@pytest.fixture(scope="module")
def both(root: Path) -> list[dict[str, Any]]:
    """What two processes did, by rank."""
    return together("support.split:everything", root, tiny_models.llama())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["policy", "adapted", "scorer"])
def test_each_process_holds_a_part_and_the_gradients_are_those_of_one(both: list[dict[str, Any]], name: str) -> None:
    network, loss = split.networks()[name]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    values = sum(parameter.numel() for parameter in trained)
    loss(network, ROWS).loss.backward()
    gradients = [parameter.grad.clone() for parameter in trained]
    norm = float(nn.utils.clip_grad_norm_(trained, split.CLIP))
    assert norm > split.CLIP
    found = [result["parts"][name] for result in both]
    assert sum(part["held"] for part in found) == values
    assert max(part["held"] for part in found) < 0.6 * values
    assert [part["left"] for part in found] == [0, 0]
    assert [part["needs_empty_pass"] for part in found] == [False, True]
    for part in found:
        assert part["norm"] == pytest.approx(norm, rel=1e-5)
        for mine, whole in zip(part["gradients"], gradients, strict=True):
            torch.testing.assert_close(mine, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
        for mine, parameter in zip(part["clipped"], trained, strict=True):
            torch.testing.assert_close(mine, parameter.grad, rtol=0, atol=1e-5 * float(parameter.grad.abs().max()))
        for key, value in network.state_dict().items():
            assert torch.equal(part["weights"][key], value), key


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_same_bytes(both: list[dict[str, Any]], root: Path) -> None:
    assert [result["before"][2] for result in both] == [True, True]
    assert latest_step(root / "copy" / "work") == 4
    wanted = both[0]["undisturbed"][0]
    for result in both:
        for which in ("after", "undisturbed"):
            assert all(torch.equal(result[which][0][name], wanted[name]) for name in wanted)


@pytest.mark.slow
def test_one_process_comes_to_the_same_and_reads_the_checkpoint(
    both: list[dict[str, Any]], root: Path, tmp_path: Path
) -> None:
    shutil.copytree(root / "copy", tmp_path / "rest")
    alone = teams.learn(tmp_path / "whole", 0, tiny_models.llama(), micro_batch_size=4)
    rest = teams.learn(tmp_path / "rest", 0, tiny_models.llama())
    for found in (both[0]["undisturbed"], rest):
        for name, value in alone[0].items():
            torch.testing.assert_close(found[0][name], value, rtol=0, atol=1e-5)
    assert metrics(both[0]["undisturbed"][1]) == pytest.approx(metrics(alone[1]), abs=1e-5)


@pytest.mark.slow
def test_the_state_of_the_optimiser_is_written_as_one_process_writes_it(
    both: list[dict[str, Any]], root: Path, tmp_path: Path
) -> None:
    teams.learn(tmp_path, 0, tiny_models.llama(), stop=True)
    states = [
        torch.load(folder / "work" / "checkpoints" / "step-00000004" / "state.pt", weights_only=True)["optimizers"]
        for folder in (root / "copy", tmp_path)
    ]
    found, wanted = (state["optimizer"] for state in states)
    assert found["param_groups"] == wanted["param_groups"]
    assert found["state"].keys() == wanted["state"].keys()
    for number, entries in wanted["state"].items():
        assert found["state"][number].keys() == entries.keys()
        for name, value in entries.items():
            mine = found["state"][number][name]
            assert type(mine) is torch.Tensor
            torch.testing.assert_close(mine, value, rtol=0, atol=1e-5 * max(1.0, float(value.abs().max())))


@pytest.mark.slow
def test_ppo_splits_policy_and_critic(both: list[dict[str, Any]], tmp_path: Path) -> None:
    weights, logged = split.trained(tmp_path, 0, Team())
    for result in both:
        found = result["ppo"][0]
        for name, value in weights.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4)
        for name, value in found.items():
            assert torch.equal(both[0]["ppo"][0][name], value), "the processes drift apart"
            assert torch.equal(result["ppo after"][0][name], value), "stopped and resumed it ends elsewhere"
    found, wanted = metrics(both[0]["ppo"][1]), metrics(logged)
    for step, name in wanted:
        # A share of tokens jumps when one token lies at the edge of the clip range.
        near = 0.02 if "clipfrac" in name else 1e-3
        assert found[step, name] == pytest.approx(wanted[step, name], rel=1e-3, abs=near), (step, name)
    assert found.keys() == wanted.keys()


@pytest.mark.slow
def test_a_process_that_is_left_in_a_pass_says_so(both: list[dict[str, Any]]) -> None:
    assert "another process of this run has ended or cannot be reached" in both[0]["deserted"]


def test_other_errors_of_a_pass_stay_what_they_are() -> None:
    shards = Shards.__new__(Shards)
    with pytest.raises(RuntimeError, match="out of memory"):
        shards.map(fail)


def fail(lane: int) -> None:
    raise RuntimeError(f"lane {lane} is out of memory")


def metrics(logged: list[tuple[int, dict[str, float]]]) -> dict[tuple[int, str], float]:
    return {(step, name): value for step, figures in logged for name, value in figures.items()}
