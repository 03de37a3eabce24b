"""One stage of a run: reuse its stored result, or work on it under its lock and publish."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping, Sequence

from alignpipe.api import Artifact
from alignpipe.errors import AlignpipeError, StageInterrupted, StoreError
from alignpipe.plan import Decision, StageSpec
from alignpipe.runner.context import RunningStage, build_stage
from alignpipe.runner.devices import prepare_device
from alignpipe.runner.job import Job
from alignpipe.runner.recording import StageLog, replay
from alignpipe.runner.summary import StageResult
from alignpipe.store import Provenance
from alignpipe.store.files import storage_error
from alignpipe.store.locks import HeldLock, now


def run_stage(job: Job, spec: StageSpec, made: Mapping[str, Artifact], result: StageResult) -> Artifact:
    """Get the artifact of one stage, and fill in `result` on the way, also when it fails.

    Raises what the stage raised; a full disk becomes a `StoreError`.
    """
    began = time.perf_counter()
    try:
        artifact = _reuse_or_compute(job, spec, made, result)
    except BaseException as error:
        raised = _disk_full(error, job) or _exit(error, spec.name) or error
        interrupted = isinstance(raised, StageInterrupted | KeyboardInterrupt)
        result.status = "failed"
        result.error = f"interrupted: {raised}" if interrupted else f"{type(raised).__name__}: {raised}"
        result.seconds = round(time.perf_counter() - began, 3)
        if not interrupted:
            job.observers.tell("alignpipe_stage_failed", info=job.info, stage=spec.name, error=raised)
        if raised is error:
            raise
        raise raised from error
    result.seconds = round(time.perf_counter() - began, 3)
    result.digest, result.artifact = artifact.digest, str(artifact.folder)
    job.trackers.artifact(artifact)
    cached = result.status == "cached"
    job.observers.tell("alignpipe_stage_finished", info=job.info, stage=spec.name, artifact=artifact, cached=cached)
    return artifact


def _reuse_or_compute(job: Job, spec: StageSpec, made: Mapping[str, Artifact], result: StageResult) -> Artifact:
    """Decide, wait for the key's lock, and decide again: whoever held the lock may have published the result.

    Or failed: then this run fails with it, rather than to repeat hours of work only to fail alike.
    """
    decision = job.planner.decide(spec, made)
    result.key = decision.key
    if decision.artifact is not None:
        return _reuse(job, decision, decision.artifact, result)
    waiting_since = now()
    owner = str(job.run.folder)
    with job.store.lock(spec.name, decision.key, owner, job.terminal.say, job.signals.requested) as lock:
        decision = job.planner.decide(spec, made)
        if decision.artifact is not None:
            return _reuse(job, decision, decision.artifact, result)
        failure = job.store.failure_since(spec.name, decision.key, waiting_since)
        if failure is not None:
            raise AlignpipeError(f"stage {spec.name!r} failed in a process that this one waited for: {failure}")
        try:
            return _compute(job, decision, lock, result)
        except (StageInterrupted, KeyboardInterrupt):
            raise  # no failure: whoever waits for the key goes on from here
        except BaseException as error:
            _record_failure(job, decision, error)
            raise


def _reuse(job: Job, decision: Decision, artifact: Artifact, result: StageResult) -> Artifact:
    """Take a stored result, and show this run what was logged when it was made."""
    stage = decision.spec.name
    if decision.warning:
        job.terminal.say(f"{stage:<8} warning: {decision.warning}")
    records = job.store.use(artifact, decision.key)
    replay(stage, records, job.files, job.trackers.log)
    result.status = "cached"
    job.terminal.say(f"{stage:<8} cached: {_sentence(decision.why)}")
    return artifact


def _compute(job: Job, decision: Decision, lock: HeldLock, result: StageResult) -> Artifact:
    """Run the stage and publish what it made."""
    spec = decision.spec
    job.terminal.say(f"{spec.name:<8} {decision.headline}: {_sentence(decision.why)}")
    if decision.damaged is not None:
        job.store.discard_damaged(decision.damaged)
    began = time.perf_counter()
    device = prepare_device(job.run.settings, job.crew.place)
    job.observers.tell("alignpipe_stage_started", info=job.info, stage=spec.name)
    work = job.store.open_work(spec.name, decision.key, decision.code, decision.restart)

    def observe(stage: str, metrics: Mapping[str, float], step: int) -> None:
        job.observers.tell("alignpipe_metrics_logged", stage=stage, metrics=metrics, step=step)

    log = StageLog(spec.name, work.path, job.files, job.trackers.log, observe)
    with job.terminal.bar(spec.name) as bar:
        ctx = RunningStage(job, decision, work, device, log, bar)
        with job.crew.taking_part(decision, work.state):
            build_stage(spec.selected, spec.registered, ctx).run(decision.inputs, ctx)
    log.close()
    lock.check()  # a lease on a network store may have been lost meanwhile
    seconds = time.perf_counter() - began
    provenance = Provenance(spec.makes, decision.explained, decision.code, job.planner.run_key, job.run.folder, seconds)
    artifact = job.store.publish(spec.name, decision.key, work, provenance)
    result.status = "resumed" if decision.action == "resume" else "ran"
    figures = f"  {bar.figures}" if bar.figures else ""
    job.terminal.say(f"{spec.name:<8} done in {seconds:.1f} s{figures}")
    return artifact


def _sentence(why: Sequence[str]) -> str:
    """The reasons on one line."""
    return "; ".join(why).replace(":; ", ": ")


def _record_failure(job: Job, decision: Decision, error: BaseException) -> None:
    """Leave the error for the processes that wait for this key; on a full disk that may be impossible.

    Then the reason alone is told: what to do comes with the error that ends the run.
    """
    try:
        job.store.record_failure(decision.spec.name, decision.key, f"{type(error).__name__}: {error}")
    except StoreError as second:
        job.terminal.say(f"{decision.spec.name:<8} its failure could not be recorded: {second.__cause__ or second}")


def _exit(error: BaseException, stage: str) -> AlignpipeError | None:
    """A plugin's `sys.exit()` as an error: it must not end the process, and a sweep with it, as if all were well."""
    if not isinstance(error, SystemExit):
        return None
    return AlignpipeError(f"the code of stage {stage!r} called sys.exit({error.code!r}); raise an error instead")


def _disk_full(error: BaseException, job: Job) -> StoreError | None:
    """A full disk as one sentence: stages meet it as an `OSError`, or as a library's error that says so in words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return storage_error(error, "running a stage", job.store.root)
    foreign = isinstance(error, Exception) and not isinstance(error, AlignpipeError)
    if foreign and "No space left on device" in str(error):
        return storage_error(OSError(errno.ENOSPC, str(error)), "running a stage", job.store.root)
    return None
