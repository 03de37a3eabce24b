"""Options of reward=pretrained_classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from alignpipe.options import Precision, check_at_least


class Output(Enum):
    """Which number of the label is the score."""

    logit = "logit"
    probability = "probability"
    log_odds = "log_odds"


class Layout(Enum):
    """How prompt and response become the classifier's input."""

    text = "text"
    """One text, made by the template."""
    pair = "pair"
    """Two texts, prompt and response, as the tokenizer joins pairs."""
    chat = "chat"
    """The conversation and the response through the tokenizer's chat template."""


@dataclass(frozen=True)
class PretrainedClassifierConfig:
    """Which classifier, what of it is the score, and how it is asked."""

    path: str = field(
        default="???",
        metadata={"help": "a checkpoint folder (relative to where the command is given), or a hub name"},
    )
    hub_revision: str | None = field(default=None, metadata={"help": "hub names: commit, tag or branch; unset: main"})
    label: str | None = field(
        default=None,
        metadata={"help": "name or number of the label that counts; may be left out for a model with one output"},
    )
    output: Output = field(
        default=Output.logit, metadata={"help": "logit, probability, or log_odds (of the label against all others)"}
    )
    sign: int = field(default=1, metadata={"help": "1, or -1 where the label is what answers should not be"})
    layout: Layout = field(
        default=Layout.text, metadata={"help": "text (template), pair (prompt and response), chat (chat template)"}
    )
    template: str = field(
        default="{prompt}{response}",
        metadata={"help": "layout=text: what is classified; '{response}' alone is allowed"},
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "most tokens; longer texts lose their beginning; unset: what the model can read"},
    )
    dtype: Precision = field(
        default=Precision.float32, metadata={"help": "type of the weights: auto, float32, bfloat16, float16"}
    )
    batch_size: int = field(
        default=32, metadata={"help": "texts in one forward pass; never changes the result", "fingerprint": False}
    )
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1 ...; unset: the run's", "fingerprint": False}
    )

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError("path is empty; give a checkpoint folder or a hub name")
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, got {self.sign}")
        if "{response}" not in self.template:
            raise ValueError(
                f"template must hold {{response}}, or every answer would score the same; got {self.template!r}"
            )
        check_at_least(self, 1, "batch_size")
        if self.max_length is not None:
            check_at_least(self, 8, "max_length")

    def revision(self) -> Mapping[str, str]:
        """What the classifier is, for the stage key: a digest of a folder's files, or a hub name with its commit.

        Raises `ModelError` for a folder that is no checkpoint and a hub name that cannot be reached, `ConfigError` for
        a label that its config does not name.
        """
        from alignpipe.training.location import resolve_model
        from alignpipe_plugins.pretrained_classifier.labels import choose, published

        where = resolve_model(self.path, self.hub_revision, "reward")
        labels = published(where)
        if labels is not None:
            choose(self.label, labels, self.path)
        return {"model": where.fingerprint()}
