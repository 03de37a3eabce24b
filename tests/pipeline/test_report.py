"""What a run prints at its end."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from alignpipe.api import Artifact
from alignpipe.config.model import CommandLine
from alignpipe.runner.report import final_report
from alignpipe.runner.summary import StageResult, Summary
from alignpipe.runner.terminal import Terminal
from alignpipe.tables import printable
from support.fake_run import make_run


def printed(run, made):
    out = io.StringIO()
    final_report(run, Summary("k", 1, {"data": StageResult()}), made, out)
    return out.getvalue()


def test_the_next_command_is_the_same_with_another_seed_in_another_folder(tmp_path):
    words = ("-cd", "presets", "seed=4", "hydra.run.dir=here", "hydra.job.chdir=true", "ppo.lr=1")
    shown = printed(replace(make_run(tmp_path, seed=4), command=CommandLine(alone=words)), {})
    assert "alignpipe -cd presets hydra.job.chdir=true ppo.lr=1 seed=5   (" in shown


def test_a_sweeps_job_shows_its_comparison_and_leaves_the_rest_to_the_table_of_the_sweep(tmp_path):
    report = {"columns": ["sft", "ppo"], "rows": [["gold", 1, 2]], "samples": [{"prompt": "Hello?", "policy": "Yes."}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    made = {"eval": Artifact("report", "eval", tmp_path, "d")}
    alone, job = (
        printed(replace(make_run(tmp_path), command=CommandLine(alone=("seed=0",), sweep=sweep)), made)
        for sweep in (None, "mine")
    )
    parts = ("gold", "run folder", "prompt    Hello?", "stage", "next")
    assert [part in alone for part in parts] == [True] * 5
    assert [part in job for part in parts] == [True, True, False, False, False]


WILD = "a\x00b\x1b]0;mine\x07\x9b31m\x08\x7f\u202e\ud800\nc\td"
TAME = "a\ufffdb\ufffd]0;mine\ufffd\ufffd31m\ufffd\ufffd\ufffd\ufffd"


def test_what_a_model_wrote_drives_no_terminal(tmp_path):
    report = {"columns": ["sft", "ppo"], "rows": [["gold\x1b", 1, 2]], "samples": [{"prompt": WILD, "policy": WILD}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    shown = printed(make_run(tmp_path), {"eval": Artifact("report", "eval", tmp_path, "d")})
    assert f"prompt    {TAME} c d\nppo       {TAME} c d\n" in shown
    assert shown.replace("\n", "").isprintable()


def test_a_line_that_quotes_a_sample_drives_no_terminal(capfd):
    Terminal().say(WILD)
    assert capfd.readouterr().err == f"{TAME}\nc\td\n"


@pytest.mark.parametrize("text", ["", "Grüße, 你好", "👩‍👩‍👧 مرحبا", "two\n lines\tand a tab"])
def test_text_stays_as_it_is(text):
    assert printable(text) == text
