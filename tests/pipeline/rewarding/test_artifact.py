"""The reward artifact: identity, options as plain data, trained state."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from alignpipe.api import Artifact, Sample, Scoring, Selected
from alignpipe.choices import plain
from alignpipe.errors import RewardError
from alignpipe.rewarding.artifact import open_judge, open_stored, save_reward
from support.context import FakeContext


class Mode(Enum):
    fast = 1
    slow = 2


@dataclass(frozen=True)
class Options:
    scale: float = 1.0
    mode: Mode = Mode.fast
    words: tuple[str, ...] = ("a",)
    members: dict[str, object] = field(default_factory=dict)


class Written:
    def score(self, samples):
        return [1.0] * len(samples)


class Trained(Written):
    value = 0.0

    def fit(self, inputs, ctx):
        self.value = 2.0

    def save(self, folder: Path) -> None:
        (folder / "value").write_text(str(self.value))

    def load(self, folder: Path) -> None:
        self.value = float((folder / "value").read_text())

    def score(self, samples):
        return [self.value] * len(samples)


CHOICE = Selected("reward", "acme", Options(mode=Mode.slow, members={"polite": Selected("reward", "other", Options())}))


@pytest.mark.parametrize("made", [Written, Trained])
def test_what_was_saved_is_opened(made: type[Written], tmp_path: Path) -> None:
    reward = made()
    if isinstance(reward, Trained):
        reward.fit({}, FakeContext(tmp_path))
    folder = tmp_path / "reward"
    folder.mkdir()
    save_reward(folder, reward, CHOICE, 3, "acme-reward 1.2")
    ctx = FakeContext(tmp_path, builders={"reward/acme": lambda _: made()})
    opened = open_stored(folder, ctx, Scoring()).reward
    assert opened.score([Sample("p", "r")]) == reward.score([Sample("p", "r")])
    assert (ctx.built[0].group, ctx.built[0].name) == ("reward", "acme")
    judge = open_judge(Artifact("reward", "reward", folder, "d"), ctx)
    assert judge.label == "reward acme (acme-reward 1.2)"
    assert judge.score([Sample("p", "r")]).total == list(reward.score([Sample("p", "r")]))


def test_paths_are_kept_as_text(tmp_path: Path) -> None:
    assert plain({"folder": Path("a/b"), "files": [Path("c")]}) == {"folder": "a/b", "files": ["c"]}

    @dataclass(frozen=True)
    class Located:
        folder: Path = Path("words/en")

    save_reward(tmp_path, Written(), Selected("reward", "acme", Located()), 1, "acme-reward 1.2")
    assert json.loads((tmp_path / "reward.json").read_text())["config"] == {"folder": "words/en"}


def test_the_options_are_kept_as_plain_data(tmp_path: Path) -> None:
    save_reward(tmp_path, Written(), CHOICE, 3, "acme-reward 1.2")
    other = {"scale": 1.0, "mode": "fast", "words": ["a"], "members": {}}
    assert json.loads((tmp_path / "reward.json").read_text()) == {
        "name": "acme",
        "version": 3,
        "offered_by": "acme-reward 1.2",
        "config": {
            "scale": 1.0,
            "mode": "slow",
            "words": ["a"],
            "members": {"polite": {"group": "reward", "name": "other", "config": other}},
        },
    }


def test_plain_leaves_plain_data_alone() -> None:
    assert plain({"a": [1, "b", None, {"c": (True, 2.5)}]}) == {"a": [1, "b", None, {"c": [True, 2.5]}]}


def test_a_folder_that_is_no_reward(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"is no reward artifact: it has no reward\.json"):
        open_stored(tmp_path, FakeContext(tmp_path), Scoring())


def test_the_state_of_files_is_kept_with_the_options(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class FromFile:
        state: str

        def revision(self):
            return {"file": self.state}

    def saved(state: str) -> dict[str, object]:
        inner = Selected("reward", "inner", FromFile(state))
        save_reward(tmp_path, Written(), Selected("reward", "mix", Options(members={"one": inner})), 1, "acme 1")
        return json.loads((tmp_path / "reward.json").read_text())["revisions"]

    assert saved("a") == [{"file": "a"}]
    assert saved("b") != saved("a")


def test_what_is_kept_without_training_is_opened(tmp_path: Path) -> None:
    class Kept(Written):
        kept = "nothing"

        def save(self, folder: Path) -> None:
            (folder / "kept").write_text("something")

        def load(self, folder: Path) -> None:
            self.kept = (folder / "kept").read_text()

    save_reward(tmp_path, Kept(), Selected("reward", "acme", {}), 1, "acme 1")
    ctx = FakeContext(tmp_path, builders={"reward/acme": lambda _: Kept()})
    assert open_stored(tmp_path, ctx, Scoring()).reward.kept == "something"


@dataclass(frozen=True)
class Served:
    model: str = "judge-1"
    workers: int = field(default=4, metadata={"fingerprint": False})
    members: dict[str, object] = field(default_factory=dict)


def served(workers: int, inner: int) -> Selected:
    member = Selected("reward", "member", Served(workers=inner))
    return Selected("reward", "acme", Served(workers=workers, members={"a": member}))


def test_what_cannot_change_a_score_is_the_opening_runs_and_not_the_artifacts(tmp_path: Path) -> None:
    save_reward(tmp_path, Written(), served(8, 16), 1, "acme 1")
    ctx = FakeContext(tmp_path, slots={"reward": served(2, 3)}, builders={"reward/acme": lambda _: Written()})
    open_judge(Artifact("reward", "reward", tmp_path, "d"), ctx)
    assert ctx.built[-1].config["workers"] == 2
    assert ctx.built[-1].config["members"]["a"]["config"] == {"model": "judge-1", "workers": 3, "members": {}}
    open_judge(Artifact("reward", "reward_2", tmp_path, "d"), ctx)  # nothing chosen in its place
    assert ctx.built[-1].config["workers"] == 8


def test_another_reward_in_its_place_lends_it_nothing(tmp_path: Path) -> None:
    save_reward(tmp_path, Written(), served(8, 16), 1, "acme 1")
    other = Selected("reward", "other", Served(workers=1))
    ctx = FakeContext(tmp_path, slots={"reward": other}, builders={"reward/acme": lambda _: Written()})
    open_judge(Artifact("reward", "reward", tmp_path, "d"), ctx)
    assert ctx.built[-1].config["workers"] == 8
