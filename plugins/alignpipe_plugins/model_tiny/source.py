"""The tiny model: a Llama from a config, and a byte-level BPE tokenizer trained on the run's own text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from alignpipe.api import BuildContext
from alignpipe.training.models import load_causal, load_scorer
from alignpipe.training.packed.models import set_forward
from alignpipe.training.tokens import PAD
from alignpipe_plugins.model_tiny.config import TinyConfig

_END = "<|end|>"


class TinySource:
    """Builds the tiny model and its tokenizer."""

    trains_tokenizer = True

    def __init__(self, config: TinyConfig) -> None:
        self._config = config
        self.shard = config.shard

    def tokenizer(self, texts: Sequence[str]) -> PreTrainedTokenizerBase:
        """A byte-level BPE trained on `texts`; any text can be encoded and decoded without loss."""
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        bpe.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=self._config.vocabulary,
                special_tokens=[PAD, _END],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
        return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=bpe, eos_token=_END, pad_token=PAD, model_max_length=self._config.context
        )

    def context_length(self) -> int | None:
        """The model's context in tokens."""
        return self._config.context

    def base(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
        """A new model with weights drawn from `seed`."""
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self._config.hidden_size,
            intermediate_size=self._config.intermediate_size,
            num_hidden_layers=self._config.layers,
            num_attention_heads=self._config.heads,
            num_key_value_heads=self._config.heads,
            max_position_embeddings=self._config.context,
            # At the usual 0.02 a model this narrow does not learn to copy names from the prompt.
            initializer_range=self._config.hidden_size**-0.5,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._ready(LlamaForCausalLM(config))

    def load(self, folder: Path) -> PreTrainedModel:
        """A checkpoint of an earlier stage, in float32."""
        return self._ready(load_causal(folder, dtype=torch.float32))

    def load_scorer(self, folder: Path) -> PreTrainedModel:
        """The same as a classifier with one output."""
        return self._ready(load_scorer(folder, dtype=torch.float32))

    def adapt(self, model: PreTrainedModel) -> nn.Module:
        """All weights are trained."""
        return model

    def merge(self, model: nn.Module) -> PreTrainedModel:
        """Nothing to fold in."""
        return cast(PreTrainedModel, model)

    def _ready(self, model: PreTrainedModel) -> PreTrainedModel:
        return set_forward(model, self._config.forward, self._config.linear_dtype)


def build(config: TinyConfig, context: BuildContext) -> TinySource:
    """The component's factory."""
    return TinySource(config)
