"""One run from its plan to its summary: what must hold before any work, then the loop over the stages."""

from __future__ import annotations

from alignpipe.api import Artifact, RunInfo
from alignpipe.config.convert import as_yaml
from alignpipe.config.model import RunConfig
from alignpipe.errors import INTERRUPTIONS, StageInterrupted
from alignpipe.plan import Planner, make_plan
from alignpipe.processes import this_process
from alignpipe.registry import Registry
from alignpipe.runner.ahead import check_data_ahead
from alignpipe.runner.context import Builder
from alignpipe.runner.ending import end_failed_run, end_run
from alignpipe.runner.following import follow
from alignpipe.runner.launching import Helpers, rank_0_of
from alignpipe.runner.leading import Crew, leading
from alignpipe.runner.live_run import LiveRun, run_info
from alignpipe.runner.recording import RunFiles
from alignpipe.runner.report import say_how_to_resume
from alignpipe.runner.requirements import check_device, check_requirements
from alignpipe.runner.signals import StopSignals
from alignpipe.runner.stages import run_stage
from alignpipe.runner.summary import StageResult, Summary, check_earlier_run
from alignpipe.runner.terminal import Terminal
from alignpipe.runner.trackers import Observers, Trackers
from alignpipe.store import RunRecords, Store
from alignpipe.store.files import storing, write_atomically
from alignpipe.store.runs import RunRecord, hold_folder


def execute(run: RunConfig, registry: Registry) -> int:
    """Run all stages and return the exit code: 0, or 130, 143 or 129 after an interruption.

    Of several processes rank 0 does so, and the others help it.

    Raises `ConfigError` and the like before any work if the run cannot be as it is configured, later whatever a stage
    raised; summary.json is written in that case too.
    """
    launched = this_process()
    if launched.follows:
        return follow(run, registry, launched)
    process = rank_0_of(run.settings.processes, launched)
    helpers = None if process == launched else Helpers(process, run.command.alone, run.command.cwd)
    terminal = Terminal()
    with leading(run, process, helpers) as crew, StopSignals(lasting=launched.world_size > 1) as signals:
        try:
            code = _attempt(run, registry, crew, terminal, signals)
        except StageInterrupted as stop:  # before the first stage: `_run_stages` catches it from then on
            terminal.say(f"interrupted ({stop})")
            code = signals.exit_code
        if code:
            signals.chain()  # the scheduler's launcher (submitit) puts the job into the queue again
    return code


def _attempt(run: RunConfig, registry: Registry, crew: Crew, terminal: Terminal, signals: StopSignals) -> int:
    """One attempt at the run: what must hold before any work, then the stages.

    What the config alone shows to be wrong has been refused when it was composed (`run_config`). Here follows what
    shows in the plan, on this machine, in the trackers' settings and on the disk; what shows in the data is looked for
    as soon as there is data (`check_data_ahead`).
    """
    store = Store(run.outputs / "store")
    planner = Planner(run, registry, store)
    # A run whose results are all stored needs no particular machine.
    decisions = make_plan(planner)
    if any(decision.action != "hit" for decision in decisions):
        check_requirements(planner, crew.process)
        crew.prepare(decisions)
        check_device(run.settings, crew.process)
    # "cpu", so that to build trackers, which compute nothing, imports no torch.
    trackers = Trackers(run.trackers, Builder(registry, run.settings, "cpu"), terminal.say)
    store.check_writable()
    with hold_folder(store.layout, run.folder, terminal.say, signals.requested):
        check_earlier_run(run, planner.run_key, terminal.say)
        records = RunRecords(store.layout)
        with records.attempt(planner.run_key, run.folder, terminal.say, signals.requested) as record:
            info, files = _open(planner, record, trackers)
            observers = Observers(registry.hook, terminal.say)
            live = LiveRun(run, registry, planner, store, info, files, trackers, observers, terminal, signals, crew)
            return _run_stages(live, record)


def _open(planner: Planner, record: RunRecord, trackers: Trackers) -> tuple[RunInfo, RunFiles]:
    """Write down with what this attempt begins, and start the trackers, which are closed again if that fails."""
    run, info = planner.run, run_info(planner, record)
    try:
        if stored := planner.stored_inputs():
            record.note_inputs(stored)  # store:<digest> in `inputs`; gc keeps what a run reads
        record.note_trackers(trackers.start(info))
        with storing("writing the run's config", run.folder):
            write_atomically(run.folder / "config.yaml", as_yaml(run.resolved), durable=False)
        return info, RunFiles(run.folder, goes_on=trackers.go_on)
    except BaseException:
        trackers.finish("failed")
        raise


def _run_stages(live: LiveRun, record: RunRecord) -> int:
    """Run the stages in order; however that ends, the summary says so."""
    results = {spec.name: StageResult() for spec in live.planner.specs}
    summary = Summary(live.planner.run_key, record.attempt, results)
    made: dict[str, Artifact] = {}
    live.observers.notify("alignpipe_run_started", info=live.info)
    try:
        for spec in live.planner.specs:
            if live.signals.requested():
                raise StageInterrupted(f"stopped before stage {spec.name!r}")
            decision = live.planner.decide(spec, made)  # once more: now its inputs are known
            if decision.action != "hit":
                check_data_ahead(live, spec, made, results)  # raises, and marks in `results` the stage that they forbid
            made[spec.name] = run_stage(live, decision, made, results[spec.name])
            record.note_stage(spec.name, made[spec.name].digest)
    except INTERRUPTIONS as stop:
        end_run(live, record, summary, "interrupted")
        say_how_to_resume(live, stop)
        return live.signals.exit_code
    except BaseException:
        end_failed_run(live, record, summary)
        raise
    end_run(live, record, summary, "finished", made)
    return 0
