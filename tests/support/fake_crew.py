"""Stages for several processes that run as threads here: a store in memory, and stages that meet in it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignpipe.api import Artifact, Component
from alignpipe.errors import ProcessError, StageInterrupted
from alignpipe.processes import Process
from alignpipe.runner.messages import Messages
from support.fake_run import COMPONENTS, SFT_PORTS

ME = "support.fake_crew"


class MemoryStore:
    """What `Messages` uses of torch's store; `gone` makes it fail as a store does whose host has died."""

    def __init__(self) -> None:
        self.content: dict[str, str] = {}
        self.gone = False

    def set(self, key: str, value: str) -> None:
        self.content[key] = value

    def get(self, key: str) -> bytes:
        return self.content[key].encode()

    def check(self, keys: list[str]) -> bool:
        if self.gone:
            raise RuntimeError("Connection reset by peer\nand more")
        return all(key in self.content for key in keys)


@dataclass(frozen=True)
class PairConfig:
    fails: str = field(default="", metadata={"fingerprint": False})
    """`all`, or the rank that fails alone (`exit of 1`: by `sys.exit`); `stop` interrupts all, `at once` ends rank 0 as
    a second signal does."""


class Pair:
    """Every process says that it is there; rank 0 waits for the other and writes the payload."""

    def __init__(self, config: PairConfig, ctx: Any) -> None:
        self.config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: Any) -> None:
        here = f"{ctx.rank} of {ctx.world_size}: {ctx.stage} seed {ctx.seed} {sorted(inputs)} {sorted(ctx.slots)}"
        ctx.say(f"said by {ctx.rank}")
        ctx.progress(1, 1)
        ctx.log({"rank": ctx.rank}, 1)
        ctx.log_timings({"time/step": 1.0}, 1)
        ctx.rewind(1)
        ctx.alert("from", f"rank {ctx.rank}")
        if self.config.fails in ("all", str(ctx.rank)):
            raise ValueError(f"rank {ctx.rank} cannot")
        if self.config.fails == f"exit of {ctx.rank}":
            sys.exit(0)
        if self.config.fails == "stop":
            raise StageInterrupted("saved")
        if self.config.fails == "at once" and ctx.rank == 0:
            raise KeyboardInterrupt
        (ctx.payload / f"rank-{ctx.rank}").write_text("")  # rank 1's must not get into the artifact
        (ctx.work / f"here-{ctx.rank}").write_text(here)
        if ctx.rank == 0:
            self._meet(ctx.work)
            (ctx.payload / "config.json").write_text("\n".join((ctx.work / f"here-{n}").read_text() for n in range(2)))

    def _meet(self, work: Path) -> None:
        for _ in range(100):
            if (work / "here-1").exists():
                return
            threading.Event().wait(0.02)
        raise ProcessError("another process of this run has ended")


PAIR = Component(
    "sft", "pair", PairConfig, f"{ME}:Pair", "p", needs=SFT_PORTS, makes="policy", uses=("model",), parallel=True
)
CREW_COMPONENTS = (*COMPONENTS, PAIR)


def use_memory(monkeypatch: Any) -> MemoryStore:
    """Let both sides meet in memory; this thread is rank 0 of 2."""
    store = MemoryStore()
    for module in ("leading", "following"):
        monkeypatch.setattr(f"alignpipe.runner.{module}.connect", lambda process: Messages(store))
        monkeypatch.setattr(f"alignpipe.runner.{module}.disconnect", lambda: None)
    # alignpipe.runner has a function of the module's name
    monkeypatch.setattr(sys.modules["alignpipe.runner.execute"], "this_process", lambda: Process(0, 2, 0, 2))
    monkeypatch.setattr("alignpipe.runner.following._AFTER_FAILURE", 0.5)
    return store
