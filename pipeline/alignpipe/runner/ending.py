"""The end of a run, whatever it is: the summary is written, the trackers are closed, and everybody is told."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from alignpipe.api import Artifact
from alignpipe.api.tracking import Status
from alignpipe.errors import StoreError
from alignpipe.runner.job import Job
from alignpipe.runner.report import final_report
from alignpipe.runner.summary import Summary
from alignpipe.store.runs import RunRecord


def end_run(
    job: Job, record: RunRecord, summary: Summary, status: Status, made: Mapping[str, Artifact] | None = None
) -> None:
    """Write the summary, and tell everybody; `made` are the artifacts of a finished run, whose results are shown.

    Raises `StoreError` if the summary or the record cannot be written: all are told nevertheless.
    """
    summary.status = status
    summary.metrics = dict(job.files.last)  # by full name
    try:
        summary.write(job.run.folder)
    except StoreError:  # a run without its summary has not finished
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
