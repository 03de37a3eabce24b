"""What a run prints at its end."""

from __future__ import annotations

import io
from dataclasses import replace

from alignpipe.runner.report import final_report
from alignpipe.runner.summary import StageResult, Summary
from support.fake_run import make_run


def printed(run, made):
    out = io.StringIO()
    final_report(run, Summary("k", 1, {"data": StageResult()}), made, out)
    return out.getvalue()


def test_the_next_command_is_the_same_with_another_seed_in_another_folder(tmp_path):
    words = ("-cd", "presets", "seed=4", "hydra.run.dir=here", "hydra.job.chdir=true", "ppo.lr=1")
    shown = printed(replace(make_run(tmp_path, seed=4), alone=words), {})
    assert "alignpipe -cd presets hydra.job.chdir=true ppo.lr=1 seed=5   (" in shown
