"""The stage of data=support: demonstrations, preferences and prompts, each drawn from a stream of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from alignpipe.api import Artifact, BuildContext, Split, StageContext, Table
from alignpipe.dataset import Gold, write_dataset
from alignpipe.errors import DataError
from alignpipe_plugins.support.config import SupportConfig
from alignpipe_plugins.support.gold import WEIGHTS, judge
from alignpipe_plugins.support.plugin import GOLD_VERSION
from alignpipe_plugins.support.world import DRAFTS, Case, Habits, sample_answer, sample_case, sample_pair

_PATIENCE = 1000
"""Draws without a new prompt (or without two different scores) after which the world is taken to be used up."""


class SupportStage:
    """Generates the support world's data."""

    def __init__(self, config: SupportConfig, seed: int) -> None:
        self._config = config
        self._seed = seed

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Write the three tables; no prompt of a held-out split occurs in any training split."""
        config = self._config
        cases = _unseen_cases(Random(f"{self._seed}/prompts"))
        random = Random(f"{self._seed}/answers")
        sizes: Mapping[Split, Mapping[Table, int]] = {
            "heldout": dict.fromkeys(("demonstrations", "preferences", "prompts"), config.heldout),
            "train": {
                "demonstrations": config.demonstrations,
                "preferences": config.preferences,
                "prompts": config.prompts,
            },
        }
        tables: dict[Table, dict[Split, list[dict[str, Any]]]] = {
            "demonstrations": {},
            "preferences": {},
            "prompts": {},
        }
        for split, counts in sizes.items():
            noise = config.label_noise if split == "train" else 0.0
            tables["demonstrations"][split] = [
                _demonstration(next(cases), random) for _ in range(counts["demonstrations"])
            ]
            tables["preferences"][split] = [
                _preference(next(cases), noise, random) for _ in range(counts["preferences"])
            ]
            tables["prompts"][split] = [_row(next(cases)) for _ in range(counts["prompts"])]
        write_dataset(ctx.payload, tables, Gold("support_gold", GOLD_VERSION))
        ctx.log(
            {f"rows/{table}/{split}": len(rows) for table, by in tables.items() for split, rows in by.items()}, step=0
        )


def build(config: SupportConfig, context: BuildContext) -> SupportStage:
    """The component's factory."""
    return SupportStage(config, context.seed)


def _unseen_cases(random: Random) -> Iterator[Case]:
    """Cases with prompts that were not given out before; raises `DataError` when there are no more."""
    seen: set[str] = set()
    misses = 0
    while misses < _PATIENCE:
        case = sample_case(random)
        if case.prompt() in seen:
            misses += 1
            continue
        misses = 0
        seen.add(case.prompt())
        yield case
    raise DataError(
        f"the support world has no more than about {len(seen)} prompts: lower data.demonstrations, data.preferences or "
        "data.prompts"
    )


def _row(case: Case) -> dict[str, Any]:
    return {"prompt": case.prompt(), "messages": [], **case.facts()}


def _demonstration(case: Case, random: Random) -> dict[str, Any]:
    return {**_row(case), "completion": sample_answer(case, Habits(), random)}


def _preference(case: Case, noise: float, random: Random) -> dict[str, Any]:
    """Two answers with different gold scores, the better one chosen unless the label is flipped."""
    while True:
        worse, better = sorted(sample_pair(case, DRAFTS, random), key=lambda answer: gold_score(answer, case))
        if gold_score(better, case) > gold_score(worse, case):
            break
    if random.random() < noise:
        worse, better = better, worse
    return {**_row(case), "chosen": better, "rejected": worse}


def gold_score(answer: str, case: Case) -> float:
    """The gold total of one answer, in [-1, 1]."""
    parts = judge(answer, case.facts())
    return sum(WEIGHTS[part] * parts[part] for part in WEIGHTS)
