"""The stage: find the files, read, clean, part held-out prompts, write the dataset artifact. Read `run` first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignpipe.api import Artifact, BuildContext, Split, StageContext, Table
from alignpipe.dataset import Row as Record
from alignpipe.dataset import write_dataset
from alignpipe.errors import DataError, StageInterrupted
from alignpipe_plugins.files.config import FilesConfig, OnUnusable
from alignpipe_plugins.files.formats import Row, as_demonstration, as_prompt
from alignpipe_plugins.files.lengths import Limit, find_limit, unfit_prompts
from alignpipe_plugins.files.loading import REASONS, SHOWN, Report, check_extras, listing, load
from alignpipe_plugins.files.sources import TABLES, Source, find_sources
from alignpipe_plugins.files.splitting import choose_heldout, deduplicate, part, prompt_key

Rows = dict[str, list[Row]]
"""Rows by config key: `preferences`, `heldout_preferences` ..."""

HELDOUT = "heldout_"


def build(config: FilesConfig, context: BuildContext) -> FilesStage:
    """The stage of `data=files`."""
    return FilesStage(config)


class FilesStage:
    """Turns the user's files into a dataset artifact, or says in one message why it cannot."""

    def __init__(self, config: FilesConfig) -> None:
        self._config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Write the tables into `ctx.payload`; nothing is written unless everything could be.

        Raises `ConfigError` and `DataError` for what the user can mend, `StageInterrupted` when asked to stop.
        """
        config, report = self._config, Report()
        sources = find_sources(config)

        # 1. Read all, and tell all that is wrong with the rows at once.
        rows = {key: load(key, found, config, report, lambda: _check_stop(ctx)) for key, found in sources.items()}
        report.check_malformed(config.malformed)

        # 2. Drop what cannot be trained on.
        limit = self._drop_unfit(rows, report, ctx)
        report.check_unusable(config.unusable)
        if config.deduplicate:
            for key in rows:
                unique = deduplicate(rows[key])
                report.count(key, "duplicate", len(rows[key]) - len(unique))
                rows[key] = unique
        _check_left(rows, sources, report, limit)

        # 3. Fill the tables that are not given, and part training from held-out rows by prompt.
        self._drop_leaks(rows, report)
        self._derive(rows)
        for table in TABLES:
            check_extras(table, [*rows.get(table, ()), *rows.get(HELDOUT + table, ())])
        self._hold_out(rows, report)
        _check_left(rows, sources, report, limit)

        # 4. Write, and tell.
        _check_stop(ctx)
        write_dataset(ctx.payload, _records(rows))
        ctx.log(_metrics(rows, report), step=0)
        for line in _summary(rows, report):
            ctx.say(line)

    def _drop_unfit(self, rows: Rows, report: Report, ctx: StageContext) -> Limit | None:
        """Drop rows whose prompt the model cannot take."""
        if self._config.max_prompt_tokens is None or not any(rows.values()):
            return None
        source = ctx.build(ctx.slots["model"])
        limit = find_limit(self._config.max_prompt_tokens, source.context_length())
        unfit: dict[str, set[int]] = {}
        for key, row, reason, detail in unfit_prompts(rows, source, limit, lambda: _check_stop(ctx)):
            report.add_unusable(key, row.location, reason, detail)
            unfit.setdefault(key, set()).add(id(row))
        for key, dropped in unfit.items():
            rows[key] = [row for row in rows[key] if id(row) not in dropped]
        return limit

    def _drop_leaks(self, rows: Rows, report: Report) -> None:
        """Take out of the training rows every prompt that a held-out file has.

        Raises `DataError` naming them under `data.leakage=error`.
        """
        heldout = {prompt_key(row.prompt) for key, held in rows.items() if key.startswith(HELDOUT) for row in held}
        leaks = []
        for table in TABLES:
            if table in rows:
                rows[table], leaked = part(rows[table], heldout)
                report.count(table, "leaked", len(leaked))
                leaks += leaked
        if leaks and self._config.leakage is OnUnusable.error:
            locations = [row.location for row in leaks[:SHOWN]]
            what = f"{len(leaks)} training rows have a prompt that a held-out file has too (data.leakage=error)"
            raise DataError(listing(what, locations, len(leaks), "take them out, or set data.leakage=drop"))

    def _derive(self, rows: Rows) -> None:
        """Fill the tables that are not given: demonstrations and prompts, training and held-out ones alike."""
        answer = self._config.columns.get("completion", "reference")
        derive_demonstrations, derive_prompts = "demonstrations" not in rows, "prompts" not in rows
        for prefix in ("", HELDOUT):
            pairs, given = rows.get(f"{prefix}preferences"), rows.get(f"{prefix}demonstrations")
            if derive_demonstrations and given is None and pairs:
                rows[f"{prefix}demonstrations"] = deduplicate(as_demonstration(row) for row in pairs)
            origin = "preferences" if "preferences" in rows else "demonstrations"
            if derive_prompts and f"{prefix}prompts" not in rows and (found := rows.get(prefix + origin)):
                rows[f"{prefix}prompts"] = deduplicate(as_prompt(row, answer) for row in found)

    def _hold_out(self, rows: Rows, report: Report) -> None:
        """Hold out a share of the prompts for the tables that have no held-out rows yet."""
        config = self._config
        prompts = {table: {prompt_key(row.prompt) for row in rows[table]} for table in TABLES if rows.get(table)}
        sharing = [table for table in prompts if HELDOUT + table not in rows]
        heldout = choose_heldout(prompts, sharing, config.heldout_share, config.heldout_max, config.split_seed)
        for table in prompts:
            rows[table], held = part(rows[table], heldout)
            if table in sharing:
                rows[HELDOUT + table] = held
            else:
                report.count(table, "held_out_elsewhere", len(held))


def _check_stop(ctx: StageContext) -> None:
    if ctx.stop_requested():
        raise StageInterrupted(f"{ctx.stage}: stopped while reading the data; the same command starts this stage again")


def _check_left(rows: Rows, sources: Mapping[str, Sequence[Source]], report: Report, limit: Limit | None) -> None:
    """Raises `DataError` for a key that was given, but has no row left."""
    for key, found in sources.items():
        if rows[key]:
            continue
        names = ", ".join(source.shown for source in found[:3]) + (" ..." if len(found) > 3 else "")
        if not report.read[key]:
            raise DataError(f"data.{key}: {names} holds no rows")
        message = f"data.{key}: nothing is left of the {report.read[key]} rows of {names}: {report.losses(key)}"
        if limit and report.lost(key, "prompt_too_long"):
            message += f" (longer than {limit.tokens} tokens, by {limit.origin})"
        raise DataError(message)


def _records(rows: Rows) -> dict[Table, dict[Split, list[Record]]]:
    tables: dict[Table, dict[Split, list[Record]]] = {}
    for table in TABLES:
        train, held = rows.get(table, []), rows.get(HELDOUT + table, [])
        if train or held:
            tables[table] = {"train": [row.record() for row in train], "heldout": [row.record() for row in held]}
    return tables


def _metrics(rows: Rows, report: Report) -> dict[str, float]:
    """Rows per table and split, and every reason to drop one, those that never happened included."""
    metrics: dict[str, float] = {}
    for table in TABLES:
        metrics[f"rows/{table}/train"] = len(rows.get(table, ()))
        metrics[f"rows/{table}/heldout"] = len(rows.get(HELDOUT + table, ()))
    metrics["rows/read"] = sum(report.read.values())
    metrics |= {f"dropped/{reason}": report.total(reason) for reason in REASONS}
    metrics["dropped/malformed"] = report.malformed_rows
    metrics |= {f"dropped/{reason}": report.total(reason) for reason in ("duplicate", "leaked", "held_out_elsewhere")}
    return metrics


def _summary(rows: Rows, report: Report) -> list[str]:
    """What the user is told: one line of what there is, one for each key that lost rows."""
    parts = [
        f"{table} {len(rows.get(table, ()))} + {len(rows.get(HELDOUT + table, ()))} held out"
        for table in TABLES
        if rows.get(table) or rows.get(HELDOUT + table)
    ]
    lines = ["; ".join(parts)]
    for key, count in report.read.items():
        if losses := report.losses(key):
            lines.append(f"data.{key}: of {count} rows dropped {losses}")
    return lines
