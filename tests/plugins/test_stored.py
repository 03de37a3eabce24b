"""reward=stored: what was saved scores as it did, by itself and in a mix, also when its folder is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alignpipe.api import BuildContext, Sample, Scoring, Selected, TrainableReward
from alignpipe.errors import ConfigError, RewardError
from alignpipe.rewarding.artifact import open_stored, save_reward
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.mix.config import MixConfig
from alignpipe_plugins.mix.reward import build as build_mix
from alignpipe_plugins.rules.config import RulesConfig
from alignpipe_plugins.rules.reward import RulesReward
from alignpipe_plugins.stored.config import StoredConfig
from alignpipe_plugins.stored.reward import StoredReward, build
from support.context import FakeContext

SAMPLES = [Sample("p", "a word"), Sample("p", "no")]


class Learned:
    """Was trained to a number, and reads a column."""

    columns = ("answer",)
    value = 0.0

    def fit(self, inputs, ctx):
        raise AssertionError("it is trained already")

    def save(self, folder: Path) -> None:
        (folder / "value").write_text(str(self.value))

    def load(self, folder: Path) -> None:
        self.value = float((folder / "value").read_text())

    def score(self, samples):
        return [self.value * len(sample.response) for sample in samples]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The folder of an object in a store."""
    payload = tmp_path / "objects" / "reward" / "abc" / "payload"
    payload.mkdir(parents=True)
    learned = Learned()
    learned.value = 2.0
    save_reward(payload, learned, Selected("reward", "learned", {}), 1, "acme 1.0")
    (payload / "value").chmod(0o400)
    return payload.parent


def context(tmp_path: Path) -> BuildContext:
    return FakeContext(
        tmp_path,
        builders={
            "reward/learned": lambda _: Learned(),
            "reward/stored": lambda config: build(
                config if isinstance(config, StoredConfig) else StoredConfig(**config), context(tmp_path)
            ),
            "reward/rules": lambda _: RulesReward(RulesConfig(wanted=["word"])),
        },
    )


@pytest.mark.parametrize("inside", ["", "payload"])
def test_it_scores_as_it_did_without_training(inside: str, stored: Path, tmp_path: Path) -> None:
    reward = StoredReward(StoredConfig(path=str(stored / inside)), context(tmp_path))
    assert reward.score(SAMPLES) == [12.0, 4.0]
    assert reward.columns == ("answer",)
    assert not isinstance(reward, TrainableReward)


def test_in_a_mix_it_is_kept_with_it(stored: Path, tmp_path: Path) -> None:
    config = MixConfig(
        members={
            "liked": Selected("reward", "stored", StoredConfig(path=str(stored))),
            "word": Selected("reward", "rules", None),
        }
    )
    mix = build_mix(config, context(tmp_path))
    assert Judge(mix, "mix").score(SAMPLES).total == [13.0, 4.0]
    assert not isinstance(mix, TrainableReward), "there is nothing to train"
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    mix.save(artifact)
    shutil.rmtree(stored)
    again = build_mix(config, context(tmp_path))
    again.load(artifact)
    assert Judge(again, "mix").score(SAMPLES).total == [13.0, 4.0]


def test_as_the_runs_reward_it_comes_back_from_its_artifact(stored: Path, tmp_path: Path) -> None:
    chosen = Selected("reward", "stored", StoredConfig(path=str(stored)))
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    save_reward(artifact, build(chosen.config, context(tmp_path)), chosen, 1, "alignpipe 0.1.0")
    shutil.rmtree(stored)
    assert open_stored(artifact, context(tmp_path), Scoring()).score(SAMPLES).total == [12.0, 4.0]


def test_the_revision_is_what_the_files_hold(stored: Path, tmp_path: Path) -> None:
    first = StoredConfig(path=str(stored)).revision()
    shutil.copytree(stored / "payload", tmp_path / "elsewhere")
    assert StoredConfig(path=str(tmp_path / "elsewhere")).revision() == first
    (tmp_path / "elsewhere" / "value").chmod(0o600)
    (tmp_path / "elsewhere" / "value").write_text("3.0")
    assert StoredConfig(path=str(tmp_path / "elsewhere")).revision() != first


def test_what_is_no_stored_reward(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward.path=nowhere: there is no such folder; 'alignpipe store ls'"):
        StoredConfig(path="nowhere").revision()
    with pytest.raises(ConfigError, match=r"reward.path=~nobody-here/kept: there is no such folder"):
        StoredConfig(path="~nobody-here/kept").revision()
    with pytest.raises(ConfigError, match=r"it holds no reward\.json"):
        StoredConfig(path=str(tmp_path)).folder()
    with pytest.raises(RewardError, match="holds no stored reward"):
        StoredReward(StoredConfig(path="nowhere"), context(tmp_path)).load(tmp_path)
