"""From the members' scores of one sample to the mix's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, pstdev

from alignpipe_plugins.mix.config import Combine, MixConfig


@dataclass(frozen=True)
class Scale:
    """What a member contributes, by what it scores: gain * score + bias, held between `low` and `high`."""

    gain: float = 1.0
    bias: float = 0.0
    low: float = float("-inf")
    high: float = float("inf")

    def __call__(self, score: float) -> float:
        """The contribution."""
        return min(max(self.gain * score + self.bias, self.low), self.high)

    def keeps(self, score: float) -> bool:
        """Whether the limits leave this score's contribution as it is."""
        return self.low <= self.gain * score + self.bias <= self.high


def combination(config: MixConfig) -> Callable[[Mapping[str, float]], float]:
    """The function from the members' contributions to one number.

    Over an ensemble it is the mean minus `spread_coef` times the standard deviation of the members themselves (divided
    by their number, not by one less): what they do not agree on counts less (Coste et al., arXiv 2310.02743, there with
    the variance).
    """
    if config.combine is Combine.min:
        return lambda given: min(given.values())
    if config.combine is Combine.mean_minus_spread:
        return lambda given: fmean(given.values()) - config.spread_coef * pstdev(given.values())
    weights = weights_of(config)
    return lambda given: sum(weights[name] * value for name, value in given.items())


def weights_of(config: MixConfig) -> dict[str, float]:
    """What each member counts in a weighted sum."""
    return {name: config.weights.get(name, 1.0) for name in config.members}
