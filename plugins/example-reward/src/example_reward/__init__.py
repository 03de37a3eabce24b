"""reward=example_reward: a rule that looks for a polite word. Replace it with what you want to reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from alignpipe.rewards import Sample, Scores, reward


@dataclass(frozen=True)
class Options:
    """What can be set: reward.<field>=<value>."""

    word: str = field(default="please", metadata={"help": "the word that is looked for"})
    most: int = field(default=2, metadata={"help": "more of them earn no more"})

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most must be at least 1, got {self.most}")


@reward("example_reward", Options)
def score(samples: Sequence[Sample], options: Options) -> Scores:
    """Answers with a polite word that were not cut short.

    One number per sample, and by name the parts it is made of: each becomes a curve and a column.
    """
    found = [sample.response.lower().count(options.word.lower()) for sample in samples]
    word = [min(count, options.most) / options.most for count in found]
    cut = [0.0 if sample.ended else -0.5 for sample in samples]
    return Scores([one + other for one, other in zip(word, cut, strict=True)], parts={"word": word, "cut": cut})
