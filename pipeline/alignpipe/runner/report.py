"""What a run prints at its end: the comparison, sample pairs, paths, what to try next; or how to resume."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from alignpipe.api import Artifact
from alignpipe.config.model import RunConfig
from alignpipe.runner.live_run import LiveRun
from alignpipe.runner.payloads import REPORT, report_problem
from alignpipe.runner.summary import Summary
from alignpipe.store.files import read_json
from alignpipe.tables import cell, printable, show_table

_SAMPLES = 3
_TEXT = 300


def final_report(run: RunConfig, summary: Summary, made: Mapping[str, Artifact], out: TextIO) -> None:
    """Print the tables, the samples and the paths on `out`.

    Of a sweep's job only the comparison and the paths: the sweep ends with a table of its own.
    """
    report = _last_report(made)
    if report is not None:
        columns = ["", *(str(column) for column in report["columns"])]
        rows = [[cell(value) for value in row] for row in report["rows"]]
        out.write("\n")
        show_table(columns, rows, "on held-out prompts", figures=True, out=out)
        out.write("\n")
    alone = run.command.sweep is None
    if alone:
        _show_samples(out, report or {})
        rows = [[name, result.status, f"{result.seconds:.1f}"] for name, result in summary.stages.items()]
        show_table(["stage", "status", "seconds"], rows, figures=True, out=out)
        out.write("\n")
    for label, path in _paths(run, made):
        out.write(f"{label:<12}{path}\n")
    if alone:
        out.write(f"{'next':<12}{_next_command(run)}\n")
    out.flush()


def _last_report(made: Mapping[str, Artifact]) -> dict[str, Any] | None:
    """The report.json of the last stage that made a report, if it has one."""
    for artifact in reversed(list(made.values())):
        if artifact.kind == "report":
            content = read_json(artifact.folder / REPORT)
            return content if content is not None and not report_problem(content) else None
    return None


def _show_samples(out: TextIO, report: Mapping[str, Any]) -> None:
    for sample in report.get("samples", [])[:_SAMPLES]:
        out.write(f"prompt    {_one_line(sample['prompt'])}\n")
        for name, label in (("baseline", report["columns"][0]), ("policy", report["columns"][-1])):
            if sample.get(name) is not None:
                out.write(f"{label!s:<10}{_one_line(sample[name])}\n")
        out.write("\n")


def _paths(run: RunConfig, made: Mapping[str, Artifact]) -> list[tuple[str, Path]]:
    paths = [("run folder", run.folder)]
    policies = [artifact for artifact in made.values() if artifact.kind == "policy"]
    if policies:
        paths.append(("policy", policies[-1].folder))
    for artifact in made.values():
        if artifact.kind == "report":
            paths += [("samples", path) for path in sorted(artifact.folder.glob("samples*"))]
    return paths


def _next_command(run: RunConfig) -> str:
    """The same run with another seed: always possible, and the first thing to know about a result."""
    kept = [word for word in run.command.alone if not word.lstrip("+").startswith(("seed=", "hydra.run.dir="))]
    return shlex.join(["alignpipe", *kept, f"seed={run.settings.seed + 1}"]) + "   (does it hold with another seed?)"


def _one_line(text: str) -> str:
    flat = printable(" ".join(str(text).split()))
    return flat if len(flat) <= _TEXT else f"{flat[: _TEXT - 3]}..."


def say_how_to_resume(live: LiveRun, stop: BaseException) -> None:
    """Tell the user of an interrupted run how to go on."""
    reason = f" ({stop})" if str(stop) else ""
    command = live.run.command
    what = "give the same command again" if command.sweep is None else "start the same sweep again in the same folder"
    live.terminal.say(f"interrupted{reason}; what is finished is kept. To go on, {what}:")
    process = live.crew.process
    alone = process.world_size == 1 or live.run.settings.processes > 1
    launcher = [] if alone else ["torchrun", f"--nproc-per-node={process.local_world_size}", "-m"]
    live.terminal.say(f"  {shlex.join([*launcher, 'alignpipe', *command.again])}")
