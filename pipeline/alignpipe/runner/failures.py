"""A stage's failure: one sentence for what a user can mend, and a note for the processes that wait for its result."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignpipe.errors import INTERRUPTIONS, AlignpipeError, StoreError
from alignpipe.plan import Decision
from alignpipe.runner.live_run import LiveRun
from alignpipe.store.files import storage_error
from alignpipe.store.locks import HeldLock


@contextmanager
def recording_failure(live: LiveRun, decision: Decision, lock: HeldLock) -> Iterator[None]:
    """Leave the block's error for the processes that wait for this key; after an interruption they go on instead.

    So they do where the lock was lost: then the key is another process's, which is at work on it.

    A full disk and a plugin's `sys.exit()` become errors of one sentence.
    """
    stage = decision.spec.name
    try:
        yield
    except INTERRUPTIONS:
        raise
    except BaseException as original:
        error = in_words(original, stage, live.store.root)
        try:
            if not lock.lost():
                live.store.work(stage, decision.key).note_failure(f"{type(error).__name__}: {error}")
        except StoreError as second:  # only the reason is shown: the error that ends the run says what to do
            live.say(stage, f"its failure could not be recorded: {second.__cause__ or second}")
        if error is original:
            raise
        raise error from original


def in_words(error: BaseException, stage: str, store: Path) -> BaseException:
    """The error to raise instead of a full disk's or `sys.exit()`'s; any other stays as it is."""
    if isinstance(error, SystemExit):  # must not end the process, and a sweep with it, as if all were well
        return AlignpipeError(f"the code of stage {stage!r} called sys.exit({error.code!r}); raise an error instead")
    if isinstance(error, AlignpipeError) or not isinstance(error, Exception):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return storage_error(error, "running a stage", store)
    if "No space left on device" in str(error):  # a library's error, which says so only in words
        return storage_error(OSError(errno.ENOSPC, str(error)), "running a stage", store)
    return error
