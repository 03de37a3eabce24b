"""What a stage left behind, before it is published: whether those who read it later will find what they look for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignpipe.dataset import Dataset
from alignpipe.errors import DataError, PluginError
from alignpipe.plan import StageSpec

REPORT = "report.json"


def check_payload(spec: StageSpec, payload: Path) -> None:
    """Raise `PluginError` for a dataset that cannot be opened, and for a report.json that cannot be shown.

    Models are opened by the stages behind, in their own ways.
    """
    problem = ""
    if spec.makes == "dataset":
        try:
            Dataset(payload)
        except DataError as error:
            problem = f"{error}; alignpipe.dataset.write_dataset writes one"
    elif spec.makes == "report" and (payload / REPORT).is_file():
        try:
            problem = report_problem(json.loads((payload / REPORT).read_text(encoding="utf-8")))
        except ValueError as error:
            problem = f"its {REPORT} is no JSON: {error}"
    if problem:
        raise PluginError(f"what {spec.registered} made in stage {spec.name!r} cannot be used: {problem}")


def report_problem(report: Any) -> str:
    """What is wrong with the content of a report.json (`api.Artifact`); empty if nothing is."""
    if not isinstance(report, Mapping):
        return f"its {REPORT} holds no object"
    columns, rows, samples = report.get("columns"), report.get("rows"), report.get("samples", [])
    if not (isinstance(columns, list) and columns):
        return f"its {REPORT} has no columns, a list of the titles behind the first one"
    if not (isinstance(rows, list) and all(isinstance(row, list) and len(row) == len(columns) + 1 for row in rows)):
        return f"every row of its {REPORT} must be a list of a label and {len(columns)} values, one for each column"
    if not (isinstance(samples, list) and all(isinstance(each, Mapping) and "prompt" in each for each in samples)):
        return f"its {REPORT} must hold samples as objects with a prompt, and what was answered as policy and baseline"
    return ""
