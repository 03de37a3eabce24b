"""The pluggy hooks: one that offers components, the others observe a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pluggy

from alignpipe.api.artifacts import Artifact
from alignpipe.api.components import Component
from alignpipe.api.tracking import RunInfo

PROJECT = "alignpipe"
ENTRY_POINT_GROUP = "alignpipe.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class HookSpecs:
    """Every hook a plugin may implement; all arguments may be left out of an implementation."""

    @hookspec
    def alignpipe_components(self) -> Iterable[Component]:  # type: ignore[empty-body]
        """Offer components.

        Example:
            >>> from dataclasses import dataclass
            >>> from alignpipe.api import Component, hookimpl
            >>> @dataclass
            ... class Shouting:
            ...     weight: float = 1.0
            >>> class Plugin:
            ...     @hookimpl
            ...     def alignpipe_components(self):
            ...         yield Component("reward", "shouting", Shouting, "acme.shouting:build", "upper-case share")
            >>> [component.name for component in Plugin().alignpipe_components()]
            ['shouting']
        """

    @hookspec
    def alignpipe_run_started(self, info: RunInfo) -> None:
        """A run begins; nothing has been computed yet.

        Example:
            >>> from alignpipe.api import hookimpl
            >>> class Plugin:
            ...     @hookimpl
            ...     def alignpipe_run_started(self, info):
            ...         print("run", info.run_key, "attempt", info.attempt)
        """

    @hookspec
    def alignpipe_run_finished(self, info: RunInfo, summary: Mapping[str, Any]) -> None:
        """A run ended, in whatever way; `summary` is the content of its summary.json.

        Example:
            >>> from alignpipe.api import hookimpl
            >>> class Plugin:
            ...     @hookimpl
            ...     def alignpipe_run_finished(self, summary):
            ...         print(summary["status"], summary["metrics"].get("eval/gold/win_rate"))
        """

    @hookspec
    def alignpipe_stage_started(self, info: RunInfo, stage: str) -> None:
        """A stage starts to do work (a cached stage does not).

        Example:
            >>> from alignpipe.api import hookimpl
            >>> class Plugin:
            ...     @hookimpl
            ...     def alignpipe_stage_started(self, stage):
            ...         print("working on", stage)
        """

    @hookspec
    def alignpipe_stage_finished(self, info: RunInfo, stage: str, artifact: Artifact, cached: bool) -> None:
        """A stage's artifact is there: just published, or found in the store (`cached`).

        Example:
            >>> from alignpipe.api import hookimpl
            >>> class Plugin:
            ...     @hookimpl
            ...     def alignpipe_stage_finished(self, stage, artifact, cached):
            ...         print(stage, "cached" if cached else "done", artifact.folder)
        """

    @hookspec
    def alignpipe_stage_failed(self, info: RunInfo, stage: str, error: BaseException) -> None:
        """A stage raised; the run ends with this error.

        Example:
            >>> from alignpipe.api import hookimpl
            >>> class Plugin:
            ...     @hookimpl
            ...     def alignpipe_stage_failed(self, stage, error):
            ...         print(stage, "failed:", error)
        """

    @hookspec
    def alignpipe_metrics_logged(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        """A stage logged metrics (names without the stage's prefix).

        Example:
            >>> from alignpipe.api import hookimpl
            >>> class Plugin:
            ...     @hookimpl
            ...     def alignpipe_metrics_logged(self, stage, metrics, step):
            ...         print(f"{stage} {step}: {metrics}")
        """
