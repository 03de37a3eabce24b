"""From samples to the classifier's token ids, with its own tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignpipe.api import Sample
from alignpipe_plugins.pretrained_classifier.config import Layout

Encoded = Mapping[str, list[int]]
"""One text: `input_ids` and whatever else the model reads, a number per token each."""


class Encoder:
    """Encodes samples in one layout; what is longer than `max_length` loses its beginning, since the response is last.

    The tokenizer is changed: it cuts and pads on the sides this needs.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, layout: Layout, template: str, max_length: int | None
    ) -> None:
        self._tokenizer = cast(Any, tokenizer)
        self._tokenizer.truncation_side = "left"
        self._layout = layout
        self._template = template
        self._max_length = max_length

    def __call__(self, sample: Sample) -> Encoded:
        """The ids of one sample; no id at all where there is nothing to read."""
        if self._layout is Layout.pair:
            return self._encode(sample.prompt, sample.response)
        if self._layout is Layout.chat:
            asked = sample.messages or ({"role": "user", "content": sample.prompt},)
            messages = [*map(dict, asked), {"role": "assistant", "content": sample.response}]
            text = str(self._tokenizer.apply_chat_template(messages, tokenize=False))
            return self._encode(text, add_special_tokens=False)  # the template has written them
        said = {"prompt": sample.prompt, "response": sample.response}
        return self._encode(re.sub(r"\{(prompt|response)\}", lambda match: said[match[1]], self._template))

    def _encode(self, *texts: str, **options: Any) -> Encoded:
        limit = {} if self._max_length is None else {"truncation": True, "max_length": self._max_length}
        encoded: Encoded = self._tokenizer(*texts, verbose=False, **limit, **options).data
        return encoded


def padded(texts: Sequence[Encoded], pad_id: int, device: str) -> dict[str, Tensor]:
    """Texts of one batch as tensors [B, L], padded on the right; `pad_id` in the ids, 0 in everything else."""
    longest = max(len(text["input_ids"]) for text in texts)
    return {
        name: torch.tensor(
            [[*text[name], *[pad_id if name == "input_ids" else 0] * (longest - len(text[name]))] for text in texts]
        ).to(device)
        for name in texts[0]
    }
