"""A file of answers or of preference pairs as samples: JSONL, JSON, CSV, TSV (gzipped or not) or Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignpipe.api import Sample
from alignpipe.errors import DataError

_RESPONSES = ("completion", "response")
_NOT_EXTRAS = {"prompt", "messages", "completion", "chosen", "rejected"}
_WANTED = "a row needs 'prompt' and 'completion' (or 'response'), 'messages', or 'prompt', 'chosen' and 'rejected'"
_ASSISTANT = "\n\nAssistant:"
_CSV_FIELD_CHARACTERS = 2**31 - 1

Raw = dict[str, Any]


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
    found = list(raw_rows(path))
    if not found:
        raise DataError(f"{path} has no rows; {_WANTED}")
    if _has(found[0][1], "chosen", "rejected"):
        data = of_pairs([raw for _, raw in found], [_pair(place, raw) for place, raw in found])
        if not data.pairs:
            raise DataError(f"{path} has no pair whose two answers are to the same prompt")
        return data
    return Data([_answer(place, raw) for place, raw in found], [raw for _, raw in found])


def of_pairs(raw: Sequence[Raw], pairs: Sequence[Raw | None]) -> Data:
    """Pairs, given as they stand in the file and as rows of a dataset (None for those to leave out)."""
    kept = [(row, pair) for row, pair in zip(raw, pairs, strict=True) if pair is not None]
    sides = [(row, pair, side) for row, pair in kept for side in ("chosen", "rejected")]
    return Data(
        [Sample(pair["prompt"], pair[side], messages=pair["messages"], row=extras(pair)) for _, pair, side in sides],
        [{**row, "side": side, "completion": pair[side]} for row, pair, side in sides],
        [pair for _, pair in kept],
        len(raw) - len(kept),
    )


def extras(row: Mapping[str, Any]) -> Raw:
    """The row's own columns."""
    return {name: value for name, value in row.items() if name not in _NOT_EXTRAS}


def raw_rows(path: Path) -> Iterator[tuple[str, Raw]]:
    """(place, row) of every row of a file; a place reads `file:line` or `file row n`.

    Raises `DataError` for a file, or a row of it, that cannot be read.
    """
    suffix = path.suffix if path.suffix != ".gz" else path.with_suffix("").suffix
    readers: Mapping[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
        ".jsonl": _json_lines, ".json": _json, ".csv": _table, ".tsv": _table, ".parquet": _parquet,
    }  # fmt: skip
    if suffix not in readers:
        raise DataError(f"{path}: what is in it is told by its name, which must end in {', '.join(readers)} (or .gz)")
    try:
        for place, row in readers[suffix](path):
            if not isinstance(row, dict):
                raise DataError(f"{place} is a {type(row).__name__}, not an object with columns")
            yield place, row
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _text(path: Path, newline: str | None = None) -> io.TextIOWrapper:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    binary = gzip.open(path, "rb") if zipped else path.open("rb")  # noqa: SIM115 (closed with the text)
    return io.TextIOWrapper(binary, encoding="utf-8-sig", newline=newline)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with _text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}:{number} is no JSON: {error}") from error


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    """One array of rows, or one row per line."""
    with _text(path) as file:
        if not file.read(1000).lstrip().startswith("["):
            yield from _json_lines(path)
            return
        file.seek(0)
        try:
            rows = json.load(file)
        except ValueError as error:
            raise DataError(f"{path} is no JSON: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", row


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(_CSV_FIELD_CHARACTERS)
    with _text(path, newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if ".tsv" in path.suffixes else ",", strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}:{reader.line_num} has not as many fields as the header")
                yield f"{path}:{reader.line_num}", row
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num} is no CSV: {error}") from error


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path} is no Parquet that can be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", row


def _answer(place: str, raw: Raw) -> Sample:
    column = next((name for name in _RESPONSES if _has(raw, name)), None)
    if _has(raw, "prompt") and column is not None:
        prompt, messages = _prompt(place, raw["prompt"])
        if not messages and raw.get("messages"):  # the rollouts of a run: the conversation, and its prompt as text
            messages = _messages(place, raw["messages"], "messages")
        response = _last(place, raw[column], column)[1] if not isinstance(raw[column], str) else raw[column]
    elif _has(raw, "messages"):
        messages, response = _last(place, raw["messages"], "messages")
        prompt = _rendered(messages)
    else:
        raise DataError(f"{place} has the columns {', '.join(raw) or 'none'}; {_WANTED}")
    own = {name: value for name, value in extras(raw).items() if name != column}
    return Sample(prompt, response, messages=messages, row=own, ended=raw.get("ended") is not False)


def _pair(place: str, raw: Raw) -> Raw | None:
    """The row of a dataset; None where the two answers are to different prompts, as some of hh-rlhf's are."""
    if not _has(raw, "chosen", "rejected"):
        raise DataError(f"{place} has the columns {', '.join(raw) or 'none'}, and the first row is a preference pair")
    sides = [raw["chosen"], raw["rejected"]]
    if all(isinstance(side, str) for side in sides):
        if _has(raw, "prompt"):
            prompt, messages = _prompt(place, raw["prompt"])
        elif all(_ASSISTANT in side for side in sides):  # hh-rlhf transcripts, which hold their prompt
            (prompt, _, chosen), (other, _, rejected) = (side.rpartition(_ASSISTANT) for side in sides)
            if prompt != other:
                return None
            prompt, messages, sides = prompt + _ASSISTANT, [], [chosen, rejected]
        else:
            raise DataError(f"{place} has no 'prompt'; {_WANTED}")
    else:
        (messages, chosen), (before, rejected) = _last(place, sides[0], "chosen"), _last(place, sides[1], "rejected")
        if messages != before:
            return None
        sides = [chosen, rejected]
        if _has(raw, "prompt") and not messages:
            prompt, messages = _prompt(place, raw["prompt"])
        else:
            prompt = _rendered(messages)
    return {**raw, "prompt": prompt, "messages": messages, "chosen": sides[0], "rejected": sides[1]}


def _prompt(place: str, value: Any) -> tuple[str, list[dict[str, str]]]:
    if isinstance(value, str):
        return value, []
    messages = _messages(place, value, "prompt")
    return _rendered(messages), messages


def _messages(place: str, value: Any, column: str) -> list[dict[str, str]]:
    known = isinstance(value, list) and all(
        isinstance(each, dict) and {"role", "content"} <= each.keys() for each in value
    )
    if not known or not all(isinstance(each["content"], str) for each in value):
        raise DataError(f"{place}: column {column!r} is neither text nor a list of messages with 'role' and 'content'")
    return [{"role": str(each["role"]), "content": each["content"]} for each in value]


def _last(place: str, value: Any, column: str) -> tuple[list[dict[str, str]], str]:
    """A conversation split into what comes before the last answer, and that answer."""
    messages = _messages(place, value, column)
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(f"{place}: the last message of column {column!r} must be the assistant's")
    return messages[:-1], messages[-1]["content"]


def _rendered(messages: Sequence[Mapping[str, str]]) -> str:
    """The conversation as text, as `data=files` writes it."""
    names = {"user": "Human"}
    turns = (f"\n\n{names.get(each['role'], each['role'].capitalize())}: {each['content']}" for each in messages)
    return "".join(turns) + _ASSISTANT


def _has(raw: Mapping[str, Any], *columns: str) -> bool:
    return all(raw.get(column) is not None for column in columns)
