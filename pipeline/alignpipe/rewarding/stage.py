"""The one reward stage: it wraps every component of the `reward` group, trained or written."""

from __future__ import annotations

import json
from collections.abc import Mapping

from alignpipe.api import Artifact, Reward, Selected, StageContext, TrainableReward
from alignpipe.dataset import Dataset
from alignpipe.errors import PluginError
from alignpipe.rewarding.artifact import save_reward
from alignpipe.rewarding.report_card import report_card


class RewardStage:
    """Builds a reward, trains it if it can be trained, writes its report card, and saves it."""

    def __init__(self, selected: Selected, version: int) -> None:
        self._selected = selected
        self._version = version

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Leave `reward.json`, `report_card.json` and a trained reward's files in the payload.

        Raises `PluginError` if the component builds something that cannot score.
        """
        name = self._selected.name
        reward = ctx.build(self._selected)
        if not isinstance(reward, Reward):
            raise PluginError(
                f"the factory of reward/{name} built a {type(reward).__name__}, which has no score(samples)"
            )
        if isinstance(reward, TrainableReward):
            reward.fit(inputs, ctx)
        data = Dataset(inputs["dataset"].folder)
        card: dict[str, float] = {}
        if data.count("preferences", "heldout"):
            card = report_card(reward, data.rows("preferences", "heldout"), name)
            ctx.log({f"heldout/{figure}": value for figure, value in card.items()})
        else:
            ctx.say("no held-out preferences, so no report card")
        save_reward(ctx.payload, reward, self._selected, self._version)
        (ctx.payload / "report_card.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
