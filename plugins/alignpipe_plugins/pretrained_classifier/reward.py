"""The classifier as a reward: one number of one label, per text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignpipe.api import BuildContext, Failure, Sample, Scores
from alignpipe.errors import ConfigError, ModelError
from alignpipe.ops.classification import softmax_log_odds
from alignpipe.training.location import resolve_model
from alignpipe.training.models import context_length, load_classifier, load_plain_tokenizer
from alignpipe.training.ordering import by_length
from alignpipe_plugins.pretrained_classifier.config import Layout, Output, PretrainedClassifierConfig
from alignpipe_plugins.pretrained_classifier.inputs import Encoder, padded
from alignpipe_plugins.pretrained_classifier.labels import choose, numbered


class ClassifierReward:
    """Reads every response with the classifier's own tokenizer, never the policy's ids."""

    def __init__(self, config: PretrainedClassifierConfig, device: str) -> None:
        where = resolve_model(config.path, config.hub_revision, "reward")
        try:
            tokenizer = load_plain_tokenizer(where.name, where.commit)
            model = load_classifier(where.name, where.commit, dtype=config.dtype.value)
        except ModelError as error:
            raise ModelError(f"reward.path={config.path}: {error}") from error
        if config.layout is Layout.chat and not tokenizer.chat_template:
            raise ConfigError(
                f"reward.layout=chat: the tokenizer of {config.path} has no chat template; use text or pair"
            )
        self._config = config
        self._device = device
        self._label = choose(config.label, numbered(model.config.id2label or {}), config.path)
        self._pad_id = _pad_id(model, tokenizer)
        self._encode = Encoder(tokenizer, config.layout, config.template, _most_tokens(config, model, tokenizer))
        self._model = cast(Any, model).to(device).eval()

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number per sample; a sample whose text has no tokens is a failure of kind `refused`."""
        texts = [self._encode(sample) for sample in samples]
        lengths = [len(text["input_ids"]) for text in texts]
        failures = {
            index: Failure("refused", "there is no text to classify")
            for index, length in enumerate(lengths)
            if not length
        }
        there = [index for index, length in enumerate(lengths) if length]
        total = [math.nan] * len(samples)
        # Without a pad id the model finds a text's end only where it is the row's, so each is read by itself.
        size = 1 if self._pad_id is None else self._config.batch_size
        for rows in by_length(lengths, size, rows=there):
            batch = padded([texts[row] for row in rows], self._pad_id or 0, self._device)
            with torch.no_grad():
                values = self._values(self._model(**batch).logits.float())
            for row, value in zip(rows, values.tolist(), strict=True):
                total[row] = self._config.sign * value
        return Scores(total, failures=failures)

    def _values(self, logits: Tensor) -> Tensor:
        """The chosen number [B] of the label, from logits [B, K]."""
        several = logits.shape[-1] > 1 and self._model.config.problem_type != "multi_label_classification"
        if self._config.output is Output.logit or not several:
            odds = logits[:, self._label]
        else:
            odds = softmax_log_odds(logits, self._label)
        return torch.sigmoid(odds) if self._config.output is Output.probability else odds


def _pad_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that fills rows: the model's own, since that is what it skips when it looks for a text's end."""
    pad_id: int | None = model.config.pad_token_id
    if pad_id is None and tokenizer.pad_token_id is not None:
        pad_id = int(cast(int, tokenizer.pad_token_id))
        model.config.pad_token_id = pad_id
    return pad_id


def _most_tokens(
    config: PretrainedClassifierConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> int | None:
    """The least of what the config allows, the model's context, and what its tokenizer says (RoBERTa's is shorter)."""
    limits = (config.max_length, context_length(model), tokenizer.model_max_length)
    known = [int(limit) for limit in limits if limit is not None and limit < 1_000_000]
    return min(known, default=None)


def build(config: PretrainedClassifierConfig, context: BuildContext) -> ClassifierReward:
    """The component's factory."""
    return ClassifierReward(config, config.device or context.device)
