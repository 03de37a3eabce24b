"""What a job hands to a sweeper that searches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignpipe.cli.objective import objective_of
from alignpipe.config.model import RunConfig
from alignpipe.errors import ConfigError
from support.fake_run import make_run


def finished(folder: Path, *objective: str) -> RunConfig:
    run = make_run(folder)
    run.settings.objective = list(objective)
    run.folder.mkdir(parents=True, exist_ok=True)
    metrics = {"eval/gold/mean": 0.5, "eval/kl": 2, "eval/spread": None}
    (run.folder / "summary.json").write_text(json.dumps({"metrics": metrics}))
    return run


def test_none_one_or_several(tmp_path: Path) -> None:
    assert objective_of(finished(tmp_path)) is None
    assert objective_of(finished(tmp_path, "eval/kl")) == 2.0
    assert objective_of(finished(tmp_path, "eval/kl", "eval/gold/mean")) == (2.0, 0.5)


def test_what_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"=\[eval/kl,eval/gold/men\]: eval/gold/men: .*mean 'eval/gold/mean'\?.*json"
    ):
        objective_of(finished(tmp_path, "eval/kl", "eval/gold/men"))
    with pytest.raises(ConfigError, match="eval/spread: it is no finite number"):
        objective_of(finished(tmp_path, "eval/spread"))
