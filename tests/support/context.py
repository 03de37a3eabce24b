"""A stage context for tests: folders under tmp_path, everything that is logged or said kept in lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignpipe.api import Scoring, Selected


@dataclass
class FakeContext:
    """Implements `alignpipe.api.StageContext` without a runner.

    `builders` maps `group/name` to what `build` returns for such a selection (called with its config); `stop_after` is
    how many times `stop_requested` still answers no (None: always no).
    """

    root: Path
    seed: int = 0
    device: str = "cpu"
    lanes: int | None = 1
    stage: str = "stage"
    scoring: Scoring = field(default_factory=Scoring)
    slots: Mapping[str, Selected] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1
    builders: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    stop_after: int | None = None
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    timings: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    shown: list[tuple[int, int, dict[str, float], str]] = field(default_factory=list)
    built: list[Selected] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.payload = self.root / "payload"
        self.work = self.root / "work"
        self.payload.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)

    def build(self, selected: Selected) -> Any:
        self.built.append(selected)
        return self.builders[f"{selected.group}/{selected.name}"](selected.config)

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        last = self.logged[-1][0] if self.logged else 0
        self.logged.append((last if step is None else step, dict(metrics)))

    def log_timings(self, timings: Mapping[str, float], step: int) -> None:
        self.timings.append((step, dict(timings)))

    def sync_log(self) -> None: ...

    def rewind(self, step: int) -> None:
        self.logged = [entry for entry in self.logged if entry[0] <= step]
        self.timings = [entry for entry in self.timings if entry[0] <= step]

    def progress(self, done: int, total: int, figures: Mapping[str, float] | None = None, unit: str = "step") -> None:
        self.shown.append((done, total, dict(figures or {}), unit))

    def say(self, message: str) -> None:
        self.said.append(message)

    def alert(self, title: str, text: str, level: str = "warn") -> None:
        self.alerts.append((title, text, level))

    def stop_requested(self) -> bool:
        if self.stop_after is None:
            return False
        self.stop_after -= 1
        return self.stop_after < 0

    def metrics(self) -> dict[str, float]:
        """The last value of every metric."""
        return {name: value for _, metrics in self.logged for name, value in metrics.items()}

    def series(self, name: str) -> list[float]:
        """Every value of one metric, in the order it was logged."""
        return [metrics[name] for _, metrics in self.logged if name in metrics]
