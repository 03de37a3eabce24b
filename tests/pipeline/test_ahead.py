"""Data that a later stage cannot use is refused before an earlier one works; see also end_to_end/test_bad_input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from alignpipe.api import Artifact, CheckContext, CheckedStage, Port, Selected, Split, Table
from alignpipe.dataset import Dataset
from alignpipe.errors import AlignpipeError, ConfigError, DataError, PluginError
from alignpipe.plan import Planner
from alignpipe.runner import execute
from alignpipe.runner.ahead import asked_about
from alignpipe.store import Store
from support import tiny_data
from support.fake_run import COMPONENTS, PpoConfig, Train, make_registry, make_run, statuses, summary_of
from support.tiny_data import DATA, DataConfig

PAIRS = Port("dataset", tables=(("preferences", "train"),))
REFUSED = (
    r"^stage 'ppo' \(.*fake-stages 1\.0.*\) cannot use the data: the data has no preferences in its train split .*; "
    r"with data=files give data\.preferences, or leave the stage out$"
)


def registry():
    """The fake stages, of which data makes a dataset and ppo needs pairs."""
    of_group = {component.group: component for component in COMPONENTS}
    ppo = replace(of_group["ppo"], needs={**of_group["ppo"].needs, "dataset": PAIRS})
    return make_registry(components=tuple({**of_group, "data": DATA, "ppo": ppo}.values()))


def run_of(outputs: Path, *without: str, **given):
    return make_run(outputs, extra={"data": Selected("data", "fake", DataConfig(list(without)))}, **given)


def test_a_table_that_a_later_stage_needs_is_missed_before_the_first_one_works(tmp_path: Path) -> None:
    run = run_of(tmp_path, "preferences")
    with pytest.raises(DataError, match=REFUSED):
        execute(run, registry())
    assert statuses(run) == {"data": "ran", "sft": "skipped", "ppo": "failed", "eval": "skipped"}
    assert summary_of(run)["status"] == "failed"
    assert summary_of(run)["stages"]["ppo"]["error"].startswith("DataError: stage 'ppo' (ppo/fake (fake-stages 1.0))")


def test_it_is_missed_as_well_where_the_data_was_stored_before(tmp_path: Path) -> None:
    execute(run_of(tmp_path, "preferences", stages=["data"]), registry())
    run = run_of(tmp_path, "preferences")
    with pytest.raises(DataError, match=REFUSED):
        execute(run, registry())
    assert statuses(run)["sft"] == "skipped"


def test_it_is_missed_where_everything_before_that_stage_is_stored(tmp_path: Path) -> None:
    execute(run_of(tmp_path, "preferences", stages=["data", "sft"]), registry())
    run = run_of(tmp_path, "preferences")
    with pytest.raises(DataError, match=REFUSED):
        execute(run, registry())
    assert statuses(run) == {"data": "cached", "sft": "cached", "ppo": "failed", "eval": "skipped"}


def test_data_that_is_given_from_the_store_is_looked_at_too(tmp_path: Path) -> None:
    first = run_of(tmp_path, "preferences", stages=["data"])
    execute(first, registry())
    stored = f"store:{summary_of(first)['stages']['data']['digest']}"
    inputs = {stage: {"dataset": stored} for stage in ("sft", "ppo")}
    with pytest.raises(DataError, match=REFUSED):
        execute(run_of(tmp_path, stages=["sft", "ppo"], inputs=inputs), registry())


def test_other_tables_may_be_missing_and_stages_that_are_left_out_miss_none(tmp_path: Path) -> None:
    assert execute(run_of(tmp_path, "demonstrations"), registry()) == 0
    assert execute(run_of(tmp_path, "preferences", stages=["data", "sft"]), registry()) == 0


class Looks(Train):
    """Notes what it is shown beforehand, and refuses where its config says so."""

    shown: ClassVar[list[tuple[dict[str, str], CheckContext]]] = []

    def check_ahead(self, inputs: Mapping[str, Artifact], ctx: CheckContext) -> None:
        self.shown.append(({port: artifact.stage for port, artifact in inputs.items()}, ctx))
        if self.config.fail:
            raise {"data": DataError, "config": ConfigError, "exit": SystemExit}[self.config.fail]("not with these")


def looking(monkeypatch: pytest.MonkeyPatch, *groups: str):
    """The fake stages, of which those of `groups` look ahead."""
    monkeypatch.setattr(Looks, "shown", [])
    assert isinstance(Looks(PpoConfig(), None), CheckedStage)
    made = [DATA if each.group == "data" else each for each in COMPONENTS]
    looks = [replace(each, factory=f"{__name__}:Looks") if each.group in groups else each for each in made]
    return make_registry(components=tuple(looks))


def test_a_later_stage_looks_before_every_one_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not before there is data, nor right before it works itself."""
    registry = looking(monkeypatch, "ppo")
    assert execute(run_of(tmp_path), registry) == 0
    ((inputs, ctx),) = Looks.shown
    assert inputs == {"dataset": "data", "policy": "base", "reference": "base"}  # what sft will begin with
    assert (ctx.stage, ctx.seed, ctx.device, list(ctx.slots)) == ("ppo", 0, "cpu", ["model"])

    Looks.shown.clear()
    assert execute(run_of(tmp_path, folder="second"), registry) == 0
    assert Looks.shown == []  # all is stored


def test_it_is_shown_what_a_policy_to_come_begins_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "mine"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    registry = looking(monkeypatch, "ppo", "sft")
    run = run_of(tmp_path, stages=["data", "sft", "ppo"], inputs={"sft": {"policy": str(checkpoint)}})
    assert execute(run, registry) == 0
    (before_sft, _) = Looks.shown[-1]
    assert before_sft == {"dataset": "data", "policy": "checkpoint", "reference": "checkpoint"}


def test_a_checkpoint_is_hashed_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that changes while an earlier stage works must not be known by what it was."""
    hashed: list[str] = []
    monkeypatch.setattr("alignpipe.plan.plan.folder_digest", lambda folder: hashed.append(folder.name) or "d" * 64)
    registry = looking(monkeypatch, "ppo")
    monkeypatch.setattr(Looks, "check_ahead", lambda self, inputs, ctx: hashed.append("looked"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    run = run_of(tmp_path, stages=["data", "sft", "ppo"], inputs={"ppo": {"reference": str(tmp_path / "mine")}})
    assert execute(run, registry) == 0
    assert hashed == ["looked", "mine"]


def test_a_policy_of_which_nothing_is_known_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its maker begins with something else than a policy: its tokens and context may be any."""
    of_group = {component.group: component for component in COMPONENTS}
    sft = replace(of_group["sft"], needs={"dataset": Port("dataset")})
    ppo = replace(of_group["ppo"], factory=f"{__name__}:Looks")
    monkeypatch.setattr(Looks, "shown", [])
    made = make_registry(components=tuple({**of_group, "data": DATA, "sft": sft, "ppo": ppo}.values()))
    assert execute(run_of(tmp_path), made) == 0
    assert Looks.shown == []


def test_an_empty_port_of_its_maker_stands_for_the_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = looking(monkeypatch, "ppo")
    assert execute(run_of(tmp_path, inputs={"sft": {"policy": "none"}}), registry) == 0
    assert [inputs["policy"] for inputs, _ in Looks.shown] == ["base"]


@pytest.mark.parametrize(
    ("stages", "tables", "asked"),
    [
        (["data", "sft", "reward", "ppo"], (("prompts", "train"),), ("train", "heldout")),
        (["data", "sft", "reward", "ppo"], (("prompts", "heldout"),), ("heldout",)),
        (["data", "sft", "reward", "ppo"], (("preferences", "train"),), ()),
        (["data", "sft", "reward"], (("prompts", "train"),), ()),
    ],
)
def test_of_which_prompts_a_reward_will_be_asked(
    tmp_path: Path, stages: list[str], tables: tuple[tuple[Table, Split], ...], asked: tuple[str, ...]
) -> None:
    of_group = {component.group: component for component in COMPONENTS}
    needs = {**of_group["ppo"].needs, "dataset": Port("dataset", tables=tables), "reward": Port("reward")}
    ppo = replace(of_group["ppo"], needs=needs)
    made = make_registry(components=tuple({**of_group, "data": DATA, "ppo": ppo}.values()))
    planner = Planner(make_run(tmp_path, stages=stages), made, Store(tmp_path / "store"))
    found = {spec.name: asked_about(planner.specs, spec) for spec in planner.specs}
    assert found == {**dict.fromkeys(stages, ()), "reward": asked}


def test_what_it_refuses_names_it_and_no_stage_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = looking(monkeypatch, "ppo")
    told = r"^stage 'ppo' \(ppo/fake \(fake-stages 1\.0\)\) cannot use the data: not with these$"
    exits = r"the code of stage 'ppo' called sys\.exit\('not with these'\)"
    cases = (("data", DataError, told), ("config", ConfigError, "^not with these$"), ("exit", AlignpipeError, exits))
    for fail, error, message in cases:
        run = run_of(tmp_path, folder=fail, ppo=PpoConfig(fail=fail))
        with pytest.raises(error, match=message):
            execute(run, registry)
        assert statuses(run)["sft"] == "skipped"
        assert statuses(run)["ppo"] == "failed"


def test_a_reward_that_cannot_be_built_is_missed_as_early_and_counts_as_failed(tmp_path: Path) -> None:
    """It is built to ask for its columns."""
    run = run_of(tmp_path, stages=["data", "sft", "reward"])
    with pytest.raises(PluginError, match=r"without score\(samples\)"):
        execute(run, registry())
    assert statuses(run) == {"data": "ran", "sft": "skipped", "reward": "failed"}
    assert summary_of(run)["stages"]["reward"]["error"].startswith("PluginError: reward/fake")


def test_held_out_rows_that_are_missed_are_told_apart(tmp_path: Path) -> None:
    """Prompts that are given do not help where none of them is held out."""
    data = Dataset(tiny_data.write(tmp_path, heldout=0).folder)
    with pytest.raises(
        DataError, match=r"no prompts in its heldout split .*; with data=files give data\.heldout_prompts, or more"
    ):
        data.require("prompts", "heldout")


def test_tables_are_parts_of_a_dataset() -> None:
    with pytest.raises(ValueError, match="a port with tables is one for a dataset, not for a policy"):
        Port("policy", tables=(("prompts", "train"),))
    with pytest.raises(ValueError, match=r"not \('prompt', 'train'\); there are .*\('prompts', 'heldout'\)"):
        Port("dataset", tables=(("prompt", "train"),))  # type: ignore[arg-type]
