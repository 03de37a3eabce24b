"""The gold reward of the support world: what a perfect judge would say, in named parts. Never trained on by default."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from alignpipe.api import BuildContext, Sample, Scores
from alignpipe.errors import RewardError
from alignpipe_plugins.support.config import SupportGoldConfig
from alignpipe_plugins.support.world import NAMES, PROBLEMS, PRODUCTS, REMEDY_WORDS

WEIGHTS: Mapping[str, float] = {"name": 0.25, "product": 0.2, "remedy": 0.35, "tone": 0.1, "focus": 0.1}
"""What each part counts; parts lie in [-1, 1], so the total does too."""

_WORD = re.compile(r"[A-Za-z]+")
_MOST_WORDS = 22
"""The longest answer that says everything and nothing more."""


class SupportGold:
    """Scores an answer against the facts in the prompt's row."""

    columns: Mapping[str, str] = {"customer": NAMES[0], "product": PRODUCTS[0], "problem": next(iter(PROBLEMS))}

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One total per sample and its five parts, each in [-1, 1]."""
        rows = [judge(sample.response, sample.row, sample.ended) for sample in samples]
        total = [sum(WEIGHTS[part] * row[part] for part in WEIGHTS) for row in rows]
        return Scores(total=total, parts={part: [row[part] for row in rows] for part in WEIGHTS})


def build(config: SupportGoldConfig, context: BuildContext) -> SupportGold:
    """The component's factory."""
    return SupportGold()


def judge(answer: str, facts: Mapping[str, Any], ended: bool = True) -> dict[str, float]:
    """The parts of one answer: right is 1, missing is 0, wrong is -1.

    Raises `RewardError` if the row does not come from the support world.
    """
    if not {"customer", "product", "problem"} <= facts.keys():
        raise RewardError(
            "reward support_gold judges rows of data=support only: the row has no customer, product and problem"
        )
    words = _WORD.findall(answer)
    lower = {word.lower() for word in words}
    complaint = PROBLEMS[facts["problem"]].complaint
    apologised, thanked = "sorry" in lower, bool({"thank", "thanks"} & lower)
    return {
        "name": _match(set(words) & set(NAMES), facts["customer"]),
        "product": _match(lower & set(PRODUCTS), facts["product"]),
        "remedy": _match(lower & set(REMEDY_WORDS.values()), REMEDY_WORDS[facts["problem"]]),
        "tone": float(apologised - thanked) if complaint else float(thanked - apologised),
        "focus": _focus(answer, words, ended),
    }


def _match(said: set[str], wanted: str) -> float:
    """1 for the wanted word and no other of its kind, 0 for none, -1 as soon as a wrong one is there."""
    if not said:
        return 0.0
    return 1.0 if said == {wanted} else -1.0


def _focus(answer: str, words: Sequence[str], ended: bool) -> float:
    """1 for an answer that ends by itself and says each thing once, -1 for one that rambles, repeats or never ends."""
    sentences = [sentence.strip().lower() for sentence in re.split(r"[.?!]", answer) if sentence.strip()]
    if not ended or not words or len(words) > _MOST_WORDS or len(set(sentences)) < len(sentences):
        return -1.0
    return 1.0 if len(sentences) <= 3 else 0.0
