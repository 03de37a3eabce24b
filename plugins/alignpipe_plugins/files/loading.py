"""All rows of one config key: read, renamed, parsed; what is wrong is collected, so that one run tells all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alignpipe.conversations import LacksColumns, RowError, Unusable
from alignpipe.dataset import KNOWN
from alignpipe.errors import DataError
from alignpipe.rows import Broken, Raw
from alignpipe_plugins.files.config import FilesConfig, OnMalformed, OnUnusable
from alignpipe_plugins.files.formats import OURS, Row, parse
from alignpipe_plugins.files.reading import read_source
from alignpipe_plugins.files.sources import Source

REASONS: Mapping[str, str] = {
    "different_prompts": "chosen and rejected answer different prompts",
    "same_answers": "chosen and rejected are the same",
    "empty_answer": "an answer is empty",
    "empty_prompt": "the prompt is empty",
    "prompt_too_long": "the prompt is too long",
    "refused_by_template": "the model's chat template refuses the conversation",
}
"""Why a well-formed row is unusable: the name it is counted under, and in words."""

SHOWN = 20
_STOP_EVERY = 500


@dataclass
class Report:
    """What was found wrong, over all tables; the first of each kind with their locations."""

    read: Counter[str] = field(default_factory=Counter)
    malformed: list[str] = field(default_factory=list)
    malformed_rows: int = 0
    malformed_by_key: Counter[str] = field(default_factory=Counter)
    unusable: list[str] = field(default_factory=list)
    unusable_rows: int = 0
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    details: dict[tuple[str, str], str] = field(default_factory=dict)

    def add_malformed(self, key: str, location: str, reason: str) -> None:
        """Note a row that cannot be read."""
        self.malformed_rows += 1
        self.malformed_by_key[key] += 1
        if len(self.malformed) < SHOWN:
            self.malformed.append(f"{location}: {reason}")

    def add_unusable(self, key: str, location: str, reason: str, detail: str = "") -> None:
        """Note a row that cannot be trained on; `reason` is a key of `REASONS`, `detail` what else is known of it."""
        self.unusable_rows += 1
        if detail:
            self.details.setdefault((key, reason), detail)
        self.dropped.setdefault(key, Counter())[reason] += 1
        if len(self.unusable) < SHOWN:
            self.unusable.append(f"{location}: {REASONS[reason]}{f': {detail}' if detail else ''}")

    def count(self, key: str, reason: str, rows: int) -> None:
        """Note rows of `key` that were dropped for another reason than being unusable."""
        if rows:
            self.dropped.setdefault(key, Counter())[reason] += rows

    def check_malformed(self, policy: OnMalformed) -> None:
        """Raises `DataError` naming the malformed rows, unless they are to be skipped."""
        if self.malformed_rows and policy is OnMalformed.error:
            one = self.malformed_rows == 1
            what = f"{self.malformed_rows} malformed row{'' if one else 's'}"
            advice = f"mend {'it' if one else 'them'}, or set data.malformed=skip"
            raise DataError(listing(what, self.malformed, self.malformed_rows, advice))

    def check_unusable(self, policy: OnUnusable) -> None:
        """Raises `DataError` naming the unusable rows, unless they are to be dropped."""
        if self.unusable_rows and policy is OnUnusable.error:
            what = f"{self.unusable_rows} unusable row{'s' * (self.unusable_rows > 1)} (data.unusable=error)"
            raise DataError(listing(what, self.unusable, self.unusable_rows, "mend them, or set data.unusable=drop"))

    def total(self, reason: str) -> int:
        """How many rows were dropped for one reason, over all keys."""
        return sum(counter[reason] for counter in self.dropped.values())

    def lost(self, key: str, reason: str) -> int:
        """How many rows of one key were dropped for one reason."""
        return self.dropped.get(key, Counter())[reason]

    def losses(self, key: str) -> str:
        """What became of the rows of `key` that are gone, as a phrase; empty if none are."""
        counts = dict(self.dropped.get(key, Counter()))
        if malformed := self.malformed_by_key[key]:
            counts["malformed"] = malformed
        details = {reason: f" ({detail})" for (of, reason), detail in self.details.items() if of == key}
        return ", ".join(f"{count} {reason}{details.get(reason, '')}" for reason, count in sorted(counts.items()))


def listing(what: str, lines: list[str], total: int, advice: str) -> str:
    """A message with a line for each of the first rows it is about, and how many more there are."""
    more = [f"... and {total - len(lines)} more"] if total > len(lines) else []
    return "\n  ".join([f"{what}; {advice}", *lines, *more])


def load(
    key: str, sources: Iterable[Source], config: FilesConfig, report: Report, check_stop: Callable[[], None]
) -> list[Row]:
    """The usable rows of one config key (`preferences`, `heldout_prompts` ...); the others go into `report`.

    Raises `DataError` if two columns would get the same name.
    """
    table = key.removeprefix("heldout_")
    rows = []
    for source in sources:
        for location, raw in read_source(source):
            report.read[key] += 1
            if report.read[key] % _STOP_EVERY == 0:
                check_stop()
            if isinstance(raw, Broken):
                report.add_malformed(key, location, raw.reason)
                continue
            ours, extras = _name_columns(table, location, raw, config)
            try:
                row = parse(table, location, ours)
            except LacksColumns as error:  # told with the names in the file, for one of them may be wanted
                report.add_malformed(key, location, f"{LacksColumns(error.wanted, raw)} (rename with data.columns)")
            except RowError as error:
                report.add_malformed(key, location, str(error))
            except Unusable as reason:
                report.add_unusable(key, location, str(reason))
            else:
                row.extras.update(extras)
                rows.append(row)
    return rows


def _name_columns(table: str, location: str, raw: Raw, config: FilesConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a raw row into our columns under our names, and the extra columns under their own."""
    kept = {name: value for name, value in raw.items() if name not in config.drop_columns}
    renamed = {ours: theirs for ours, theirs in config.columns.items() if ours in OURS[table] and theirs in kept}
    used = set(renamed.values())
    for ours, theirs in renamed.items():
        if ours in kept and ours not in used:
            raise DataError(
                f"{location}: data.columns reads {ours!r} from the column {theirs!r}, but there is a column {ours!r} "
                f"too; leave out of data.columns what is named so already, or add {ours!r} to data.drop_columns"
            )
    columns = {name: value for name, value in kept.items() if name not in used}
    ours_only = {name: value for name, value in columns.items() if name in KNOWN or name == "text"}
    ours_only.update({ours: kept[theirs] for ours, theirs in renamed.items()})
    # `text` is read only where the row has nothing better; beside other columns of ours it is an extra like any other.
    hidden = KNOWN if any(ours_only.get(name) is not None for name in KNOWN) else KNOWN | {"text"}
    return ours_only, {name: value for name, value in columns.items() if name not in hidden}


def check_extras(key: str, rows: Iterable[Row]) -> None:
    """Raises `DataError` if an extra column holds values of different types, or of a type that JSON does not have."""
    import pyarrow as pa

    columns: dict[str, list[tuple[str, Any]]] = {}
    for row in rows:
        for name, value in row.extras.items():
            if value is not None:
                columns.setdefault(name, []).append((row.location, value))
    for name, values in sorted(columns.items()):
        advice = f"make it one of text, numbers, true/false, lists or objects, or add {name!r} to data.drop_columns"
        try:
            kind = pa.array([value for _, value in values]).type
        except (pa.ArrowException, OverflowError, TypeError) as error:
            first: dict[str, str] = {}
            for location, value in values:
                first.setdefault(type(value).__name__, location)
            found = ", ".join(f"{kind} ({location})" for kind, location in first.items())
            detail = (
                f"values of different types: {found}" if len(first) > 1 else f"values that do not fit together: {error}"
            )
            raise DataError(f"data.{key}: the extra column {name!r} has {detail}; {advice}") from error
        if not _is_json(kind):
            raise DataError(
                f"data.{key}: the extra column {name!r} has values of the type {kind} ({values[0][0]}); {advice}"
            )


def _is_json(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        return _is_json(kind.value_type)
    if types.is_struct(kind):
        return all(_is_json(kind.field(index).type) for index in range(kind.num_fields))
    scalars = (
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_string,
        types.is_large_string,
    )
    return any(check(kind) for check in scalars)
