"""The trackers and the observers of a run; one that raises is reported once and switched off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from alignpipe.api import AlertingTracker, Artifact, RunInfo, Selected, Tracker
from alignpipe.api.tracking import Level, Status
from alignpipe.errors import ConfigError
from alignpipe.runner.recording import Logged, logged_values, new_values

if TYPE_CHECKING:
    from alignpipe.runner.context import Builder


class Trackers:
    """Passes what the run logs to every tracker; no tracker can end or change a run that has started."""

    def __init__(self, selected: Mapping[str, Selected], ctx: Builder, say: Callable[[str], None]) -> None:
        """Build the trackers.

        Raises `ConfigError` if one of them cannot be used as it is configured.
        """
        self._say = say
        self._started = False
        self._active: dict[str, Tracker] = {}
        self._known: dict[str, set[Logged]] = {}
        """By tracker that goes on in the run of an earlier attempt: what it was told then."""
        self._called = {name: f"{name} ({ctx.origin(choice)})" for name, choice in selected.items()}
        for name, choice in selected.items():
            tracker = self._guard(name, _built, ctx, choice)
            if tracker is not None:
                self._active[name] = tracker

    def start(self, info: RunInfo) -> dict[str, str]:
        """Open the run in every tracker; returns their own run ids.

        Raises `ConfigError` before any work if a tracker cannot be used as it is configured.
        """
        try:
            ids = {name: run_id for name, run_id in self._each("start", info, gives=str) if run_id is not None}
        finally:
            self._started = True
        again = [name for name, run_id in ids.items() if info.tracker_ids.get(name) == run_id]
        self._known = {name: logged_values(info.earlier.get(name, ())) for name in again}
        return ids

    @property
    def go_on(self) -> bool:
        """Whether one of them goes on in the run of an earlier attempt."""
        return bool(self._known)

    def log(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step of one stage, leaving out what a tracker got from an earlier attempt."""
        for name, tracker in list(self._active.items()):
            if fresh := new_values(stage, metrics, step, self._known.get(name, set())):
                self._guard(name, _call, tracker, "log", None, stage, fresh, step)

    def alert(self, title: str, text: str, level: Level) -> None:
        """Call for attention in the trackers that can."""
        for name, tracker in list(self._active.items()):
            if isinstance(tracker, AlertingTracker):
                self._guard(name, tracker.alert, title, text, level)

    def artifact(self, artifact: Artifact) -> None:
        """Pass on a published or reused artifact."""
        self._each("artifact", artifact)

    def summary(self, values: Mapping[str, float]) -> None:
        """Record the final figures."""
        self._each("summary", values)

    def finish(self, status: Status) -> list[str]:
        """Close the run in every tracker; returns the lines they have for the user."""
        return [line for _, line in self._each("finish", status, gives=str) if line]

    def _each(self, method: str, *arguments: Any, gives: type | None = None) -> list[tuple[str, Any]]:
        """Call a method of every tracker that is on; returns what each returned, of the type `gives` or None."""
        active = list(self._active.items())
        return [(name, self._guard(name, _call, tracker, method, gives, *arguments)) for name, tracker in active]

    def _guard(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except (Exception, SystemExit) as error:
            self._active.pop(name, None)
            if isinstance(error, ConfigError) and not self._started:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._say(f"tracker {self._called[name]} is switched off, the run goes on without it: {reason}")
            return None


def _built(ctx: Builder, choice: Selected) -> Tracker:
    tracker: Tracker | None = ctx.build(choice)
    if tracker is None:
        raise TypeError("its factory returned None in place of a tracker")
    return tracker


def _call(tracker: Tracker, method: str, gives: type | None, *arguments: Any) -> Any:
    """What a method returns; raises `TypeError` for what is neither None nor of the type `gives`, if that is given."""
    returned = getattr(tracker, method)(*arguments)
    if gives is not None and not isinstance(returned, gives | None):
        raise TypeError(f"its {method} returned {returned!r}, which is no {gives.__name__}")
    return returned


class Observers:
    """Calls the lifecycle hooks of the plugins one by one, so that none can stop the others or the run."""

    def __init__(self, hook: Any, say: Callable[[str], None]) -> None:
        self._hook = hook
        self._say = say
        self._off: set[str] = set()

    def log(self, stage: str, metrics: Mapping[str, float], step: int) -> None:
        """Pass on the metrics of one step of one stage."""
        self.notify("alignpipe_metrics_logged", stage=stage, metrics=metrics, step=step)

    def notify(self, name: str, **arguments: Any) -> None:
        """Call one hook of every observer that is still on; an implementation takes the arguments it names."""
        for implementation in reversed(getattr(self._hook, name).get_hookimpls()):
            plugin = implementation.plugin_name
            if plugin in self._off:
                continue
            try:
                implementation.function(*(arguments[argument] for argument in implementation.argnames))
            except (Exception, SystemExit) as error:
                self._off.add(plugin)
                reason = f"its {name} raised {type(error).__name__}: {error}"
                self._say(f"plugin {plugin} is not told of this run any more: {reason}")
