"""Raw rows out of files and hub data sets, each with its place; a row that cannot be read comes as a `Broken`."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from alignpipe.errors import DataError
from alignpipe_plugins.files.sources import FileSource, HubSource, Source

_BATCH_ROWS = 1000
_CSV_FIELD_CHARACTERS = 2**31 - 1


@dataclass(frozen=True)
class Broken:
    """Why something that should be a row is none."""

    reason: str


Raw = dict[str, Any]
Bytes = gzip.GzipFile | io.BufferedReader | io.BytesIO


def read_rows(source: Source) -> Iterator[tuple[str, Raw | Broken]]:
    """Yield `(place, row)` for every row of the source, in its order; a place reads `file:line` or `file row n`.

    Raises `DataError` if the source as a whole cannot be read: a broken gzip, no Parquet, a column named twice.
    """
    rows = _hub_rows(source) if isinstance(source, HubSource) else _file_rows(source)
    for place, row in rows:
        if isinstance(row, Broken) or _is_text(row):
            yield place, row
        else:
            yield place, Broken("has text that is no valid UTF-8")


def _file_rows(source: FileSource) -> Iterator[tuple[str, Raw | Broken]]:
    readers = {"jsonl": _json_lines, "json": _json_rows, "csv": _csv_rows, "tsv": _csv_rows, "parquet": _parquet_rows}
    try:
        with closing(_open(source)) as file:
            yield from readers[source.format](source, file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"data.{source.key}: {source.shown} is a damaged gzip file ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise DataError(f"data.{source.key}: cannot read {source.shown}: {error.strerror or error}") from error


def _open(source: FileSource) -> Bytes:
    """The file's bytes; gzip is told by its first bytes, for not every gzip file is named so."""
    with source.path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(source.path, "rb") if zipped else source.path.open("rb")


def _text(file: Bytes, newline: str | None = None) -> io.TextIOWrapper:
    # A byte that is no UTF-8 becomes a lone surrogate, which `_is_text` finds: one bad row does not end the reading.
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _is_text(row: Any) -> bool:
    """Whether all text in the row can be written as UTF-8."""
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_row(value: Any) -> Raw | Broken:
    if isinstance(value, dict):
        return value
    return Broken(f"is a {type(value).__name__}, not an object with columns")


def _json_lines(source: FileSource, file: Bytes) -> Iterator[tuple[str, Raw | Broken]]:
    with _text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _as_row(json.loads(line.rstrip()))
            except (ValueError, RecursionError) as error:
                row = Broken(f"is no JSON: {_json_problem(error)}" if _is_text(line) else "is no UTF-8 text")
            yield f"{source.shown}:{number}", row


def _json_rows(source: FileSource, file: Bytes) -> Iterator[tuple[str, Raw | Broken]]:
    """A `.json` file: one array of rows, or (as the hub has it) one row per line."""
    with _text(file) as wrapped:
        text = wrapped.read()
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] != "[":
        yield from _json_lines(source, io.BytesIO(text.encode(errors="surrogateescape")))
        return
    decoder, position, line, counted = json.JSONDecoder(), start + 1, 1, 0
    while True:
        position = _skip_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        place = f"{source.shown}:{line}"
        if text[position : position + 1] == "]":
            break
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            # What follows cannot be told apart any more, so this ends the file.
            line = error.lineno if isinstance(error, json.JSONDecodeError) else line
            problem = f"is no JSON: {_json_problem(error)}; the rest of the file is lost"
            yield f"{source.shown}:{line}", Broken(problem)
            return
        yield place, _as_row(value)
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            yield place, Broken("is followed by neither ',' nor ']'; the rest of the file is lost")
            return
    rest = _skip_space(text, position + 1)
    if rest < len(text):
        yield (
            f"{source.shown}:{line}",
            Broken("is the end of the array, but more follows; the rest of the file is lost"),
        )


def _json_problem(error: Exception) -> str:
    return f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _csv_rows(source: FileSource, file: Bytes) -> Iterator[tuple[str, Raw | Broken]]:
    """Rows under a header line; every value is text."""
    # The csv module's own limit of 128 KiB is less than a long document.
    csv.field_size_limit(_CSV_FIELD_CHARACTERS)
    with _text(file, newline="") as text:
        reader = csv.reader(text, delimiter="\t" if source.format == "tsv" else ",", strict=True)
        header: list[str] | None = None
        while True:
            place = f"{source.shown}:{reader.line_num + 1}"
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield place, Broken(f"is no CSV: {error}")
                continue
            if values is None:
                return
            if header is None and values:
                header = _header(source, values)
            elif header is not None and values:
                yield place, _csv_row(header, values)


def _csv_row(header: list[str], values: list[str]) -> Raw | Broken:
    if len(values) != len(header):
        return Broken(f"has {len(values)} fields where the header has {len(header)}")
    return dict(zip(header, values, strict=True))


def _header(source: FileSource, names: list[str]) -> list[str]:
    if double := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"data.{source.key}: {source.shown} has two columns named {double!r}; rename one in the file")
    return names


def _parquet_rows(source: FileSource, file: Bytes) -> Iterator[tuple[str, Raw | Broken]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet is read from its end, which a gzip stream can reach only by reading all of it.
    seekable = io.BytesIO(file.read()) if isinstance(file, gzip.GzipFile) else file
    number = 0
    try:
        table = pq.ParquetFile(seekable)
        _header(source, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{source.shown} row {number}", row
    except pa.ArrowException as error:
        raise DataError(f"data.{source.key}: {source.shown} is no Parquet that can be read: {error}") from error


def _hub_rows(source: HubSource) -> Iterator[tuple[str, Raw | Broken]]:
    import datasets

    try:
        data = datasets.load_dataset(source.name, source.subset, split=source.split, revision=source.revision_wanted)
    # The library raises errors of many packages, even its own bugs' ones; all mean that there is no data.
    except Exception as error:
        subset = f", data.hub_subset={source.subset}" if source.subset else ""
        raise DataError(
            f"data.{source.key}={source.shown}{subset}: datasets.load_dataset failed: {type(error).__name__}: {error}"
        ) from error
    for number, row in enumerate(data, start=1):
        yield f"{source.shown} row {number}", dict(row)
