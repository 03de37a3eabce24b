"""`alignpipe compare`: finished and unfinished runs beside each other, from what they left in their folders."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alignpipe.authoring.trying import writer_for
from alignpipe.cli.run_table import Line, show_runs
from alignpipe.errors import ConfigError
from alignpipe.store.files import read_json, storing

_NOT_COMPARED = re.compile(r"outputs|tracker\.|.*\.run_name$")
"""Keys whose values say where a run wrote, not what it was."""


def main(argv: Sequence[str]) -> int:
    """Run `compare`.

    Raises `ConfigError` for a folder without runs, `StoreError` if the table cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="alignpipe compare",
        description="Runs beside each other: in which keys of their configs they differ, and their final figures.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="of a run, or with runs below it (a sweep)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write all differing keys and metrics: .csv, .jsonl or .parquet"
    )
    arguments = parser.parse_args(list(argv))
    write = writer_for(arguments.out) if arguments.out else None
    folders = list(dict.fromkeys(run for folder in arguments.folders for run in runs_in(folder)))
    settings = _differing([_config(folder) for folder in folders])
    lines = [_line(*of_one) for of_one in zip(folders, _names(folders), settings, strict=True)]
    show_runs(lines, "run", f"{len(lines)} runs")
    if write is not None:
        table = [
            {"run": str(folder), "status": line.status, **own, **line.metrics}
            for folder, line, own in zip(folders, lines, settings, strict=True)
        ]
        with storing("writing the comparison", arguments.out.parent):
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write(arguments.out, table)
        sys.stdout.write(f"\nall figures: {arguments.out}\n")
    return 0


def _line(folder: Path, name: str, given: Mapping[str, Any]) -> Line:
    """A run's line in the table, from its summary.json."""
    summary = read_json(folder / "summary.json") or {"status": "unreadable", "stages": {}, "metrics": {}}
    failed = next((stage for stage, how in summary["stages"].items() if how["status"] == "failed"), None)
    return Line(
        name,
        [f"{key}={_shown(value)}" for key, value in given.items()],
        f"{summary['status']} in {failed}" if failed else summary["status"],
        list(summary["stages"]),
        summary["metrics"],
    )


def _shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def runs_in(folder: Path) -> list[Path]:
    """The run folder itself, or those below it, jobs in the order of their numbers.

    Raises `ConfigError` if there are none.
    """
    if (folder / "summary.json").is_file():
        return [folder]
    found = sorted((path.parent for path in folder.rglob("summary.json")), key=_by_numbers)
    if not found:
        why = "holds no run (no summary.json in it or below)" if folder.is_dir() else "there is no such folder"
        raise ConfigError(f"compare {folder}: {why}; run folders lie in outputs/runs and outputs/sweeps")
    return found


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """A key that sorts 9 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]


def _names(folders: Sequence[Path]) -> list[str]:
    """What tells the folders apart: their last parts, as many as it takes."""
    for count in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-count:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            return names
    return [str(folder) for folder in folders]


def _config(folder: Path) -> dict[str, Any]:
    """The run's resolved config by dotted keys; {} for one that ended before it was written."""
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    return dict(_flat(OmegaConf.to_container(OmegaConf.load(path), resolve=False), ""))


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    elif not _NOT_COMPARED.match(key):
        yield (key.removesuffix(".name"), value)  # the option's name: ppo=grpo


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of every config the keys that all of them have and in which they differ: the others belong to another option."""
    known = [config for config in configs if config]
    common = [key for key in known[0] if all(key in config for config in known)] if known else []
    keys = [key for key in common if any(config[key] != known[0][key] for config in known)]
    return [{key: config[key] for key in keys} if config else {} for config in configs]
