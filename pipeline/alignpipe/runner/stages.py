"""One stage of a run: reuse its stored result, or run it under its lock and publish."""

from __future__ import annotations

import time
from collections.abc import Mapping

from alignpipe.api import Artifact
from alignpipe.errors import INTERRUPTIONS, AlignpipeError
from alignpipe.plan import Decision
from alignpipe.runner.context import RunningStage, build_stage
from alignpipe.runner.decisions import headline, on_one_line
from alignpipe.runner.devices import prepare_device
from alignpipe.runner.failures import recording_failure
from alignpipe.runner.live_run import LiveRun
from alignpipe.runner.payloads import check_payload
from alignpipe.runner.recording import StageLog, replay
from alignpipe.runner.summary import StageResult
from alignpipe.store.locks import HeldLock


def run_stage(live: LiveRun, decision: Decision, made: Mapping[str, Artifact], result: StageResult) -> Artifact:
    """Get the artifact of one stage, and fill in `result`, also when that fails; `made` are those of earlier stages.

    Raises what the stage raised.
    """
    stage = decision.spec.name
    began = time.perf_counter()
    try:
        artifact = _reuse_or_compute(live, decision, made, result)
    except BaseException as error:
        result.fail(error)
        if not isinstance(error, (*INTERRUPTIONS, AlignpipeError)):  # a traceback, which does not say whose code it is
            error.add_note(f"raised in stage {stage!r} ({decision.spec.registered})")
        if not isinstance(error, INTERRUPTIONS):
            live.observers.notify("alignpipe_stage_failed", info=live.info, stage=stage, error=error)
        raise
    finally:
        result.seconds = round(time.perf_counter() - began, 3)
    result.digest, result.artifact = artifact.digest, str(artifact.folder)
    live.trackers.artifact(artifact)
    cached = result.status == "cached"
    live.observers.notify("alignpipe_stage_finished", info=live.info, stage=stage, artifact=artifact, cached=cached)
    return artifact


def _reuse_or_compute(live: LiveRun, decision: Decision, made: Mapping[str, Artifact], result: StageResult) -> Artifact:
    """Take the stored result if there is one; else wait for the lock of the key, and compute.

    Whoever held the lock meanwhile was at work on the same key. So the decision is made again: the result may be there
    now. If that process failed, this run fails too, rather than work for hours only to fail in the same way; if it was
    interrupted or killed, this one goes on from its checkpoint.
    """
    stage, key, owner = decision.spec.name, decision.key, str(live.run.folder)
    result.key = key
    if decision.artifact is not None:
        return _reuse(live, decision, decision.artifact, result)
    waiting_since = time.time()  # an older failure is tried again
    with live.store.lock(stage, key, owner, live.terminal.say, live.signals.requested) as lock:
        decision = live.planner.decide(decision.spec, made)
        if decision.artifact is not None:
            return _reuse(live, decision, decision.artifact, result)
        failure = live.store.work(stage, key).failure_since(waiting_since)
        if failure is not None:
            raise AlignpipeError(f"stage {stage!r} failed in a process that this one waited for: {failure}")
        live.planner.check_unchanged(decision.spec)  # the user's files that its options name
        with recording_failure(live, decision, lock):  # for those who wait for the lock now
            return _compute(live, decision, lock, result)


def _reuse(live: LiveRun, decision: Decision, artifact: Artifact, result: StageResult) -> Artifact:
    """Take a stored result, and replay into this run what was logged when it was made."""
    stage = decision.spec.name
    if decision.warning:
        live.say(stage, f"warning: {decision.warning}")
    replay(stage, live.store.use_records(artifact, decision.key), live.files, live.trackers.log)
    result.status = "cached"
    live.say(stage, f"cached: {on_one_line(decision.why)}")
    return artifact


def _compute(live: LiveRun, decision: Decision, lock: HeldLock, result: StageResult) -> Artifact:
    """Run the stage and publish what it made."""
    spec, stage = decision.spec, decision.spec.name
    live.say(stage, f"{headline(decision)}: {on_one_line(decision.why)}")
    if decision.warning:
        live.say(stage, f"warning: {decision.warning}")
    if decision.damaged is not None:  # out of the way: the new result may have another digest, and not replace it
        live.store.discard_damaged(decision.damaged)
    began = time.perf_counter()
    device = prepare_device(live.run.settings, live.crew.process, live.crew.size(decision))
    live.observers.notify("alignpipe_stage_started", info=live.info, stage=stage)
    work = live.store.work(stage, decision.key)
    work.prepare(decision.code, decision.restart)
    log = StageLog(stage, work.path, lock.check, live.files, live.trackers.log, live.observers.log)
    with live.terminal.bar(stage) as bar:
        ctx = RunningStage(live, decision, work, lock, device, log, bar)
        with live.crew.taking_part(decision, work.state):
            build_stage(spec.selected, spec.registered, ctx).run(decision.inputs, ctx)
    # If it logged nothing, and did not go on at a checkpoint, what an earlier attempt logged is not of this result.
    log.drop_earlier_if_begun_anew()
    check_payload(spec, work.payload)
    lock.check()  # a lease on a network store may have been lost meanwhile
    seconds = time.perf_counter() - began
    artifact = live.store.publish(
        work,
        kind=spec.makes,
        fingerprint=decision.fingerprint,
        code=decision.code,
        run_key=live.planner.run_key,
        folder=live.run.folder,
        seconds=seconds,
    )
    # There was a checkpoint, and the stage went on from it (`ctx.rewind`).
    result.status = "resumed" if decision.action == "resume" and log.resumed else "ran"
    live.say(stage, f"done in {seconds:.1f} s{f'  {bar.figures}' if bar.figures else ''}")
    return artifact
