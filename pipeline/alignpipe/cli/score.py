"""`alignpipe score`: try a reward on a file, or on what a run's policy said, without any training."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from alignpipe.authoring.opening import open_named
from alignpipe.authoring.rollouts import agreement, by_update, rollouts_of
from alignpipe.authoring.rows import read
from alignpipe.authoring.trying import Tried, histogram, try_on, writer_for
from alignpipe.store.files import storing
from alignpipe.tables import show_table


def main(argv: Sequence[str]) -> int:
    """Run `score`.

    Raises what reading the data, building the reward and asking it raise; too many failures only after all is shown.
    """
    arguments = _parser().parse_intermixed_args(list(argv))
    path = rollouts_of(arguments.run) if arguments.run else arguments.data
    write = writer_for(arguments.out) if arguments.out else None
    data = read(path)
    judge = open_named(arguments.reward, arguments.overrides)
    tried = try_on(judge, data, f"rows of {path}")
    left_out = f" ({data.left_out} pairs with different prompts left out)" if data.left_out else ""
    _say(f"{judge.label} on {path}: {len(tried.samples)} samples{left_out}\n")
    _show_parts(tried)
    if arguments.run:
        _show_updates(tried)
    if tried.card:
        _say("\nreport card: how often the chosen answer scores higher, and what else the pairs say\n")
        show_table(("figure", "value"), [(name, f"{value:z.4g}") for name, value in tried.card.items()])
        _say("\naccuracy counts a tie as half; accuracy_low and accuracy_high are the ends of its 95% interval")
    if write is not None:
        with storing("writing the scores", arguments.out.parent):
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write(arguments.out, tried.table)
        _say(f"\nthe scores of every sample: {arguments.out}")
    judge.check_failures(tried.scored.failures, tried.samples)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alignpipe score",
        description="Try a reward on a file, or on what the policy of a run said, without any training.",
    )
    parser.add_argument("--reward", required=True, help="an option, store:<digest>, or the folder of a stored reward")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="rows of prompt and completion (or response), or of prompt, chosen and rejected: .jsonl .ndjson .json "
        ".csv .tsv .parquet, also with .gz",
    )
    source.add_argument("--run", type=Path, metavar="FOLDER", help="a run folder: the rollouts that its ppo stage kept")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here: .parquet, .jsonl or .csv")
    parser.add_argument("overrides", nargs="*", help="reward.<key>=<value>, scoring.<key>=<value>, seed=, device=")
    return parser


def _show_parts(tried: Tried) -> None:
    figures = tried.figures()
    rows = [(name, *(f"{value:z.4g}" for value in values)) for name, *values in figures]
    show_table(("part", "mean", "std", "min", "max"), rows)
    if tried.totals:
        _say("\ntotal")
        for line in histogram(tried.totals):
            _say(line)
    if tried.scored.failures:
        _say(f"\n{len(tried.scored.failures)} of {len(tried.samples)} samples have no score:\n")
        show_table(
            ("kind", "samples", "the first one"), [(kind, str(n), text) for kind, n, text in tried.failure_kinds()]
        )


def _show_updates(tried: Tried) -> None:
    _say("\nalong the training: the reward that was trained on, and this one\n")
    rows = [
        (
            str(part.first) if part.first == part.last else f"{part.first}-{part.last}",
            str(part.samples),
            f"{part.reward:z.4g}",
            f"{part.score:z.4g}",
        )
        for part in by_update(tried.table)
    ]
    show_table(("update", "samples", "trained on", "score"), rows)
    found = agreement(tried.table)
    if not math.isnan(found):
        _say(f"\nrank correlation of the two over all samples: {found:z.3f}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
