"""The other processes' side of a run: they take part in the stages that rank 0 names, and leave everything else to it.

They plan nothing, lock nothing, log nothing and write nothing; what they need of the plan comes with each message.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignpipe.api import Artifact, Selected
from alignpipe.config.model import RunConfig
from alignpipe.errors import AlignpipeError, ConfigError, ProcessError, StageInterrupted
from alignpipe.processes import Process
from alignpipe.registry import Registry, load_factory
from alignpipe.runner.context import SilentStage, build_stage
from alignpipe.runner.devices import prepare_device
from alignpipe.runner.failures import in_words
from alignpipe.runner.leading import disconnect, parts_of
from alignpipe.runner.messages import Messages, connect
from alignpipe.runner.signals import StopSignals

_LONGEST_STAGE = 24 * 3600.0
"""Seconds without a word from rank 0; it says nothing while it runs a stage alone."""
_AFTER_SIGNAL = 20.0
"""Seconds after this process was asked to stop: launchers kill after 30."""
_AFTER_FAILURE = 5.0
"""Seconds in which rank 0 fails too if the cause is common to all; it then reports the error, and only it."""


class HelpingStage(SilentStage):
    """The context of a stage on a process that is not rank 0: rank 0 logs and shows for all."""

    def __init__(
        self,
        message: Mapping[str, Any],
        run: RunConfig,
        registry: Registry,
        process: Process,
        payload: Path,
        stop_requested: Callable[[], bool],
    ) -> None:
        super().__init__(registry, run.settings, prepare_device(run.settings, process, process.world_size))
        self.stage: str = message["stage"]
        self.payload = payload
        self.work = Path(message["work"])
        self.slots: Mapping[str, Selected] = {slot: run.selected[slot] for slot in message["slots"]}
        self.scoring = run.settings.scoring
        self.rank = process.rank
        self.world_size = process.world_size
        self.stop_requested = stop_requested

    say = SilentStage._drop


def follow(run: RunConfig, registry: Registry, process: Process) -> int:
    """Take part in what rank 0 asks for until it ends the run; gives the exit code 0 then, however the run ended.

    Raises `ProcessError` if rank 0 is gone, and what a stage raised if rank 0 did not end with the same.
    """
    messages = connect(process)
    with StopSignals(silent=True) as signals:
        while True:
            message = messages.next(_patience(signals))
            if message is None:
                raise ProcessError(
                    f"{process} has heard nothing from process 0, which leads the run, and ends; what was saved is "
                    "kept: give the same command again"
                )
            if message["do"] == "end":
                if message["well"]:
                    disconnect()
                return 0
            if message["do"] == "load":
                _check_same(message["config"], run, process)
                messages.note_here(process.rank)
                _load(message["components"], registry)
            if message["do"] == "stage":
                _help(message, run, registry, process, messages, signals)


def _patience(signals: StopSignals) -> Callable[[], float]:
    """How many seconds from now on to wait for rank 0, as far as is known when it is asked."""
    began = time.monotonic()

    def seconds() -> float:
        return _LONGEST_STAGE if signals.received_at is None else signals.received_at - began + _AFTER_SIGNAL

    return seconds


def _check_same(config: Mapping[str, str], run: RunConfig, process: Process) -> None:
    """Raise `ConfigError` if this process has composed another config than rank 0."""
    mine = parts_of(run)
    if different := [key for key in {**config, **mine} if config.get(key) != mine.get(key)]:
        raise ConfigError(
            f"{process} has another configuration than process 0: they differ in {', '.join(different)}. All need the "
            "same command line and the same config files"
        )


def _load(components: Sequence[tuple[str, str]], registry: Registry) -> None:
    """Import what stages to come are made of: seconds in which rank 0 is not ready yet."""
    for group, name in components:
        # What cannot be imported is told by the stage that needs it, here and on rank 0.
        with suppress(AlignpipeError):
            load_factory(registry.get(group, name))


def _help(
    message: Mapping[str, Any],
    run: RunConfig,
    registry: Registry,
    process: Process,
    messages: Messages,
    signals: StopSignals,
) -> None:
    """Take part in one stage; its error is raised only if rank 0 does not fail too, but waits for this process."""
    stage = message["stage"]
    inputs = {
        port: Artifact(entry["kind"], entry["stage"], Path(entry["folder"]), entry["digest"])
        for port, entry in message["inputs"].items()
    }
    selected = run.selected[stage]
    try:
        with tempfile.TemporaryDirectory(prefix="alignpipe-") as scratch:
            ctx = HelpingStage(message, run, registry, process, Path(scratch), signals.requested)
            build_stage(selected, registry.get(selected.group, selected.name), ctx).run(inputs, ctx)
    except StageInterrupted:
        return  # rank 0 is interrupted too, and saves
    except (Exception, SystemExit) as original:
        error = in_words(original, stage, run.outputs / "store")
        if not isinstance(error, ProcessError):
            messages.note_failure(f"{process} failed in stage {stage!r}: {type(error).__name__}: {error}")
        if messages.next(lambda: _AFTER_FAILURE) is not None:
            return  # rank 0 has failed too, and reports it
        if error is original:
            raise
        raise error from original
