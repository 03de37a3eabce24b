"""One stage of a run: reuse its stored result, or run it under its lock and publish."""

from __future__ import annotations

import time
from collections.abc import Mapping

from alignpipe.api import Artifact
from alignpipe.errors import AlignpipeError, StageInterrupted
from alignpipe.plan import Decision
from alignpipe.runner.context import RunningStage, build_stage
from alignpipe.runner.devices import prepare_device
from alignpipe.runner.failures import recording_failure
from alignpipe.runner.job import Job
from alignpipe.runner.recording import StageLog, replay
from alignpipe.runner.summary import StageResult
from alignpipe.store.locks import HeldLock


def run_stage(job: Job, decision: Decision, made: Mapping[str, Artifact], result: StageResult) -> Artifact:
    """Get the artifact of one stage, and fill in `result`, also when that fails; `made` are those of earlier stages.

    Raises what the stage raised.
    """
    stage = decision.spec.name
    began = time.perf_counter()
    try:
        artifact = _reuse_or_compute(job, decision, made, result)
    except BaseException as error:
        interrupted = isinstance(error, StageInterrupted | KeyboardInterrupt)
        result.fail(error)  # "failed" also if interrupted, which has no status of its own: `error` says which
        if interrupted:
            result.error = f"interrupted: {error}"
        result.seconds = round(time.perf_counter() - began, 3)
        if not interrupted:
            job.observers.notify("alignpipe_stage_failed", info=job.info, stage=stage, error=error)
        raise
    result.seconds = round(time.perf_counter() - began, 3)
    result.digest, result.artifact = artifact.digest, str(artifact.folder)
    job.trackers.artifact(artifact)
    cached = result.status == "cached"
    job.observers.notify("alignpipe_stage_finished", info=job.info, stage=stage, artifact=artifact, cached=cached)
    return artifact


def _reuse_or_compute(job: Job, decision: Decision, made: Mapping[str, Artifact], result: StageResult) -> Artifact:
    """Take the stored result if there is one; else wait for the lock of the key, and compute.

    Whoever held the lock meanwhile was at work on the same key. So the decision is made again: the result may be there
    now. If that process failed, this run fails too, rather than work for hours only to fail in the same way; if it was
    interrupted or killed, this one goes on from its checkpoint.
    """
    stage, key, owner = decision.spec.name, decision.key, str(job.run.folder)
    result.key = key
    if decision.artifact is not None:
        job.store.discard_leftover(stage, key, owner)
        return _reuse(job, decision, decision.artifact, result)
    waiting_since = time.time()
    with job.store.lock(stage, key, owner, job.terminal.say, job.signals.requested) as lock:
        decision = job.planner.decide(decision.spec, made)
        if decision.artifact is not None:
            return _reuse(job, decision, decision.artifact, result)
        failure = job.store.work(stage, key).failure_since(waiting_since)
        if failure is not None:
            raise AlignpipeError(f"stage {stage!r} failed in a process that this one waited for: {failure}")
        job.planner.check_unchanged(decision.spec)
        with recording_failure(job, decision, lock):  # for those who wait for the lock now
            return _compute(job, decision, lock, result)


def _reuse(job: Job, decision: Decision, artifact: Artifact, result: StageResult) -> Artifact:
    """Take a stored result, and replay into this run what was logged when it was made."""
    stage = decision.spec.name
    if decision.warning:
        job.say(stage, f"warning: {decision.warning}")
    replay(stage, job.store.records_in_use(artifact, decision.key), job.files, job.trackers.log)
    result.status = "cached"
    job.say(stage, f"cached: {decision.reason}")
    return artifact


def _compute(job: Job, decision: Decision, lock: HeldLock, result: StageResult) -> Artifact:
    """Run the stage and publish what it made."""
    spec, stage = decision.spec, decision.spec.name
    job.say(stage, f"{decision.headline}: {decision.reason}")
    if decision.warning:
        job.say(stage, f"warning: {decision.warning}")
    if decision.damaged is not None:
        job.store.discard_damaged(decision.damaged)
    began = time.perf_counter()
    device = prepare_device(job.run.settings, job.crew.process)
    job.observers.notify("alignpipe_stage_started", info=job.info, stage=stage)
    work = job.store.work(stage, decision.key)
    work.prepare(decision.code, decision.restart)
    log = StageLog(stage, work.path, lock.check, job.files, job.trackers.log, job.observers.log)
    with job.terminal.bar(stage) as bar:
        ctx = RunningStage(job, decision, work, lock, device, log, bar)
        with job.crew.taking_part(decision, work.state):
            build_stage(spec.selected, spec.registered, ctx).run(decision.inputs, ctx)
    log.drop_earlier_if_begun_anew()
    lock.check()  # a lease on a network store may have been lost meanwhile
    seconds = time.perf_counter() - began
    artifact = job.store.publish(
        work,
        kind=spec.makes,
        fingerprint=decision.fingerprint,
        code=decision.code,
        run_key=job.planner.run_key,
        folder=job.run.folder,
        seconds=seconds,
    )
    result.status = "resumed" if decision.action == "resume" and log.resumed else "ran"
    job.say(stage, f"done in {seconds:.1f} s{f'  {bar.figures}' if bar.figures else ''}")
    return artifact
