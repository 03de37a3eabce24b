"""Rows out of files with their locations: JSONL, JSON, CSV, TSV (gzipped or not), Parquet; rows into Parquet."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignpipe.errors import DataError

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_BATCH_ROWS = 1000
_CSV_FIELD_CHARACTERS = 2**31 - 1
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True)
class Broken:
    """Why something that should be a row is none."""

    reason: str


Raw = dict[str, Any]
Found = Iterator[tuple[str, Raw | Broken]]
Bytes = gzip.GzipFile | io.BufferedReader | io.BytesIO


def ending(path: Path) -> str:
    """The ending that tells the format: in lower case, without `.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def format_of(path: Path) -> str:
    """What the file's ending says it holds, a value of `FORMATS`.

    Raises `DataError` for an ending that says nothing.
    """
    if (found := FORMATS.get(ending(path))) is None:
        endings = ", ".join(FORMATS)
        raise DataError(f"what {path} holds is not known by its ending; use one of {endings}, or one with .gz")
    return found


def read_rows(path: Path, shown: str) -> Found:
    """Yield `(location, row)` for every row of a file, in its order; a location reads `shown:line` or `shown row n`.

    Raises `DataError` if the file as a whole cannot be read: a broken gzip, no Parquet, UTF-16, a CSV without a header
    that can be read, a column named twice.
    """
    readers = {"jsonl": _json_lines, "json": _json_rows, "csv": _csv_rows, "tsv": _tsv_rows, "parquet": _parquet_rows}
    reader = readers[format_of(path)]
    try:
        with closing(_open(path)) as file:
            _check_encoding(file, shown)
            yield from checked(reader(shown, file))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{shown} is a damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"cannot read {shown}: {error.strerror or error}") from error


def checked(rows: Found) -> Found:
    """The rows, those with text that cannot be written as UTF-8 as broken ones."""
    for location, row in rows:
        yield location, row if isinstance(row, Broken) or _is_text(row) else Broken("has text that is no valid UTF-8")


def _check_encoding(file: Bytes, shown: str) -> None:
    """Raise `DataError` for what begins with another encoding's mark: row by row it would be noise."""
    start = file.read(4)
    file.seek(0)
    if name := next((name for mark, name in _OTHER_MARKS.items() if start.startswith(mark)), None):
        raise DataError(f"{shown} is {name} text; save it as UTF-8")


def _open(path: Path) -> Bytes:
    """The file's bytes; gzip is told by its first bytes, for not every gzip file is named so."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _text(file: Bytes, newline: str | None = None) -> io.TextIOWrapper:
    # A byte that is no UTF-8 becomes a lone surrogate, which `checked` finds: one bad row does not end the reading.
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


def _json_lines(shown: str, file: Bytes) -> Found:
    with _text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _as_row(json.loads(line.rstrip()))
            except (ValueError, RecursionError) as error:
                row = Broken(f"is no JSON: {_json_problem(error)}" if _is_text(line) else "is no UTF-8 text")
            yield f"{shown}:{number}", row


def _json_rows(shown: str, file: Bytes) -> Found:
    """A `.json` file: one array of rows, or (as the hub has it) one row per line.

    The array is decoded row by row, not as a whole: so every row has its line, and those before an error are read.
    """
    with _text(file) as wrapped:
        text = wrapped.read()
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] != "[":
        yield from _json_lines(shown, io.BytesIO(text.encode(errors="surrogateescape")))
        return
    decoder, position, line, counted = json.JSONDecoder(), start + 1, 1, 0
    while True:
        position = _skip_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        location = f"{shown}:{line}"
        if text[position : position + 1] == "]":
            break
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            # What follows cannot be told apart any more, so this ends the file.
            line = error.lineno if isinstance(error, json.JSONDecodeError) else line
            problem = f"is no JSON: {_json_problem(error)}; the rest of the file is lost"
            yield f"{shown}:{line}", Broken(problem)
            return
        yield location, _as_row(value)
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            yield location, Broken("is followed by neither ',' nor ']'; the rest of the file is lost")
            return
    rest = _skip_space(text, position + 1)
    if rest < len(text):
        yield (
            f"{shown}:{line}",
            Broken("is the end of the array, but more follows; the rest of the file is lost"),
        )


def _json_problem(error: Exception) -> str:
    return f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _tsv_rows(shown: str, file: Bytes) -> Found:
    return _csv_rows(shown, file, "\t")


def _csv_rows(shown: str, file: Bytes, delimiter: str = ",") -> Found:
    """Rows under a header line; every value is text."""
    # The csv module's own limit of 128 KiB is less than a long document.
    csv.field_size_limit(_CSV_FIELD_CHARACTERS)
    with _text(file, newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            location = f"{shown}:{reader.line_num + 1}"
            try:
                values = next(reader, None)
            except csv.Error as error:
                if header is None:  # the next line must not be taken for it
                    raise DataError(f"{location} is no CSV: {error}; it must hold the names of the columns") from error
                yield location, Broken(f"is no CSV: {error}")
                continue
            if values is None:
                return
            if header is None and values:
                header = _header(shown, values)
            elif header is not None and values:
                yield location, _csv_row(header, values)


def _csv_row(header: list[str], values: list[str]) -> Raw | Broken:
    if len(values) != len(header):
        return Broken(f"has {len(values)} fields where the header has {len(header)}")
    return dict(zip(header, values, strict=True))


def _header(shown: str, names: list[str]) -> list[str]:
    if double := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{shown} has two columns named {double!r}; rename one in the file")
    return names


def _parquet_rows(shown: str, file: Bytes) -> Found:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet is read from its end, which a gzip stream can reach only by reading all of it.
    seekable = io.BytesIO(file.read()) if isinstance(file, gzip.GzipFile) else file
    number = 0
    try:
        table = pq.ParquetFile(seekable)
        _header(shown, table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{shown} row {number}", row
    except pa.ArrowException as error:
        raise DataError(f"{shown} is no Parquet that can be read: {error}") from error


def columns_of(table: Sequence[Raw]) -> list[str]:
    """The columns of all rows: a later one may have some that the first has not."""
    return list(dict.fromkeys(name for row in table for name in row))


def as_json(value: Any) -> str:
    """A value as text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def write_parquet(path: Path, table: Sequence[Raw]) -> None:
    """Write rows of any kind; a column that Parquet cannot hold as it is becomes text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row.get(name) for row in table] for name in columns_of(table)}
    for name, values in columns.items():
        try:
            pq.write_table(pa.table({name: values}), io.BytesIO())
        except (pa.ArrowException, OverflowError):  # of several types, or an empty object: text, as in a .csv
            columns[name] = [value if value is None or isinstance(value, str) else as_json(value) for value in values]
    pq.write_table(pa.table(columns), path)
