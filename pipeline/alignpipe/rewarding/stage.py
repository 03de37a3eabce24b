"""The one reward stage: it wraps every component of the `reward` group, trained or written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from alignpipe.api import Artifact, CheckContext, Reward, Selected, Split, StageContext, TrainableReward
from alignpipe.dataset import Dataset, Row
from alignpipe.errors import DataError
from alignpipe.rewarding.artifact import label, save_reward
from alignpipe.rewarding.judge import Judge, TooFewScores
from alignpipe.rewarding.report_card import report_card


class RewardStage:
    """Builds a reward, trains it if it can be trained, writes its report card, and saves it."""

    def __init__(self, selected: Selected, version: int, offered_by: str) -> None:
        self._selected = selected
        self._version = version
        self._offered_by = offered_by

    def check_ahead(self, inputs: Mapping[str, Artifact], ctx: CheckContext) -> None:
        """Raise `DataError` for data without a column that the reward reads, where it will be asked about them."""
        judge = Judge(ctx.build(self._selected), label(self._selected.name, self._offered_by))
        data = Dataset(inputs["dataset"].folder)
        _check_columns(judge, data)
        _check_prompts(judge, data, getattr(ctx, "asked", ()))

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Leave `reward.json`, `report_card.json` and a trained reward's files in the payload.

        Several processes train a reward together; rank 0 does the rest.

        Raises `DataError` for data without a column that the reward reads, before anything is trained.
        """
        name = self._selected.name
        reward: Reward = ctx.build(self._selected)
        judge = Judge(reward, label(name, self._offered_by), ctx.scoring)
        data = Dataset(inputs["dataset"].folder)
        _check_columns(judge, data)
        if isinstance(reward, TrainableReward):
            reward.fit(inputs, ctx)
        if ctx.rank > 0:
            return
        rows = _pairs(judge, data, ctx)
        card = _card(judge, rows, ctx) if rows else {}
        if card:
            ctx.log({f"heldout/{figure}": value for figure, value in card.items()})
        save_reward(ctx.payload, reward, self._selected, self._version, self._offered_by)
        (ctx.payload / "report_card.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")


def _check_columns(judge: Judge, data: Dataset) -> None:
    """Refuse data that has a column the reward reads neither in its prompts nor in its pairs: nothing could be scored.

    What has it in the pairs alone is for a report card.
    """
    pairs = data.rows("preferences", "heldout") if data.count("preferences", "heldout") else []
    if pairs and judge.can_read(pairs):
        return
    _check_prompts(judge, data, ("train", "heldout"))


def _check_prompts(judge: Judge, data: Dataset, splits: Sequence[Split]) -> None:
    for split in splits:
        if data.count("prompts", split):
            what = {"train": "training prompts", "heldout": "held-out prompts"}[split]
            judge.check_columns(data.rows("prompts", split), what)


def _card(judge: Judge, rows: Sequence[Row], ctx: StageContext) -> dict[str, float]:
    """The report card; none, and a word why, for a reward that is for other samples than these."""
    try:
        card = report_card(judge, rows)
    except TooFewScores as error:
        ctx.say(f"no report card: {error}")
        return {}
    if not card:
        ctx.say("no report card: of no held-out pair both answers have a score")
    return card


def _pairs(judge: Judge, data: Dataset, ctx: StageContext) -> Sequence[Row]:
    """The held-out pairs for the report card; none, and a word why, if there are none that the reward could read."""
    if not data.count("preferences", "heldout"):
        ctx.say("no held-out preferences, so no report card")
        return []
    rows = data.rows("preferences", "heldout")
    try:
        judge.check_columns(rows, "held-out preferences", "so there is no report card")
    except DataError as lacking:  # what is practised on may have the column all the same
        ctx.say(str(lacking))
        return []
    return rows
