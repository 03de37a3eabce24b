"""What stages and trackers are given: the context of the contracts in `alignpipe.api.stages`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignpipe.api import Reward, Selected, Split, Stage
from alignpipe.api.tracking import Level
from alignpipe.config.convert import from_plain
from alignpipe.config.model import RunSettings
from alignpipe.errors import PluginError
from alignpipe.plan import Decision, StageSpec
from alignpipe.registry import Registered, Registry, load_factory
from alignpipe.runner.devices import prepare_device, share_cores
from alignpipe.runner.live_run import LiveRun
from alignpipe.runner.recording import StageLog
from alignpipe.runner.terminal import Bar
from alignpipe.store import WorkFolder
from alignpipe.store.locks import HeldLock

if TYPE_CHECKING:
    from alignpipe.rewarding.stage import RewardStage


class Builder:
    """What factories are given (`api.BuildContext`); the contexts of stages extend it."""

    def __init__(self, registry: Registry, settings: RunSettings, device: str | None = None) -> None:
        self.seed = settings.seed
        self.lanes = settings.lanes
        self._registry = registry
        self._settings = settings
        self._device = device

    @property
    def device(self) -> str:
        """The torch device; where none was given, the one that the settings name, for which torch is imported."""
        if self._device is None:
            self._device = prepare_device(self._settings)
        return self._device

    def origin(self, selected: Selected) -> str:
        """The component with its distribution and version, for messages."""
        return str(self._registry.get(selected.group, selected.name))

    def build(self, selected: Selected) -> Any:
        """Build a component from its config, typed or plain (as artifacts store it); it gets this context too.

        Raises `PluginError` for a reward that cannot score, and for a factory that calls `sys.exit`, which must not end
        the process as if all were well.
        """
        registered = self._registry.get(selected.group, selected.name)
        config = selected.config
        if isinstance(config, Mapping):
            config = from_plain(config, registered, self._registry)
        try:
            built = load_factory(registered)(config, self)
        except SystemExit as error:
            raise PluginError(f"{registered}: its factory called sys.exit({error.code!r})") from error
        if selected.group == "reward" and not isinstance(built, Reward):
            raise PluginError(f"{registered}: its factory made a {type(built).__name__} without score(samples)")
        return built


class LookingAhead(Builder):
    """The context of a stage that looks at what will feed it (`api.CheckContext`)."""

    def __init__(self, live: LiveRun, spec: StageSpec, asked: Sequence[Split] = ()) -> None:
        super().__init__(live.registry, live.run.settings)
        share_cores()  # a stage's code may import torch
        self.stage = spec.name
        self.slots = spec.keyed_slots
        self.asked = asked
        """For the stage of a reward: the splits whose prompts it will be asked about."""


class SilentStage(Builder):
    """The base of contexts that log and show nothing: of processes that help rank 0, of rewards that are tried out."""

    def _drop(self, *_: object, **__: object) -> None: ...

    log = log_timings = sync_log = rewind = progress = alert = _drop


class RunningStage(Builder):
    """The context of one stage while it runs; of several processes, rank 0's."""

    def __init__(
        self,
        live: LiveRun,
        decision: Decision,
        work: WorkFolder,
        lock: HeldLock,
        device: str,
        log: StageLog,
        bar: Bar,
    ) -> None:
        super().__init__(live.registry, live.run.settings, device)
        self.stage = decision.spec.name
        self.payload: Path = work.payload
        self.work: Path = work.state  # the rest of the work folder is the runner's
        self.slots = decision.slots
        self.scoring = live.run.settings.scoring
        self.rank = 0
        self.world_size = live.crew.size(decision)
        self.log, self.log_timings = log.metrics, log.timings
        self.sync_log, self.rewind = log.sync, log.rewind
        self._live = live
        self._lock = lock
        self._bar = bar

    def progress(self, done: int, total: int, figures: Mapping[str, float] | None = None, unit: str = "step") -> None:
        """Show how far the stage is."""
        self._bar.update(done, total, figures or {}, unit)

    def stop_requested(self) -> bool:
        """Whether to save and end; raises `StoreError` if the work folder is another process's by now."""
        self._lock.check()
        return self._live.signals.requested()

    def say(self, message: str) -> None:
        """Tell the user one line."""
        self._live.say(self.stage, message)

    def alert(self, title: str, text: str, level: Level = "warn") -> None:
        """Call for attention, on the terminal and in the trackers."""
        if level == "warn":
            self.say(f"alarm: {title}: {text}")
        self._live.trackers.alert(f"{self.stage}: {title}", text, level)


def reward_stage(selected: Selected, registered: Registered) -> RewardStage:
    """The one stage that serves all rewards, for this one."""
    from alignpipe.rewarding.stage import RewardStage

    return RewardStage(selected, registered.component.version, registered.provider)


def build_stage(selected: Selected, registered: Registered, ctx: Builder) -> Stage:
    """The stage object; rewards are no stages, one reward stage serves them all.

    Raises `PluginError` if the component's factory makes something that cannot run.
    """
    if selected.group == "reward":
        return reward_stage(selected, registered)
    stage: Stage = load_factory(registered)(selected.config, ctx)
    if not callable(getattr(stage, "run", None)):
        raise PluginError(f"{registered}: its factory made a {type(stage).__name__} without run(inputs, ctx)")
    return stage
