"""The end of a run, whatever it is: the summary is written, the trackers are closed, and everybody is told."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from alignpipe.api import Artifact
from alignpipe.api.tracking import Status
from alignpipe.errors import AlignpipeError, StoreError
from alignpipe.runner.live_run import LiveRun
from alignpipe.runner.report import final_report
from alignpipe.runner.summary import Summary
from alignpipe.store.runs import RunRecord


def end_run(
    live: LiveRun, record: RunRecord, summary: Summary, status: Status, made: Mapping[str, Artifact] | None = None
) -> None:
    """Write the summary, and tell everybody; `made` are the artifacts of a finished run, whose results are shown.

    Raises `StoreError` if the summary or the record cannot be written: all are told nevertheless.
    """
    summary.status = status
    summary.metrics = dict(live.files.last)  # by full name
    try:
        summary.write(live.run.folder)
    except StoreError:  # a run without its summary has not finished
        summary.status = "interrupted" if status == "interrupted" else "failed"
        _tell(live, record, summary)
        raise
    _tell(live, record, summary, made)


def end_failed_run(live: LiveRun, record: RunRecord, summary: Summary) -> None:
    """End a run that failed; where that fails too, the user is told, and sees the first error all the same."""
    try:
        end_run(live, record, summary, "failed")
    except AlignpipeError as second:
        live.terminal.say(f"the run's end could not be recorded: {second.__cause__ or second}")


def _tell(live: LiveRun, record: RunRecord, summary: Summary, made: Mapping[str, Artifact] | None = None) -> None:
    """Close the trackers, tell the observers, and show the results of a finished run."""
    live.trackers.summary(summary.metrics)
    lines = live.trackers.finish(summary.status)
    try:
        record.end(summary.status)
    finally:
        live.observers.notify("alignpipe_run_finished", info=live.info, summary=summary.plain())
        if made is not None:
            final_report(live.run, summary, made, sys.stdout)
        for line in lines:
            live.terminal.say(line)
