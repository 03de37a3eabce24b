"""A pipeline of small fake stages (no torch) and the configuration around it; also a script for subprocess tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

from alignpipe.api import Artifact, Component, HookSpecs, Port, Selected
from alignpipe.api.hooks import PROJECT
from alignpipe.config.model import CodeChange, CommandLine, RunConfig, RunSettings
from alignpipe.errors import StageInterrupted
from alignpipe.registry import Registry
from alignpipe.registry.loader import Plugin
from alignpipe.registry.registered import Registered
from alignpipe.runner import execute
from alignpipe.runner.recording import read_lines

HERE = Path(__file__).parent
NO_TABLES = '{"tables": {}, "gold": null}'
"""The description of a dataset that has none."""


@dataclass(frozen=True)
class DataConfig:
    rows: int = 3
    path: str = field(default="", metadata={"fingerprint": False})

    def revision(self) -> Mapping[str, str]:
        return {"file": Path(self.path).read_text()} if self.path else {}


@dataclass(frozen=True)
class ModelConfig:
    size: int = 8


@dataclass(frozen=True)
class SftConfig:
    lr: float = 0.1
    max_steps: int = 4
    pause: float = field(default=0.0, metadata={"fingerprint": False})
    die_at: int = field(default=-1, metadata={"fingerprint": False})
    signal_at: int = field(default=-1, metadata={"fingerprint": False})
    signal_number: int = field(default=int(signal.SIGTERM), metadata={"fingerprint": False})
    fail: str = field(default="", metadata={"fingerprint": False})


@dataclass(frozen=True)
class PpoConfig(SftConfig):
    kl_coef: float = 0.05
    judge: Any = None


@dataclass(frozen=True)
class EvalConfig:
    samples: int = 2


class Data:
    def __init__(self, config: DataConfig, ctx: Any) -> None:
        self.config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: Any) -> None:
        note_execution(ctx)
        (ctx.payload / "rows.json").write_text(json.dumps([self.config.rows, ctx.seed]))
        (ctx.payload / "dataset.json").write_text(NO_TABLES)
        ctx.log({"rows": self.config.rows})


class Train:
    """Adds up numbers step by step, with a checkpoint after every step; the result depends on everything keyed."""

    def __init__(self, config: SftConfig, ctx: Any) -> None:
        self.config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: Any) -> None:
        note_execution(ctx)
        config = self.config
        step, total = self._resume(ctx)
        while step < config.max_steps:
            if ctx.stop_requested():
                raise StageInterrupted(f"state of step {step} saved")
            step += 1
            total += config.lr * step
            ctx.log({"loss": 1 / total, "group/total": total}, step)
            ctx.log_timings({"time/step": 0.5}, step)
            ctx.progress(step, config.max_steps, {"loss": 1 / total})
            self._save(ctx, step, total)
            time.sleep(config.pause)
            if step == config.die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if step == config.signal_at:
                os.kill(os.getpid(), config.signal_number)
            if config.fail:
                raise ValueError(config.fail)
        fed = {port: artifact.digest for port, artifact in inputs.items()}
        (ctx.payload / "config.json").write_text(json.dumps({"total": total, "fed": fed}, sort_keys=True))
        (ctx.payload / "weights").mkdir()
        (ctx.payload / "weights" / "w.bin").write_bytes(b"w" * 100)

    def _resume(self, ctx: Any) -> tuple[int, float]:
        found = sorted((ctx.work / "checkpoints").glob("step-*"))
        if not found:
            return 0, 0.0
        step, total = json.loads((found[-1] / "state.json").read_text())
        ctx.rewind(step)
        return step, total

    def _save(self, ctx: Any, step: int, total: float) -> None:
        draft = ctx.work / "draft"
        draft.mkdir(parents=True)
        (draft / "state.json").write_text(json.dumps([step, total]))
        (ctx.work / "checkpoints").mkdir(exist_ok=True)
        draft.rename(ctx.work / "checkpoints" / f"step-{step:08d}")


class Eval:
    def __init__(self, config: EvalConfig, ctx: Any) -> None:
        self.config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: Any) -> None:
        note_execution(ctx)
        ctx.log({"gold/mean": 0.75, "kl": 1.5}, 0)
        report = {
            "columns": ["sft", "ppo"],
            "rows": [["gold", 0.25, 0.75], ["win rate", None, "0.81 [0.70, 0.90]"]],
            "samples": [{"prompt": f"question {n}", "baseline": "no", "policy": "yes"} for n in range(5)],
            "ports": sorted(inputs),
        }
        (ctx.payload / "report.json").write_text(json.dumps(report))
        (ctx.payload / "samples.jsonl").write_text("{}\n")


class RecordingTracker:
    """Keeps what it is told in a file; raises where its config says so."""

    def __init__(self, config: TrackerConfig, ctx: Any) -> None:
        self.config = config

    def _note(self, name: str, *facts: Any) -> None:
        if self.config.fails == name:
            raise RuntimeError(f"no {name} today")
        with Path(self.config.path).open("a") as file:
            file.write(json.dumps([name, *facts]) + "\n")

    def start(self, info: Any) -> str:
        self._note("start", info.attempt, dict(info.tracker_ids))
        return "id-1"

    def log(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        self._note("log", stage, dict(metrics), step)

    def alert(self, title: str, text: str, level: str) -> None:
        self._note("alert", title, text, level)

    def artifact(self, artifact: Artifact) -> None:
        self._note("artifact", artifact.stage, artifact.digest)

    def summary(self, values: Mapping[str, float]) -> None:
        self._note("summary", dict(values))

    def finish(self, status: str) -> str:
        self._note("finish", status)
        return "look there"


class QuietTracker:
    """A tracker written before there were alerts."""

    def __init__(self, config: TrackerConfig, ctx: Any) -> None:
        told = RecordingTracker(config, ctx)
        self.start, self.log, self.artifact = told.start, told.log, told.artifact
        self.summary, self.finish = told.summary, told.finish


@dataclass(frozen=True)
class TrackerConfig:
    path: str = ""
    fails: str = ""


def no_tracker(config: TrackerConfig, ctx: Any) -> None:
    """A factory that forgets to return what it makes."""


class NoStage:
    """What a broken factory makes."""

    def __init__(self, config: EvalConfig, ctx: Any) -> None:
        self.config = config


class Curious:
    """Uses everything a context offers."""

    def __init__(self, config: EvalConfig, ctx: Any) -> None:
        self.config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: Any) -> None:
        other = ctx.build(Selected("data", "fake", DataConfig(rows=9)))
        ctx.say(f"{other.config.rows} rows on {ctx.device} with seed {ctx.seed}")
        ctx.log({"a": 1}, 5)
        ctx.log({"b": float("nan")})
        ctx.alert("odd", "look at it")
        ctx.alert("broken", "it fails", level="error")
        (ctx.payload / "slots").write_text(" ".join(ctx.slots))
        (ctx.payload / "dataset.json").write_text(NO_TABLES)


def note_execution(ctx: Any) -> None:
    """One line per attempt of a stage, across processes."""
    if log := os.environ.get("FAKE_EXECUTIONS"):
        with Path(log).open("a") as file:
            file.write(f"{ctx.stage}\n")


DATASET, POLICY = Port("dataset"), Port("policy")
SFT_PORTS = {"dataset": DATASET, "policy": Port("policy", "base", required=False)}
PPO_PORTS = {
    "dataset": DATASET,
    "policy": Port("policy", "nearest_or_base"),
    "reference": Port("policy", "policy"),
    "reward": Port("reward", required=False),
}
EVAL_PORTS = {
    "dataset": DATASET,
    "policy": POLICY,
    "baseline": Port("policy", "first", required=False),
    "reward": Port("reward", required=False),
}
ME = "support.fake_run"
COMPONENTS = (
    Component("data", "fake", DataConfig, f"{ME}:Data", "data", makes="dataset"),
    Component("model", "fake", ModelConfig, f"{ME}:Data", "a model source"),
    Component("sft", "fake", SftConfig, f"{ME}:Train", "sft", needs=SFT_PORTS, makes="policy", uses=("model",)),
    Component("ppo", "fake", PpoConfig, f"{ME}:Train", "ppo", needs=PPO_PORTS, makes="policy", uses=("model",)),
    Component("reward", "fake", EvalConfig, f"{ME}:Data", "a reward"),
    Component("eval", "fake", EvalConfig, f"{ME}:Eval", "eval", needs=EVAL_PORTS, makes="report"),
    Component("tracker", "fake", TrackerConfig, f"{ME}:RecordingTracker", "a tracker"),
)


def make_registry(*observers: Any, components: tuple[Component, ...] = COMPONENTS, **origin: Any) -> Registry:
    """A real registry of the fake components; `origin` changes where they seem to come from."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    for observer in observers:
        manager.register(observer)
    about = {
        "plugin": "fake",
        "module": __name__,
        "distribution": "fake-stages",
        "version": "1.0",
        "folder": HERE,
        **origin,
    }
    registered = tuple(Registered(component, **about) for component in components)
    return Registry([Plugin("fake", about["distribution"], about["version"], "ok", components=registered)], manager)


def make_run(
    outputs: Path,
    folder: str = "run",
    *,
    data: DataConfig | None = None,
    sft: SftConfig | None = None,
    ppo: PpoConfig | None = None,
    model: ModelConfig | None = None,
    trackers: Mapping[str, Selected] | None = None,
    extra: Mapping[str, Selected] | None = None,
    sweep: str | None = None,
    overrides: tuple[str, ...] = (),
    **settings: Any,
) -> RunConfig:
    """The configuration of a run of fake stages: data, sft, ppo, eval unless `stages` says otherwise."""
    settings.setdefault("stages", ["data", "sft", "ppo", "eval"])
    settings.setdefault("device", "cpu")
    settings.setdefault("code_change", CodeChange.ignore)
    selected = {
        "data": Selected("data", "fake", data or DataConfig()),
        "sft": Selected("sft", "fake", sft or SftConfig()),
        "ppo": Selected("ppo", "fake", ppo or PpoConfig()),
        "reward": Selected("reward", "fake", EvalConfig()),
        "eval": Selected("eval", "fake", EvalConfig()),
        "model": Selected("model", "fake", model or ModelConfig()),
        **(extra or {}),
    }
    settings_ = RunSettings(outputs=str(outputs), **settings)
    resolved = {"seed": settings_.seed, "stages": settings_.stages}
    return RunConfig(
        settings_,
        selected,
        trackers or {},
        resolved,
        outputs,
        outputs / "runs" / folder,
        CommandLine(
            overrides,
            again=overrides if sweep is None else ("-m", *overrides, f"hydra.sweep.dir={sweep}"),
            alone=overrides,
            sweep=sweep,
        ),
    )


def start(outputs: Path, **given: Any) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "support.fake_run", json.dumps({"outputs": str(outputs), **given})]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def summary_of(run: RunConfig) -> dict[str, Any]:
    """The run's summary.json."""
    return json.loads((run.folder / "summary.json").read_text())


def statuses(run: RunConfig) -> dict[str, str]:
    """How each stage of a run ended."""
    return {name: stage["status"] for name, stage in summary_of(run)["stages"].items()}


def metrics_of(run: RunConfig) -> list[dict[str, Any]]:
    """The lines of the run's metrics.jsonl."""
    return read_lines(run.folder / "metrics.jsonl")


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    sft_config = SftConfig(**given.pop("sft", {}))
    sys.exit(execute(make_run(Path(given.pop("outputs")), sft=sft_config, **given), make_registry()))
