"""From text to token ids: prompts and responses are encoded apart, so that the boundary never moves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from alignpipe.errors import DataError, ModelError, first_line
from alignpipe.training.parallel import Team

T = TypeVar("T")

PAD = "<|pad|>"
_AT_ONCE = 1024
"""Texts that a tokenizer is given together: of each it holds far more than the ids until all are done."""


class RefusedByTemplate(DataError):
    """A conversation that the model's chat template cannot render; `why` is what it said."""

    def __init__(self, error: Exception) -> None:
        self.why = f"{type(error).__name__}: {first_line(error)}"
        super().__init__(f"the model's chat template cannot render a conversation: {self.why}")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Make sure the tokenizer can end a response, and has a pad token distinct from that end (D01).

    Where pad is missing or equal to EOS, another special token serves (unknown, then any but BOS, then BOS), or a new
    one is added; the model's embedding then grows when it is loaded, if it has no row to spare.

    Raises `ModelError` if there is no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {where} has no end-of-sequence token, so no response could ever end; "
            "set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        special = [token for token in tokenizer.all_special_tokens if token != tokenizer.bos_token]
        candidates = [tokenizer.unk_token, *special, tokenizer.bos_token]
        spare = [token for token in candidates if token is not None and token != tokenizer.eos_token]
        tokenizer.add_special_tokens({"pad_token": spare[0] if spare else PAD})


def end_of_turn(tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> int | None:
    """The first of the tokens `ends` that the chat template writes behind an assistant's message; None if none does."""
    said = "an answer"
    conversation = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": said}]
    try:
        text = str(tokenizer.apply_chat_template(conversation, tokenize=False))
    except Exception:  # what a template cannot render is told where it matters, at the user's own conversations
        return None
    behind = tokenizer(text.rpartition(said)[2], add_special_tokens=False)["input_ids"]
    return next((int(token) for token in behind if token in ends), None)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The ids of each row's `prompt`, or of its `messages` by the chat template if it has some and there is one.

    Many at once, which is faster than one by one.

    Raises `RefusedByTemplate`, a `DataError`.
    """
    templated = [bool(row["messages"] and tokenizer.chat_template) for row in rows]
    chats = [_rendered(tokenizer, row["messages"]) for row, chat in zip(rows, templated, strict=True) if chat]
    texts = [row["prompt"] for row, chat in zip(rows, templated, strict=True) if not chat]
    chat_ids = iter(_encoded(tokenizer, chats, special=False))  # the template has written the special tokens
    text_ids = iter(_encoded(tokenizer, texts, special=True))
    return [next(chat_ids) if chat else _without_end(tokenizer, next(text_ids)) for chat in templated]


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> str:
    conversation = [dict(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program: beside Jinja's errors it raises any of Python's
        raise RefusedByTemplate(error) from error


def _without_end(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """Some tokenizers end every text, but behind a prompt the response is still to come."""
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str, messages: Sequence[Mapping[str, str]] = ()
) -> list[int]:
    """The ids of one prompt, as `prompt_ids` gives them."""
    return prompt_ids(tokenizer, [{"prompt": prompt, "messages": messages}])[0]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], room: int, context: int | None, key: str
) -> list[list[int]]:
    """The ids of prompts that are to be answered with up to `room` tokens each, `key` being where `room` is set.

    `context` is the most tokens the model can read, None if unknown.

    Raises `DataError` for an empty prompt, and for one that leaves less than `room` of the context.
    """
    prompts = prompt_ids(tokenizer, rows)
    if not all(prompts):
        raise DataError("an empty prompt cannot be answered: drop it from data.prompts")
    longest = max(len(prompt) for prompt in prompts)
    if context is not None and longest + room > context:
        raise DataError(
            f"a prompt of {longest} tokens and {key}={room} do not fit into the model's {context} tokens; "
            f"lower {key} or data.max_prompt_tokens"
        )
    return prompts


def response_ids(tokenizer: PreTrainedTokenizerBase, responses: Sequence[str]) -> list[list[int]]:
    """The ids of responses, the end-of-sequence token included."""
    return [[*ids, int(tokenizer.eos_token_id)] for ids in _encoded(tokenizer, responses, special=False)]


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    ids: list[list[int]] = []
    for start in range(0, len(texts), _AT_ONCE):
        some = list(texts[start : start + _AT_ONCE])
        # Not verbose: no warning about length, since what is too long is cut or refused.
        ids += tokenizer(some, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
    return ids


def in_shares(team: Team, rows: Sequence[Mapping[str, Any]], encode: Callable[[list[Any]], Sequence[T]]) -> list[T]:
    """`encode(rows)`, one item for each row; each process of `team` encodes its share.

    Raises in all processes the `DataError` that `encode` raised in one.
    """
    if team.size == 1:
        return list(encode(list(rows)))

    def attempt(share: list[int]) -> Sequence[T | DataError]:
        try:
            return encode([rows[row] for row in share])
        except DataError as error:
            return [DataError(str(error))] * len(share)  # one that is not raised again by unpickling its arguments

    items: list[T] = []
    for item in team.spread([1] * len(rows), attempt):
        if isinstance(item, DataError):
            raise item
        items.append(item)
    return items


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash that two tokenizers share exactly if their ids mean the same."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps([vocabulary, tokenizer.eos_token_id]).encode()).hexdigest()


def decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """A function from response ids to text, without special tokens."""

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    return decode


def fit_length(
    prompt: list[int], response: list[int], max_length: int, key: str | None = None
) -> tuple[list[int], list[int]]:
    """Cut the response's tail (its EOS too) so that both fit; the prompt is never cut.

    `key` is where `max_length` is set, if not by the model's context alone.

    Raises `DataError` if the prompt alone is too long.
    """
    room = max_length - len(prompt)
    if room < 1:
        origin = f"{key}, or the model's context if that is less" if key else "the model's context"
        raise DataError(
            f"a prompt of {len(prompt)} tokens leaves no room for a response within {max_length} tokens ({origin}); "
            f"{f'raise {key}, or ' if key else ''}drop long prompts with data.max_prompt_tokens"
        )
    return prompt, response[:room]


def text_of(rows: Sequence[Mapping[str, Any]], *columns: str) -> list[str]:
    """The texts of some columns, for training a tokenizer."""
    return [str(row[column]) for row in rows for column in columns]
