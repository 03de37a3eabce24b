"""A stage's failure: one sentence for what a user can mend, and a note for the processes that wait for its result."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from alignpipe.errors import AlignpipeError, StoreError
from alignpipe.plan import Decision
from alignpipe.runner.job import Job
from alignpipe.store.files import storage_error


@contextmanager
def one_sentence_errors(job: Job, stage: str) -> Iterator[None]:
    """Turn a full disk and a plugin's `sys.exit()` in the block into errors of one sentence."""
    try:
        yield
    except SystemExit as error:  # must not end the process, and a sweep with it, as if all were well
        raise AlignpipeError(
            f"the code of stage {stage!r} called sys.exit({error.code!r}); raise an error instead"
        ) from error
    except AlignpipeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            full = error
        elif "No space left on device" in str(error):  # a library's error, which says so only in words
            full = OSError(errno.ENOSPC, str(error))
        else:
            raise
        raise storage_error(full, "running a stage", job.store.root) from error


def record_failure(job: Job, decision: Decision, error: BaseException) -> None:
    """Leave the error for the processes that wait for this key.

    Where that fails too (a full disk), only the reason is shown: the error that ends the run says what to do.
    """
    try:
        job.store.work(decision.spec.name, decision.key).note_failure(f"{type(error).__name__}: {error}")
    except StoreError as second:
        job.terminal.say(f"{decision.spec.name:<8} its failure could not be recorded: {second.__cause__ or second}")
