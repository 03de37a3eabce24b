"""The reward stage around written and trained rewards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from alignpipe.api import Artifact, Selected, Table
from alignpipe.dataset import write_dataset
from alignpipe.errors import DataError, RewardError
from alignpipe.rewarding.stage import RewardStage
from support.context import FakeContext

PAIR = {"prompt": "p", "messages": [], "chosen": "good answer", "rejected": "bad"}


class Longer:
    def score(self, samples):
        return [float(len(sample.response)) for sample in samples]


class Learned(Longer):
    fitted: Sequence[str] = ()

    def fit(self, inputs, ctx):
        self.fitted = sorted(inputs)
        ctx.log({"loss": 1.0}, step=40)

    def save(self, folder: Path) -> None:
        (folder / "learned.txt").write_text(",".join(self.fitted))

    def load(self, folder: Path) -> None: ...


def run(
    root: Path, reward: object, heldout: int = 2, prompts: Sequence[dict] = (), heldout_prompts: Sequence[dict] = ()
) -> FakeContext:
    tables: dict[Table, dict] = {"preferences": {"train": [PAIR], "heldout": [PAIR] * heldout}}
    if prompts:
        splits = {"train": prompts, "heldout": heldout_prompts}
        tables["prompts"] = {split: [{"messages": [], **row} for row in rows] for split, rows in splits.items()}
    write_dataset(root / "data", tables)
    ctx = FakeContext(root / "stage", stage="reward", builders={"reward/acme": lambda _: reward})
    artifact = Artifact("dataset", "data", root / "data", "digest")
    RewardStage(Selected("reward", "acme", {"a": 1}), 2, "acme-reward 1.2").run({"dataset": artifact}, ctx)
    return ctx


def test_a_written_reward_gets_a_report_card_and_is_saved(tmp_path: Path) -> None:
    ctx = run(tmp_path, Longer())
    assert sorted(path.name for path in ctx.payload.iterdir()) == ["report_card.json", "reward.json"]
    card = json.loads((ctx.payload / "report_card.json").read_text())
    assert card["accuracy"] == 1.0
    assert ctx.logged == [(0, {f"heldout/{name}": value for name, value in card.items()})]
    assert json.loads((ctx.payload / "reward.json").read_text()) == {
        "name": "acme",
        "version": 2,
        "offered_by": "acme-reward 1.2",
        "config": {"a": 1},
    }


def test_a_trained_reward_is_fitted_first(tmp_path: Path) -> None:
    ctx = run(tmp_path, Learned())
    assert (ctx.payload / "learned.txt").read_text() == "dataset"
    assert [step for step, _ in ctx.logged] == [40, 40]  # the card stands where the training ended


def test_without_heldout_pairs_it_says_so(tmp_path: Path) -> None:
    ctx = run(tmp_path, Longer(), heldout=0)
    assert ctx.said == ["no held-out preferences, so no report card"]
    assert json.loads((ctx.payload / "report_card.json").read_text()) == {}
    assert (ctx.payload / "reward.json").is_file()


def test_pairs_without_a_column_the_reward_reads_give_no_card(tmp_path: Path) -> None:
    class Comparing(Longer):
        columns = ("answer",)

    ctx = run(tmp_path, Comparing())
    assert ctx.said == [
        "reward acme (acme-reward 1.2) reads the column 'answer', which 2 of 2 held-out preferences do not have "
        "(their other columns: chosen, rejected); so there is no report card"
    ]
    assert json.loads((ctx.payload / "report_card.json").read_text()) == {}


def test_a_column_that_neither_pairs_nor_prompts_have_is_missed_before_training(tmp_path: Path) -> None:
    class Comparing(Learned):
        columns = ("answer",)

    with pytest.raises(DataError, match="reads the column 'answer', which 1 of 1 training prompts do not have"):
        run(tmp_path, Comparing(), prompts=[{"prompt": "Hi"}])
    assert not list((tmp_path / "stage" / "payload").iterdir())


def test_a_column_that_only_held_out_prompts_lack_is_missed_before_training(tmp_path: Path) -> None:
    """They are answered on the way and at the end, by when hours have gone."""

    class Comparing(Learned):
        columns = ("answer",)

    prompts = [{"prompt": "Hi", "answer": "Hello"}]
    with pytest.raises(DataError, match=r"'answer', which 1 of 2 held-out prompts do not have .*: none"):
        run(tmp_path, Comparing(), prompts=prompts, heldout_prompts=[*prompts, {"prompt": "Ho"}])
    assert not list((tmp_path / "stage" / "payload").iterdir())


def test_a_column_that_the_prompts_alone_have_is_enough(tmp_path: Path) -> None:
    class Comparing(Longer):
        columns = ("answer",)

    run(tmp_path, Comparing(), prompts=[{"prompt": "Hi", "answer": "Hello"}])


def test_prompts_that_it_will_be_asked_about_need_the_column_though_the_pairs_have_it(tmp_path: Path) -> None:
    """Who practises on prompts without it would find out hours later."""

    class Comparing(Longer):
        columns = ("answer",)

    pair = {**PAIR, "answer": "Hello"}
    prompts = {"train": [{"prompt": "Hi", "messages": []}], "heldout": []}
    write_dataset(tmp_path / "data", {"preferences": {"train": [pair], "heldout": [pair]}, "prompts": prompts})
    stage = RewardStage(Selected("reward", "acme", {}), 1, "acme-reward 1.2")
    ctx = FakeContext(tmp_path / "stage", stage="reward", builders={"reward/acme": lambda _: Comparing()})
    inputs = {"dataset": Artifact("dataset", "data", tmp_path / "data", "digest")}
    stage.check_ahead(inputs, ctx)
    ctx.asked = ("train", "heldout")
    with pytest.raises(DataError, match="reads the column 'answer', which 1 of 1 training prompts do not have"):
        stage.check_ahead(inputs, ctx)


@pytest.mark.parametrize("told", ["applies to none of the 2 samples", "of no held-out pair both answers have a score"])
def test_a_reward_for_other_samples_gets_no_card(told: str, tmp_path: Path) -> None:
    class Other:
        def score(self, samples):
            none = "none" in told
            return [
                None if none or (sample.response == "bad") == bool(place) else 1.0
                for place, sample in enumerate(samples)
            ]

    ctx = run(tmp_path, Other())
    assert json.loads((ctx.payload / "report_card.json").read_text()) == {}
    assert told in ctx.said[-1]


def test_nothing_is_saved_of_a_reward_that_gives_nan(tmp_path: Path) -> None:
    class Nan:
        def score(self, samples):
            return [float("nan")] * len(samples)

    with pytest.raises(RewardError, match=r"reward acme \(acme-reward 1\.2\) failed on 2 of 2 samples \(nan: 2\)"):
        run(tmp_path, Nan())
    assert not list((tmp_path / "stage" / "payload").iterdir())
