"""What a chosen option or device needs of the machine is looked for before any work; see also test_runner.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from alignpipe.api import Selected
from alignpipe.errors import ConfigError, RewardError
from alignpipe.runner import execute
from alignpipe.runner.planning import show_plan
from support.fake_run import ModelConfig, PpoConfig, make_registry, make_run


@dataclass(frozen=True)
class Choosy:
    refuses: bool = True
    members: dict[str, Any] = field(default_factory=dict)

    def check_machine(self) -> None:
        if self.refuses:
            raise RewardError("there is no sandbox")


@pytest.mark.parametrize(
    "config", [Choosy(), Choosy(refuses=False, members={"a": Selected("reward", "fake", Choosy())})]
)
@pytest.mark.parametrize("ask", [execute, show_plan])
def test_an_option_that_cannot_run_here_is_refused_before_any_work(tmp_path: Path, config: Choosy, ask) -> None:
    run = make_run(tmp_path, ppo=PpoConfig(judge=Selected("reward", "fake", config)))
    with pytest.raises(ConfigError, match=r"^reward=fake cannot run on this machine: there is no sandbox$"):
        ask(run, make_registry())
    assert not list(tmp_path.glob("**/objects")), "nothing was computed"


class ChoosyModel(ModelConfig):
    def check_machine(self) -> None:
        raise RewardError("there is no room for it")


def test_so_is_an_option_in_a_slot_that_a_stage_reads(tmp_path: Path) -> None:
    run = make_run(tmp_path, model=ChoosyModel(), stages=["data", "sft"])
    with pytest.raises(ConfigError, match=r"^model=fake cannot run on this machine: there is no room for it$"):
        execute(run, make_registry())
    assert execute(make_run(tmp_path, model=ChoosyModel(), stages=["data"]), make_registry()) == 0, "nobody reads it"


def test_a_stage_that_the_run_leaves_out_is_not_asked(tmp_path: Path) -> None:
    run = make_run(tmp_path, stages=["data", "sft"], ppo=PpoConfig(judge=Selected("reward", "fake", Choosy())))
    assert execute(run, make_registry()) == 0


def test_a_device_that_is_not_there_is_told_before_any_work(tmp_path: Path) -> None:
    missing = make_run(tmp_path, device="cuda:99")
    with pytest.raises(ConfigError, match=r"^device=cuda:99: torch sees \d+ CUDA devices"):
        execute(missing, make_registry())
    assert not list(tmp_path.glob("**/summary.json")), "not even begun"
    show_plan(missing, make_registry())  # which may be asked on another machine than the run's
    execute(make_run(tmp_path, device="cpu"), make_registry())
    assert execute(missing, make_registry()) == 0, "what is stored needs no device"
