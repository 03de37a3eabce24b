"""A file of answers or of preference pairs as samples, read as `data=files` reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from alignpipe.api import Sample
from alignpipe.conversations import RowError, Unusable, demonstration, has, messages_of, preference
from alignpipe.dataset import Dataset
from alignpipe.errors import DataError
from alignpipe.rows import Broken, Raw, read_rows

_WANTED = "a row needs 'prompt' and 'completion' (or 'response'), 'messages', or 'prompt', 'chosen' and 'rejected'"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Data:
    """What a file holds: the samples, behind each its row in the file, and the preference pairs if it holds pairs.

    Of every pair there are two samples, the chosen answer and the rejected one; their rows say which (`side`).
    """

    samples: Sequence[Sample]
    raw: Sequence[Raw]
    pairs: Sequence[Raw] = ()
    left_out: int = 0
    """Pairs whose answers are to different prompts."""


def read(path: Path) -> Data:
    """What a file holds, told by the columns of its first row.

    Raises `DataError` naming file and line for what cannot be read.
    """
    found = _raw_rows(path)
    raw = [row for _, row in found]
    if not found:
        raise DataError(f"{path} has no rows; {_WANTED}")
    if not has(raw[0], "chosen", "rejected"):
        return Data(_parsed(_answer, found), raw)
    data = of_pairs(raw, _parsed(_pair, found))
    if not data.pairs:
        raise DataError(f"{path} has no pair whose two answers are to the same prompt")
    return data


def of_pairs(raw: Sequence[Raw], pairs: Sequence[Raw | None]) -> Data:
    """Pairs, given as they stand in the file and as rows of a dataset (None for those to leave out)."""
    kept = [(row, pair) for row, pair in zip(raw, pairs, strict=True) if pair is not None]
    sides = [(row, pair, side) for row, pair in kept for side in ("chosen", "rejected")]
    return Data(
        [Dataset.sample(pair, side) for _, pair, side in sides],
        [{**row, "side": side, "completion": pair[side]} for row, pair, side in sides],
        [pair for _, pair in kept],
        len(raw) - len(kept),
    )


def _raw_rows(path: Path) -> list[tuple[str, Raw]]:
    found = []
    for location, row in read_rows(path, str(path)):
        if isinstance(row, Broken):
            raise DataError(f"{location} {row.reason}")
        found.append((location, row))
    return found


def _parsed(parse: Callable[[Raw], _T], found: Sequence[tuple[str, Raw]]) -> list[_T]:
    rows = []
    for location, raw in found:
        try:
            rows.append(parse(raw))
        except RowError as error:
            raise DataError(f"{location}: {error}") from error
    return rows


def _answer(raw: Raw) -> Sample:
    column = next((name for name in ("completion", "response") if has(raw, "prompt", name)), None)
    if column is None and not has(raw, "messages"):
        raise RowError(f"has the columns {', '.join(raw) or 'none'}; {_WANTED}")
    prompt, messages, answers = demonstration({**raw, "completion": raw[column]} if column else raw)
    if column and not messages and raw.get("messages"):  # a run's rollouts: the conversation, and its prompt as text
        messages = messages_of(raw["messages"], "messages")
    own = {name: value for name, value in Dataset.extras(raw).items() if name != column}
    ended = str(raw.get("ended")).strip().lower() not in ("false", "0")  # in a CSV every value is text
    return Sample(prompt, answers["completion"], messages=messages, row=own, ended=ended)


def _pair(raw: Raw) -> Raw | None:
    """The row of a dataset; None where the two answers are to different prompts, as some of hh-rlhf's are."""
    if not has(raw, "chosen", "rejected"):
        raise RowError(f"has the columns {', '.join(raw) or 'none'}, and the first row is a preference pair")
    exchange = None
    try:
        exchange = preference(raw)
    except Unusable as reason:
        if str(reason) == "different_prompts":
            return None
    if exchange is None or not (exchange.prompt or has(raw, "prompt")):
        raise RowError(f"has no 'prompt'; {_WANTED}")
    return {**raw, "prompt": exchange.prompt, "messages": exchange.messages, **exchange.answers}
