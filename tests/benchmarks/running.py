"""Running things once: measured processes, results kept in files, alignpipe on a prepared store.

Every script keeps its results in `<work>/results`, one file per measured process with what was measured, and takes
them from there when it is started again; `--fresh` measures anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import machine, versions

HERE = Path(__file__).resolve().parent


def arguments(doc: str | None, name: str, rounds: int | None = 3) -> argparse.ArgumentParser:
    """A parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("outputs/benchmarks") / name, help="folder of all files")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help=f"interleaved rounds ({rounds})")
    parser.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    text = "more overrides for alignpipe"
    parser.add_argument("--ours", nargs="*", default=[], metavar="KEY=VALUE", help=text)
    return parser


def add_variants(parser: argparse.ArgumentParser) -> None:
    """The option that compares ways of running alignpipe."""
    text = "compare override sets: --variant float32= --variant 'name=key=value processes=2' (may be given often)"
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=OVERRIDES", help=text)


def variants(words: Sequence[str]) -> dict[str, list[str]]:
    """`["a=", "b=x=1 y=2"]` as `{"a": [], "b": ["x=1", "y=2"]}`; one plain variant if there are none."""
    named = [word.partition("=") for word in words] or [("default", "=", "")]
    return {name: overrides.split() for name, _, overrides in named}


def begin(options: argparse.Namespace) -> Path:
    """The absolute work folder, and the lines every output starts with."""
    work: Path = options.work.resolve()
    if options.fresh:
        shutil.rmtree(work / "results", ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    say(f"{machine()}\n{versions()}\nfiles in {work}\n")
    return work


def say(text: str) -> None:
    """Print at once: a benchmark's output is followed while it runs."""
    print(text, flush=True)


def once(work: Path, name: str, spec: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` returns, or what it returned before for the same name and spec."""
    path, wanted = work / "results" / f"{name}.json", json.loads(json.dumps(spec))
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["spec"] == wanted:
            say(f"  {name}: measured before")
            return dict(kept["result"])
    began = time.perf_counter()
    result = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"spec": wanted, "result": result}, indent=1) + "\n")
    draft.rename(path)
    say(f"  {name}: {time.perf_counter() - began:.1f} s")
    return result


def process(command: Sequence[str], log: Path) -> dict[str, float]:
    """Run to the end: seconds, and the largest resident memory in MB. Ends the script if the command fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1", **os.environ}
    with log.open("w") as file:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{' '.join(command)}\nended with status {child.returncode}; the end of {log}:\n{tail}")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return {"process_seconds": seconds, "peak_mb": usage.ru_maxrss * unit / 1e6}


@dataclass(frozen=True)
class Run:
    """A finished run of alignpipe, read from its folder."""

    folder: Path
    used: Mapping[str, float]

    def lines(self, name: str, stage: str) -> list[dict[str, float]]:
        """Lines of metrics.jsonl or timings.jsonl of one stage, in order."""
        lines = [json.loads(line) for line in (self.folder / name).read_text().splitlines()]
        return [line for line in lines if line["stage"] == stage]

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        return dict(json.loads((self.folder / "summary.json").read_text()))

    def artifact(self, stage: str) -> str:
        """The folder of what a stage made."""
        return str(self.summary["stages"][stage]["artifact"])

    def phases(self) -> list[dict[str, float]]:
        """Seconds per phase of every update, evaluation left out, with `update`, `rest` and `tokens` per update."""
        found = []
        for line in self.lines("timings.jsonl", "ppo"):
            laps = {key.removeprefix("ppo/time/"): line[key] for key in line if key.startswith("ppo/time/")}
            whole = laps.pop("update")
            tokens = whole * line["ppo/perf/tokens_per_second"]
            apart = laps.pop("evaluate", 0.0)
            own = whole - apart
            rest = own - sum(laps.values())
            found.append({**laps, "rest": rest, "update": own, "evaluate": apart, "tokens": tokens})
        return found


def alignpipe(outputs: Path, overrides: Sequence[str], stages: Sequence[str], name: str = "run") -> Run:
    """Run alignpipe in a process of its own; the run folder is `<outputs>/<name>`."""
    folder = outputs / name
    shutil.rmtree(folder, ignore_errors=True)
    settings = [f"outputs={outputs}", f"hydra.run.dir={folder}", "tracker=[]", f"stages=[{','.join(stages)}]"]
    report = outputs / f"{name}.inside.json"
    command = [sys.executable, str(HERE / "inside.py"), str(report), *overrides, *settings]
    used = process(command, outputs / f"{name}.log")
    inside = json.loads(report.read_text())
    used["process_seconds"] -= inside["after_seconds"]  # the matrix product is no part of the run
    return Run(folder, used | inside)


def copied_store(prepared: Path, outputs: Path, again: Sequence[str]) -> Path:
    """A copy of a prepared store in which the stages of `again` are still to be run."""
    shutil.rmtree(outputs, ignore_errors=True)
    shutil.copytree(prepared / "store", outputs / "store")
    for stage in again:
        shutil.rmtree(outputs / "store" / "index" / stage, ignore_errors=True)
    return outputs
