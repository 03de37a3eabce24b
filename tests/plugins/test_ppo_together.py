"""Scores of several processes, put together: the same as one process gets; and one process keeps the episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from alignpipe.api import Failure, Sample, Scores, Scoring
from alignpipe.errors import RewardError
from alignpipe.rewarding.judge import Judge
from alignpipe.training.parallel import ALONE, Team
from alignpipe_plugins.ppo.kept import FILE, KeptEpisodes
from alignpipe_plugins.ppo.together import score_together
from support import ppo

SAMPLES = [
    Sample(f"prompt {number}", f"answer {number}", response_ids=list(range(1 + number * 3 % 5))) for number in range(7)
]


class Odd:
    """Fails on some samples, has a part, and splits its scores over tokens."""

    def __init__(self, *fails: int) -> None:
        self.fails = fails

    def score(self, samples: Sequence[Sample]) -> Scores:
        numbers = [int(sample.prompt.split()[1]) for sample in samples]
        return Scores(
            total=[float(number) for number in numbers],
            parts={"half": [number / 2 for number in numbers]},
            per_token=[
                [number / len(sample.response_ids)] * len(sample.response_ids)
                for number, sample in zip(numbers, samples, strict=True)
            ],
            failures={place: Failure("refused", "no") for place, number in enumerate(numbers) if number in self.fails},
        )


class Gathered(Team):
    """A process whose team is asked here, one after the other."""

    def __init__(self, rank: int, size: int, brought: list[Any]) -> None:
        super().__init__(rank, size)
        self.brought = brought

    def gather(self, item: Any) -> list[Any]:
        self.brought.append(item)
        return self.brought


def plain(scored: Any) -> Mapping[str, Any]:
    """Comparable: NaN is not equal to itself."""
    return {
        "total": ["none" if math.isnan(value) else value for value in scored.total],
        "parts": {name: ["none" if math.isnan(v) else v for v in column] for name, column in scored.parts.items()},
        "per_token": scored.per_token,
        "failures": dict(scored.failures),
    }


@pytest.mark.parametrize("size", [2, 3, 9])
def test_the_scores_are_those_of_one_process(size: int) -> None:
    judge = Judge(Odd(3), "odd", Scoring(failure_budget=0.2))
    wanted = plain(score_together(ALONE, judge, SAMPLES))
    assert wanted["failures"] == {3: Failure("refused", "no")}
    brought: list[Any] = []
    for rank in range(size):
        last = score_together(Gathered(rank, size, brought), judge, SAMPLES)
    assert plain(last) == wanted


def test_too_many_failures_are_counted_over_all() -> None:
    judge = Judge(Odd(3, 4), "reward odd", Scoring(failure_budget=0.2))  # one of the two in each share
    brought: list[Any] = []
    score_together(Gathered(0, 2, brought), judge, SAMPLES)
    with pytest.raises(RewardError, match=r"reward odd failed on 2 of 7 samples \(refused: 2\).*'prompt 3'"):
        score_together(Gathered(1, 2, brought), judge, SAMPLES)


def test_a_share_is_held_against_the_budget_of_all() -> None:
    share = SAMPLES[2:4]
    assert Judge(Odd(3), "reward odd", Scoring(failure_budget=0.2)).score_share(share, of=7).kept == [0]
    with pytest.raises(RewardError, match="failed on 1 of 2 samples"):
        Judge(Odd(3), "reward odd", Scoring(failure_budget=0.2)).score(share)


def test_one_process_keeps_the_episodes(tmp_path: Path) -> None:
    episodes = ppo.make_episodes(ppo.make_players())
    for rank in (1, 0):
        kept = KeptEpisodes(tmp_path, Team(rank, 2))
        kept.add(1, episodes, torch.zeros(len(episodes.responses)))
        kept.rewind(0 if rank else 1)
        assert len(list(tmp_path.iterdir())) == 1 - rank


def test_what_is_only_half_on_the_disk_comes_after_the_checkpoint(tmp_path: Path) -> None:
    """After a power cut pages may be zeros, in the middle of lines; what a checkpoint counts on was synced."""
    kept, path = KeptEpisodes(tmp_path, ALONE), tmp_path / "rollouts.jsonl"
    episodes = ppo.make_episodes(ppo.make_players())
    kept.add(1, episodes, torch.zeros(len(episodes.responses)))
    whole = path.read_bytes()
    for tail in (b'{"update": 2, "pro', b"\0" * 90 + b'rompt": ""}\n{"update": 2}\n'):
        path.write_bytes(whole + tail)
        kept.rewind(1)
        assert path.read_bytes() == whole


def test_whatever_a_model_writes_is_one_line(tmp_path: Path) -> None:
    episodes = ppo.make_episodes(ppo.make_players())
    odd = ["a\x85b", "c\u2028d", "e\x0bf\x1c", "g\nh\r"]
    samples = [Sample("prompt", odd[row % 4]) for row in range(len(episodes.responses))]
    kept = KeptEpisodes(tmp_path, ALONE)
    kept.add(1, replace(episodes, samples=samples), torch.zeros(len(samples)))
    kept.rewind(1)
    kept.write(tmp_path)
    assert pq.read_table(tmp_path / FILE)["completion"].to_pylist() == [sample.response for sample in samples]
