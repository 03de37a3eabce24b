"""One run from its plan to its summary: the loop over the stages, and all the ways it can end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from omegaconf import OmegaConf

from alignpipe.api import Artifact
from alignpipe.api.tracking import Status
from alignpipe.config.model import RunConfig
from alignpipe.digests import data_digest
from alignpipe.errors import AlignpipeError, FolderInUse, StageInterrupted, StoreError
from alignpipe.plan import Planner, make_plan
from alignpipe.processes import this_process
from alignpipe.registry import Registry
from alignpipe.runner.ahead import check_data_ahead
from alignpipe.runner.context import Builder
from alignpipe.runner.devices import check_machine_settings
from alignpipe.runner.following import follow
from alignpipe.runner.job import Job, run_info
from alignpipe.runner.leading import Crew, leading
from alignpipe.runner.recording import RunFiles
from alignpipe.runner.report import final_report, say_how_to_resume
from alignpipe.runner.requirements import check_device, check_requirements
from alignpipe.runner.signals import StopSignals
from alignpipe.runner.stages import run_stage
from alignpipe.runner.summary import StageResult, Summary
from alignpipe.runner.terminal import Terminal
from alignpipe.runner.trackers import Observers, Trackers
from alignpipe.store import RunRecords, Store
from alignpipe.store.files import storing, write_atomically
from alignpipe.store.locks import holder, holding_if_free
from alignpipe.store.runs import RunRecord


def execute(run: RunConfig, registry: Registry) -> int:
    """Run all stages and return the exit code: 0, or 130 / 143 after an interruption.

    Of several processes rank 0 does so, and the others help it.

    Raises `ConfigError` and the like before any work if the run cannot be as it is configured, later whatever a stage
    raised; summary.json is written in that case too.
    """
    process = this_process()
    check_machine_settings(run.settings, process)
    if process.follows:
        return follow(run, registry, process)
    terminal = Terminal()
    with leading(process) as crew, StopSignals() as signals:
        try:
            code = _attempt(run, registry, crew, terminal, signals)
        except StageInterrupted as stop:  # before the first stage: `_run_stages` catches it from then on
            terminal.say(f"interrupted ({stop})")
            code = signals.exit_code
        if code:
            signals.chain()  # the scheduler's launcher (submitit) puts the job into the queue again
    return code


def _attempt(run: RunConfig, registry: Registry, crew: Crew, terminal: Terminal, signals: StopSignals) -> int:
    """One attempt at the run: what must hold before any work, then the stages."""
    store = Store(run.outputs / "store")
    planner = Planner(run, registry, store)
    # Each stage is decided again at its turn, with what was made by then; what is stored needs no particular machine.
    if any(decision.action != "hit" for decision in make_plan(planner)):
        check_requirements(planner, crew.process)
        check_device(run.settings, crew.process)
    trackers = Trackers(run.trackers, Builder(registry, run.settings, "cpu"), terminal.say)
    store.check_writable()
    # Both may have to wait until it is known whether another process lives, and a stop ends that too.
    with (
        _own_folder(run, store, terminal, signals),
        RunRecords(store.layout).attempt(planner.run_key, run.folder, terminal.say, signals.requested) as record,
    ):
        info = run_info(run, planner, record)
        try:
            if stored := planner.stored_inputs():
                record.note_inputs(stored)  # so that gc keeps them
            record.note_trackers(trackers.start(info))
            with storing("writing the run's config", run.folder):
                text = OmegaConf.to_yaml(OmegaConf.create(dict(run.resolved)))
                write_atomically(run.folder / "config.yaml", text, durable=False)
            files = RunFiles(run.folder)
        except AlignpipeError:
            trackers.finish("failed")
            raise
        observers = Observers(registry.hook, terminal.say)
        job = Job(run, registry, planner, store, info, files, trackers, observers, terminal, signals, crew)
        return _run_stages(job, record)


@contextmanager
def _own_folder(run: RunConfig, store: Store, terminal: Terminal, signals: StopSignals) -> Iterator[None]:
    """Make the run's folder, and hold it: two runs at once would write over each other's files.

    Raises `FolderInUse` if another run that lives has it.
    """
    lock = store.layout.lock(f"folder-{data_digest(os.path.realpath(run.folder))}")
    with holding_if_free(lock, str(run.folder), terminal.say, signals.requested, "the run's folder") as held:
        if held is None:
            raise FolderInUse(
                f"{run.folder}: {holder(lock)} is writing its run there; choose another folder: hydra.run.dir, or for "
                "a sweep another hydra.sweep.dir, or a hydra.sweep.subdir with ${hydra.job.num} in it"
            )
        with storing("opening the run's folder", run.folder):
            run.folder.mkdir(parents=True, exist_ok=True)
        yield


def _run_stages(job: Job, record: RunRecord) -> int:
    """Run the stages in order; however that ends, the summary says so."""
    results = {spec.name: StageResult() for spec in job.planner.specs}
    summary = Summary(job.planner.run_key, record.attempt, results)
    made: dict[str, Artifact] = {}
    job.observers.notify("alignpipe_run_started", info=job.info)
    try:
        for spec in job.planner.specs:
            if job.signals.requested():
                raise StageInterrupted(f"stopped before stage {spec.name!r}")
            check_data_ahead(job, spec, made, results)
            made[spec.name] = run_stage(job, spec, made, results[spec.name])
            record.note_stage(spec.name, made[spec.name].digest)
    except (StageInterrupted, KeyboardInterrupt) as stop:
        _end(job, record, summary, "interrupted")
        say_how_to_resume(job, stop)
        return job.signals.exit_code
    except BaseException:
        try:
            _end(job, record, summary, "failed")
        except AlignpipeError as second:
            job.terminal.say(f"the run's end could not be recorded: {second.__cause__ or second}")
        raise
    _end(job, record, summary, "finished", made)
    return 0


def _end(
    job: Job, record: RunRecord, summary: Summary, status: Status, made: Mapping[str, Artifact] | None = None
) -> None:
    """Write the summary, and tell everybody."""
    summary.status = status
    summary.metrics = dict(job.files.last)  # by full name
    try:
        summary.write(job.run.folder)
    except StoreError:  # a full disk: whoever watches is told all the same, and the trackers are closed
        summary.status = "interrupted" if status == "interrupted" else "failed"
        _tell(job, record, summary)
        raise
    _tell(job, record, summary, made)


def _tell(job: Job, record: RunRecord, summary: Summary, made: Mapping[str, Artifact] | None = None) -> None:
    """Close the trackers, tell the observers, and show the results of a finished run."""
    job.trackers.summary(summary.metrics)
    lines = job.trackers.finish(summary.status)
    try:
        record.end(summary.status)
    finally:
        job.observers.notify("alignpipe_run_finished", info=job.info, summary=summary.plain())
        if made is not None:
            final_report(job.run, summary, made, sys.stdout)
        for line in lines:
            job.terminal.say(line)
