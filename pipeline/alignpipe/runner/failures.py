"""What a stage's failure is called, and how those hear of it who wait for its result."""

from __future__ import annotations

import errno

from alignpipe.errors import AlignpipeError, StoreError
from alignpipe.plan import Decision
from alignpipe.runner.job import Job
from alignpipe.store.files import storage_error


def told_as(error: BaseException, stage: str, job: Job) -> BaseException:
    """The error as one sentence for the user where it is a full disk or a plugin's `sys.exit()`; else itself."""
    return _disk_full(error, job) or _exit(error, stage) or error


def record_failure(job: Job, decision: Decision, error: BaseException) -> None:
    """Leave the error for the processes that wait for this key; on a full disk that may be impossible.

    Then the reason alone is told: what to do comes with the error that ends the run.
    """
    told = told_as(error, decision.spec.name, job)
    try:
        job.store.work(decision.spec.name, decision.key).note_failure(f"{type(told).__name__}: {told}")
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
