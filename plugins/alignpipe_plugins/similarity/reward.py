"""Comparing a response with the reference text of its prompt's row."""

from __future__ import annotations

from collections.abc import Sequence

from alignpipe.api import BuildContext, Failure, Sample, Scores
from alignpipe.ops.text import folded
from alignpipe_plugins.similarity.config import SimilarityConfig
from alignpipe_plugins.similarity.metrics import comparison


class SimilarityReward:
    """One metric, computed for each response by itself."""

    def __init__(self, config: SimilarityConfig) -> None:
        self._config = config
        self._compare = comparison(config)
        self.columns = (config.column,)

    def score(self, samples: Sequence[Sample]) -> Scores:
        """The metric per sample, higher is better; a row without a reference text is a failure of kind `refused`."""
        total: list[float] = []
        failures: dict[int, Failure] = {}
        for index, sample in enumerate(samples):
            references = self._references(sample)
            if references:
                total.append(self._compare(self._folded(sample.response), references))
            else:
                failures[index] = Failure("refused", f"the row has no text in its column {self._config.column!r}")
                total.append(float("nan"))
        return Scores(total, failures=failures)

    def _references(self, sample: Sample) -> list[str]:
        """The reference texts of the row; one in which nothing is left to compare does not count."""
        value = sample.row.get(self._config.column)
        texts = value if isinstance(value, list | tuple) else [value]
        references = [self._folded(text) for text in texts if isinstance(text, str)]
        return [text for text in references if text]

    def _folded(self, text: str) -> str:
        config = self._config
        return folded(text, case=config.ignore_case, white_space=True, punctuation=config.ignore_punctuation)


def build(config: SimilarityConfig, context: BuildContext) -> SimilarityReward:
    """The component's factory."""
    return SimilarityReward(config)
