"""The dataset artifact: three tables of text in Arrow files, two splits each, and which reward is the gold one.

    <payload>/dataset.json
    <payload>/<table>/<split>.arrow        table: demonstrations, preferences, prompts; split: train, heldout

Columns: `prompt` (text) and `messages` (a list of {role, content}, empty for plain prompts) everywhere; `completion` in
demonstrations; `chosen` and `rejected` in preferences; every other column is the row's own and reaches the rewards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alignpipe.api import Sample, Split, Table
from alignpipe.errors import DataError

Row = Mapping[str, Any]

COLUMNS: Mapping[Table, tuple[str, ...]] = {
    "demonstrations": ("prompt", "messages", "completion"),
    "preferences": ("prompt", "messages", "chosen", "rejected"),
    "prompts": ("prompt", "messages"),
}
KNOWN = frozenset(name for columns in COLUMNS.values() for name in columns)
"""Names that mean the same in every table, so that none of them can be a row's own column."""

SPLITS: tuple[Split, ...] = ("train", "heldout")
_SCHEMA = 1


@dataclass(frozen=True)
class Gold:
    """The reward option that knows the truth about this data and is never trained on."""

    name: str
    version: int
    config: Mapping[str, Any] = field(default_factory=dict)


def write_dataset(
    folder: Path, tables: Mapping[Table, Mapping[Split, Sequence[Row]]], gold: Gold | None = None
) -> None:
    """Write the tables that are there into `folder`; the bytes depend on the rows only.

    Raises `ValueError` for a table or split that is not known, and for a row that lacks a column of its table or holds
    something else in it.
    """
    import pyarrow as pa

    counts: dict[str, dict[str, int]] = {}
    for table, splits in tables.items():
        for what, name, known in (("table", table, COLUMNS), *(("split", split, SPLITS) for split in splits)):
            if name not in known:
                raise ValueError(f"{what} {name!r} is not known; there are {', '.join(known)}")
        for split, rows in splits.items():
            for number, row in enumerate(rows):
                if wrong := _wrong(table, row):
                    raise ValueError(f"row {number} of {table}/{split} {wrong}")
        schema = _schema(table, [row for split in SPLITS for row in splits.get(split, ())])
        for split in SPLITS:
            rows = splits.get(split, ())
            counts.setdefault(table, {})[split] = len(rows)
            data = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
            path = folder / table / f"{split}.arrow"
            path.parent.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as writer:
                writer.write_table(data)
    record = {"schema": _SCHEMA, "tables": counts, "gold": asdict(gold) if gold else None}
    (folder / "dataset.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def _wrong(table: Table, row: Row) -> str:
    """What is wrong with a row of a table; empty if nothing is."""
    missing = [column for column in COLUMNS[table] if column not in row]
    if missing:
        return f"lacks {', '.join(missing)}"
    for column in COLUMNS[table]:
        value = row[column]
        if column != "messages":
            if not isinstance(value, str):
                return f"has {value!r:.80} in {column}, where a text is wanted"
        elif not isinstance(value, list | tuple) or not all(map(_is_message, value)):
            return f"has {value!r:.80} in messages, where a list of {{'role': <text>, 'content': <text>}} is wanted"
    return ""


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _schema(table: Table, rows: Sequence[Row]) -> Any:
    """The Arrow schema: fixed types for our columns (an empty `messages` would have none), inferred for the rest."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    known = {column: pa.list_(message) if column == "messages" else pa.string() for column in COLUMNS[table]}
    names = list(known) + sorted({name for row in rows for name in row} - set(known))
    extra = pa.Table.from_pylist([{name: row.get(name) for name in names if name not in known} for row in rows])
    return pa.schema([(name, known[name] if name in known else extra.schema.field(name).type) for name in names])


class Dataset:
    """Reads a dataset artifact."""

    def __init__(self, folder: Path) -> None:
        path = folder / "dataset.json"
        if not path.is_file():
            raise DataError(f"{folder} is no dataset artifact: it has no dataset.json")
        try:
            record = json.loads(path.read_text())
            self.counts: Mapping[str, Mapping[str, int]] = record["tables"]
            gold = record["gold"]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} is no description of a dataset: {type(error).__name__}: {error}") from error
        self.folder = folder
        self.gold = Gold(gold["name"], gold["version"], gold["config"]) if gold else None

    def count(self, table: Table, split: Split) -> int:
        """How many rows there are; 0 if the table is not there."""
        return self.counts.get(table, {}).get(split, 0)

    def require(self, table: Table, split: Split) -> None:
        """Raise `DataError` if the split is empty or not there."""
        if not self.count(table, split):
            held_out = f"data.heldout_{table}, or more {table} and a data.heldout_share above 0"
            raise DataError(
                f"the data has no {table} in its {split} split ({self.folder}); with data=files "
                f"give {held_out if split == 'heldout' else f'data.{table}'}, or leave the stage out"
            )

    def rows(self, table: Table, split: Split) -> list[dict[str, Any]]:
        """All rows of one split.

        Raises `DataError` if the split is empty or not there.
        """
        import pyarrow as pa

        self.require(table, split)
        with pa.memory_map(str(self.folder / table / f"{split}.arrow")) as source, pa.ipc.open_stream(source) as reader:
            rows: list[dict[str, Any]] = reader.read_all().to_pylist()
            return rows

    @staticmethod
    def extras(row: Row) -> dict[str, Any]:
        """The row's own columns: what a reward may read beside the prompt."""
        return {name: value for name, value in row.items() if name not in KNOWN}

    @staticmethod
    def sample(row: Row, column: str) -> Sample:
        """An answer of the row, `completion`, `chosen` or `rejected`, as a reward is given it."""
        return Sample(row["prompt"], row[column], messages=row["messages"], row=Dataset.extras(row))
