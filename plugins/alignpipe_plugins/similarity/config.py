"""Options of reward=similarity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import metadata

from alignpipe.errors import ConfigError

_TOKENIZERS = ("13a", "intl", "char", "zh", "none")
"""Those of sacrebleu that need no download and no further package."""


class Metric(Enum):
    """What is computed; the value is the distribution that computes it."""

    bleu = ("bleu", "sacrebleu")
    chrf = ("chrf", "sacrebleu")
    chrf_pp = ("chrf_pp", "sacrebleu")
    rouge1 = ("rouge1", "rouge-score")
    rouge2 = ("rouge2", "rouge-score")
    rougeL = ("rougeL", "rouge-score")
    wer = ("wer", "jiwer")
    cer = ("cer", "jiwer")

    @property
    def library(self) -> str:
        """The distribution that computes it."""
        return self.value[1]


@dataclass(frozen=True)
class SimilarityConfig:
    """Which metric against which reference, and which differences do not count."""

    metric: Metric = field(
        default=Metric.chrf,
        metadata={"help": "bleu, chrf, chrf_pp, rouge1, rouge2, rougeL, wer (1 - wer), cer (1 - cer)"},
    )
    column: str = field(
        default="reference", metadata={"help": "column of the prompt's row with the reference text, or a list of them"}
    )
    ignore_case: bool = field(default=False, metadata={"help": "whether case does not count (in rouge it never does)"})
    ignore_punctuation: bool = field(
        default=False, metadata={"help": "whether punctuation does not count (in rouge it never does)"}
    )
    bleu_tokenizer: str = field(
        default="13a", metadata={"help": "bleu: sacrebleu's tokenizer: 13a, intl, char, zh, none"}
    )
    stem: bool = field(default=False, metadata={"help": "rouge: whether refunds counts as refund (English)"})

    def __post_init__(self) -> None:
        if not self.column.strip():
            raise ValueError("column is empty; name the column with the reference text")
        if self.stem and not self.metric.name.startswith("rouge"):
            raise ValueError(f"stem=true is for the rouge metrics, but metric={self.metric.name}")
        if self.bleu_tokenizer not in _TOKENIZERS:
            raise ValueError(f"bleu_tokenizer must be one of {', '.join(_TOKENIZERS)}; got {self.bleu_tokenizer}")
        if self.bleu_tokenizer != "13a" and self.metric is not Metric.bleu:
            raise ValueError(f"bleu_tokenizer={self.bleu_tokenizer} is for bleu, but metric={self.metric.name}")

    def revision(self) -> Mapping[str, str]:
        """The version of the library that computes the metric, for the stage key.

        Raises `ConfigError` if it is not installed.
        """
        try:
            return {self.metric.library: metadata.version(self.metric.library)}
        except metadata.PackageNotFoundError as error:
            raise missing(self.metric) from error


def missing(metric: Metric) -> ConfigError:
    """What to say when a metric's library cannot be imported."""
    return ConfigError(
        f"reward similarity with metric={metric.name} needs {metric.library}, which is not installed: "
        "pip install 'alignpipe[similarity]'"
    )
