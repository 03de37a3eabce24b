"""reward=mix: the arithmetic by hand, failures that name their member, and the training of several in one stage."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alignpipe.api import Failure, Reward, Sample, Scores, Scoring, Selected, TrainableReward
from alignpipe.choices import plain
from alignpipe.config.convert import from_plain
from alignpipe.dataset import Dataset
from alignpipe.errors import ConfigError, DataError, PluginError, RewardError, StageInterrupted
from alignpipe.registry import registry
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.mix.combining import Scale, combination
from alignpipe_plugins.mix.config import Combine, MixConfig, Normalise
from alignpipe_plugins.mix.reward import Mix, TrainedMix, build
from alignpipe_plugins.rules.config import RulesConfig
from alignpipe_plugins.rules.reward import RulesReward
from support import tiny_data
from support.context import FakeContext


class Written:
    """A member that is a function of the response; keeps how it was asked."""

    def __init__(self, score: Callable, columns: tuple[str, ...] = ()) -> None:
        self._score = score
        self.columns = columns
        self.asked: list[int] = []

    def score(self, samples):
        self.asked.append(len(samples))
        return [self._score(sample.response) for sample in samples]


class Answers:
    """A member that gives these scores, whatever it is asked."""

    def __init__(self, scores) -> None:
        self._scores = scores

    def score(self, samples):
        return self._scores


def members(*names: str) -> dict[str, Selected]:
    return {name: Selected("reward", name, None) for name in names}


def mixed(tmp_path: Path, made: dict[str, Reward], **options) -> Mix | TrainedMix:
    config = MixConfig(members=members(*made), **options)
    context = FakeContext(tmp_path, builders={f"reward/{name}": lambda _, n=name: made[n] for name in made})
    return build(config, context)


def samples(*responses: str) -> list[Sample]:
    return [Sample("prompt", response) for response in responses]


def score(mix, *responses: str) -> Scores:
    return asyncio.run(mix.score(samples(*responses)))


def words(text: str) -> float:
    return float(len(text.split()))


def test_a_weighted_sum_with_a_clip_by_hand(tmp_path: Path) -> None:
    mix = mixed(
        tmp_path,
        {"words": Written(words), "polite": Written(lambda text: float("please" in text))},
        weights={"words": 0.5},
        clip={"words": [1.0, 3.0]},
    )
    scores = score(mix, "please", "one two three four", "")
    assert scores.total == [0.5 * 1 + 1, 0.5 * 3 + 0, 0.5 * 1 + 0]
    assert scores.parts == {
        "words": [1.0, 4.0, 0.0],  # as they said it
        "polite": [1.0, 0.0, 0.0],
        "contribution/words": [0.5, 1.5, 0.5],  # as it went into the total
        "contribution/polite": [1.0, 0.0, 0.0],
        "clipped/words": [0.0, 1.0, 1.0],
    }
    assert scores.failures == {}
    assert isinstance(mix, Reward)
    assert not isinstance(mix, TrainableReward)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"combine": Combine.sum}, 6.0),
        ({"combine": Combine.min}, 0.0),
        ({"combine": Combine.mean_minus_spread}, 2.0 - math.sqrt(8 / 3)),  # of 0, 2, 4: variance (4 + 0 + 4) / 3
        ({"combine": Combine.mean_minus_spread, "spread_coef": 0.5}, 2.0 - 0.5 * math.sqrt(8 / 3)),
    ],
)
def test_ways_to_combine_by_hand(options, expected: float) -> None:
    config = MixConfig(members=members("a", "b", "c"), **options)
    assert combination(config)({"a": 2.0, "b": 0.0, "c": 4.0}) == pytest.approx(expected)


def test_a_scale_is_applied_before_its_limits() -> None:
    scale = Scale(gain=2.0, bias=-1.0, low=-2.0, high=2.0)
    assert [scale(value) for value in (1.0, 5.0, -5.0)] == [1.0, 2.0, -2.0]


def test_parts_of_parts_and_a_mix_in_a_mix(tmp_path: Path) -> None:
    inner = mixed(tmp_path, {"rules": RulesReward(RulesConfig(wanted=["a"], max_words=1))})
    outer = mixed(tmp_path, {"inner": inner, "n": Written(words)}, weights={"n": 0.0})
    assert score(outer, "a b").parts == {
        "inner": [0.0], "inner/rules": [0.0], "inner/rules/wanted": [1.0], "inner/rules/length": [-1.0], "n": [2.0],
    }  # fmt: skip
    assert score(outer, "a").total == [1.0]


def test_contributions_add_up_to_the_total_where_they_are_not_what_the_members_said(tmp_path: Path) -> None:
    made = {"n": Written(words), "m": Written(lambda text: 3.0 * words(text)), "curve": Written(words)}
    bare = score(mixed(tmp_path, made, weights={"curve": 0.0}), "a b")
    assert (bare.total, bare.parts) == ([8.0], {"n": [2.0], "m": [6.0], "curve": [2.0]})
    mix = mixed(tmp_path, made, weights={"m": -0.5, "curve": 0.0})
    mix.scales["n"] = Scale(gain=2.0, bias=-1.0)
    scores = score(mix, "a b")
    assert {name: values for name, values in scores.parts.items() if "/" in name} == {
        "contribution/n": [3.0], "contribution/m": [-3.0],
    }  # fmt: skip
    assert scores.total == [0.0]
    assert not any("/" in name for name in score(mixed(tmp_path, made, combine=Combine.min), "a b").parts)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"combine": Combine.sum, "weights": {"maths": 2.0}}, [2.0, 12.0]),
        ({"combine": Combine.min}, [2.0, 2.0]),
        ({"combine": Combine.mean_minus_spread}, [2.0, 3.5 - 1.5]),
    ],
)
def test_a_member_that_does_not_apply_takes_no_part(options, expected: list[float], tmp_path: Path) -> None:
    maths = Written(lambda text: 5.0 if "=" in text else None)
    scored = Judge(
        mixed(tmp_path, {"n": Written(words), "maths": maths}, **options), "mix", Scoring(failure_budget=0.0)
    ).score(samples("a b", "1 =1"))
    assert scored.total == expected
    assert scored.failures == {}
    assert math.isnan(scored.parts["maths"][0])
    assert scored.parts["maths"][1] == 5.0


def test_a_sample_that_no_counting_member_applies_to_has_no_score(tmp_path: Path) -> None:
    maths = Written(lambda text: 5.0 if "=" in text else None)
    mix = mixed(tmp_path, {"curve": Written(words), "maths": maths}, weights={"curve": 0.0})
    scored = Judge(mix, "mix", Scoring(failure_budget=0.0)).score(samples("a b", "1 =1"))
    assert scored.kept == [1]
    assert scored.failures[0].kind == "not_applicable"
    assert scored.failures[0].message.startswith("member maths: ")


def test_a_failure_of_a_member_is_the_samples_and_names_it(tmp_path: Path) -> None:
    class Picky:
        def score(self, samples):
            return Scores([1.0] * len(samples), failures={1: Failure("refused", "not this one")})

    scores = score(mixed(tmp_path, {"n": Written(words), "picky": Picky()}), "a", "b", "c")
    assert scores.failures == {1: Failure("refused", "member picky: not this one")}
    assert [scores.total[0], scores.total[2]] == [2.0, 2.0]


def test_what_raises_is_found_without_asking_the_others_again(tmp_path: Path) -> None:
    def upset(text: str) -> float:
        if text == "bad":
            raise KeyError("no such thing")
        if text == "leaving":
            raise SystemExit(0)
        return math.inf if text == "endless" else 1.0

    calm, breaking = Written(words), Written(upset)
    judge = Judge(mixed(tmp_path, {"calm": calm, "breaking": breaking}), "mix", Scoring(retries=0, failure_budget=0.9))
    scored = judge.score(samples("a", "bad", "a b", "endless", "a b c", "leaving"))
    assert {row: failure.kind for row, failure in scored.failures.items()} == {1: "exception", 3: "nan", 5: "exception"}
    assert scored.failures[1].message.startswith("member breaking: KeyError: 'no such thing'\nTraceback")
    assert scored.failures[3].message == "member breaking: the total is inf, which is no finite number"
    assert [scored.total[row] for row in scored.kept] == [2.0, 3.0, 4.0]
    assert calm.asked == [6]


def test_a_member_that_always_raises_is_not_asked_for_ever(tmp_path: Path) -> None:
    broken = Written(lambda text: 1 / 0)
    scores = score(mixed(tmp_path, {"broken": broken}), *["x"] * 64)
    assert len(scores.failures) == 64
    assert len(broken.asked) < 64 + 16  # each half of it once, then nobody looks further


def test_a_member_cannot_bring_the_samples_into_another_order(tmp_path: Path) -> None:
    class ShortestFirst:
        def score(self, samples):
            samples.sort(key=lambda sample: len(sample.response))
            return [words(sample.response) for sample in samples]

    scores = score(mixed(tmp_path, {"sorts": ShortestFirst()}), "a b c", "a")
    assert len(scores.failures) == 2
    assert "no attribute 'sort'" in scores.failures[0].message


def test_a_wrong_count_and_a_refusal_in_words(tmp_path: Path) -> None:
    scores = score(mixed(tmp_path, {"few": Answers([1.0, 2.0, 3.0])}), "a", "b")
    assert {failure.kind for failure in scores.failures.values()} == {"count"}
    assert scores.failures[0].message.startswith("member few: its total has 3 scores for 1 samples")

    def cannot(text: str) -> float:
        raise DataError("no column 'x'")

    with pytest.raises(RewardError, match="member needy: no column 'x'"):
        score(mixed(tmp_path, {"needy": Written(cannot)}), "a")


def test_members_that_wait_wait_together(tmp_path: Path) -> None:
    running: set[str] = set()
    most: list[int] = []

    class Slow:
        def __init__(self, name: str) -> None:
            self._name = name

        async def score(self, samples):
            running.add(self._name)
            most.append(len(running))
            await asyncio.sleep(0.05)
            running.discard(self._name)
            return [1.0] * len(samples)

    made = {"a": Slow("a"), "n": Written(words), "b": Slow("b")}
    assert Judge(mixed(tmp_path, made), "mix").score(samples("x", "x y")).total == [3.0, 4.0]
    assert max(most) == 2


class PerToken:
    """A member that gives every token of these responses a score."""

    def __init__(self, *tokens: list[float]) -> None:
        self._tokens = tokens

    def score(self, samples):
        return Scores([sum(row) for row in self._tokens], per_token=self._tokens)


def test_scores_per_token_stay_where_they_are(tmp_path: Path) -> None:
    made = {"steps": PerToken([1.0, -2.0, 0.5], [4.0, 0.0]), "n": Written(words)}
    mix = mixed(tmp_path, made, weights={"steps": 2.0, "n": 0.5}, clip={"steps": [-1.0, 1.0]})
    asked = [Sample("p", "a b c", response_ids=[7, 8, 9]), Sample("p", "d", response_ids=[7, 8])]
    scored = Judge(mix, "mix", Scoring(retries=0)).score(asked)
    assert scored.total == [2 * -0.5 + 0.5 * 3, 2 * 1.0 + 0.5]
    assert scored.per_token == [[2.0, -4.0, 1.0 + 1.5], [0.0, 2.5]]  # the second one was clipped: all at the end
    assert Judge(mixed(tmp_path, made, combine=Combine.min), "mix").score(asked).per_token is None


def test_a_normalised_split_adds_up(tmp_path: Path) -> None:
    mix = mixed(tmp_path, {"steps": PerToken([1.0, 3.0])})
    mix.scales["steps"] = Scale(gain=0.5, bias=-1.0)
    assert score(mix, "a").per_token == [[0.5, 1.5 - 1.0]]


def test_columns_are_those_of_all_members(tmp_path: Path) -> None:
    mix = mixed(tmp_path, {"a": Written(words, ("answer", "x")), "b": Written(words), "c": Written(words, ("answer",))})
    assert mix.columns == {"answer": None, "x": None}


def test_batches_and_order_change_nothing(tmp_path: Path) -> None:
    made = {"r": RulesReward(RulesConfig(repetition=2, min_words=3)), "n": Written(words)}
    judge = Judge(mixed(tmp_path, made, combine=Combine.mean_minus_spread), "mix")
    responses = ["a b a b", "", "a b c d e", "x"]
    whole = judge.score(samples(*responses)).total
    assert whole == [judge.score(samples(response)).total[0] for response in responses]
    assert whole == judge.score(samples(*responses[::-1])).total[::-1]


def test_it_comes_back_from_plain_data() -> None:
    config = MixConfig(
        members={"r": Selected("reward", "rules", RulesConfig(wanted=["a", "${no such}"], starts_with="${x}"))},
        normalise={"r": Normalise.preferences},
        clip={"r": [-1.0, 1.0]},
    )
    stored = json.loads(json.dumps(plain(config)))
    again = from_plain(stored, registry().get("reward", "mix"), registry())
    assert (again.normalise, again.clip) == (config.normalise, config.clip)
    assert again.chosen()["r"].name == "rules"
    typed = from_plain(again.chosen()["r"].config, registry().get("reward", "rules"), registry())
    assert typed == RulesConfig(wanted=["a", "${no such}"], starts_with="${x}"), "and no interpolation"


def test_what_is_no_reward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="member odd of the mix: the factory of reward/odd built a int"):
        mixed(tmp_path, {"odd": 3})

    def fail(config) -> Reward:
        raise ConfigError("reward.label is not set")

    with pytest.raises(RewardError, match=r"member a of the mix: reward.label is not set"):
        build(MixConfig(members=members("a")), FakeContext(tmp_path, builders={"reward/a": fail}))


class Counting:
    """A trained member: it learns its seed; three steps, of which it may be interrupted."""

    def __init__(self) -> None:
        self.learned: int | None = None
        self.fitted = 0
        self.started_at: list[int] = []

    def fit(self, inputs, ctx) -> None:
        self.fitted += 1
        checkpoint = ctx.work / "checkpoint"
        done = int(checkpoint.read_text()) if checkpoint.is_file() else 0
        self.started_at.append(done)
        if done:
            ctx.rewind(done)
        else:
            ctx.log({"loss": 0.0}, 0)
        for step in range(done + 1, 4):
            ctx.log({"loss": float(step)}, step)
            ctx.log_timings({"time/step": 0.0}, step)
            checkpoint.write_text(str(step))
            if ctx.stop_requested():
                raise StageInterrupted("stopped")
        self.learned = ctx.seed
        ctx.log({"seed": float(ctx.seed)})

    def score(self, samples):
        assert self.learned is not None, "not trained"
        return [float(self.learned)] * len(samples)

    def save(self, folder: Path) -> None:
        (folder / "learned").write_text(str(self.learned))

    def load(self, folder: Path) -> None:
        self.learned = int((folder / "learned").read_text())


def test_every_trained_member_has_its_own_seed_folder_and_metrics(tmp_path: Path) -> None:
    a, b = Counting(), Counting()
    mix = mixed(tmp_path, {"a": a, "n": Written(words), "b": b})
    assert isinstance(mix, TrainableReward)
    ctx = FakeContext(tmp_path / "stage")
    mix.fit({}, ctx)
    assert a.learned != b.learned
    assert [step for step, values in ctx.logged if "a/loss" in values] == [0, 1, 2, 3]
    assert [step for step, values in ctx.logged if "b/loss" in values] == [4, 5, 6, 7]
    assert ctx.metrics()["b/seed"] == b.learned
    assert [step for step, _ in ctx.timings] == [1, 2, 3, 5, 6, 7]

    mix.save(ctx.payload)
    assert {str(path.relative_to(ctx.payload)) for path in ctx.payload.rglob("*") if path.is_file()} == {
        "mix.json", "members/a/learned", "members/b/learned",
    }  # fmt: skip
    again = mixed(tmp_path, {"a": Counting(), "n": Written(words), "b": Counting()})
    again.load(ctx.payload)
    assert score(again, "x y").total == score(mix, "x y").total == [a.learned + b.learned + 2]


def test_an_interrupted_stage_goes_on_with_the_member_it_was_at(tmp_path: Path) -> None:
    whole = FakeContext(tmp_path / "whole")
    mixed(tmp_path, {"a": Counting(), "b": Counting()}).fit({}, whole)

    first = FakeContext(tmp_path / "stage", stop_after=4)
    with pytest.raises(StageInterrupted):
        mixed(tmp_path, {"a": Counting(), "b": Counting()}).fit({}, first)
    second = FakeContext(tmp_path / "stage", logged=list(first.logged), timings=list(first.timings))
    a, b = Counting(), Counting()
    mixed(tmp_path, {"a": a, "b": b}).fit({}, second)
    assert (a.fitted, b.started_at) == (0, [2])
    assert (second.logged, second.timings) == (whole.logged, whole.timings)


def test_a_member_scores_as_its_files_say_whether_it_was_trained_just_now_or_before_a_kill(tmp_path: Path) -> None:
    class Rounded(Counting):
        """What it keeps is not quite what it has learned, as with weights that a file computes with otherwise."""

        def save(self, folder: Path) -> None:
            (folder / "learned").write_text(str(-abs(self.learned)))

    totals = []
    for name in ("trained just now", "trained before a kill"):
        mix = mixed(tmp_path, {"a": Rounded()})
        mix.fit({}, FakeContext(tmp_path / "stage"))
        totals.append(score(mix, "x").total)
        mix.save(tmp_path)
        totals.append([float((tmp_path / "members" / "a" / "learned").read_text())])
        assert len(set(map(tuple, totals))) == 1, name


def test_a_trained_member_is_on_the_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def fsync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))

    monkeypatch.setattr(os, "fsync", fsync)
    ctx = FakeContext(tmp_path)
    mixed(tmp_path / "mix", {"a": Counting()}).fit({}, ctx)
    folder = ctx.work / "members" / "a"
    partial = folder / "trained.partial"
    assert {partial / "learned", partial / "last_step.json", partial} == set(synced[:3])
    assert synced[3:] == [folder], "the rename"


def test_a_member_that_starts_anew_keeps_what_finished_ones_logged(tmp_path: Path) -> None:
    """Killed between two members: nothing of the second one is there to go on with."""
    whole = FakeContext(tmp_path / "whole")
    mixed(tmp_path, {"a": Counting(), "b": Counting()}).fit({}, whole)

    first = FakeContext(tmp_path / "stage")
    mixed(tmp_path, {"a": Counting()}).fit({}, first)
    kept = [*first.logged, (4, {"b/loss": 0.0}), (5, {"b/loss": 99.0})]  # b's first steps, no checkpoint written
    second = FakeContext(tmp_path / "stage", logged=kept, timings=list(first.timings))
    mixed(tmp_path, {"a": Counting(), "b": Counting()}).fit({}, second)
    assert (second.logged, second.timings) == (whole.logged, whole.timings)


def test_normalised_scores_have_mean_0_and_deviation_1(tmp_path: Path) -> None:
    data = tiny_data.write(tmp_path / "data", train=8)
    length = Written(lambda text: float(len(text)))
    mix = mixed(tmp_path, {"length": length, "n": Written(words)}, normalise={"length": Normalise.preferences})
    ctx = FakeContext(tmp_path / "stage")
    mix.fit({"dataset": data}, ctx)
    texts = [row[side] for row in Dataset(data.folder).rows("preferences", "train") for side in ("chosen", "rejected")]
    lengths = [len(text) for text in texts]
    mean = sum(lengths) / len(lengths)
    deviation = math.sqrt(sum((length - mean) ** 2 for length in lengths) / len(lengths))
    assert ctx.metrics() == pytest.approx({"normalise/length/mean": mean, "normalise/length/deviation": deviation})
    scores = score(mix, "four")
    assert scores.total == [pytest.approx((4 - mean) / deviation + 1)]
    assert scores.parts["length"] == [4.0]
    mix.save(ctx.payload)
    again = mixed(tmp_path, {"length": length, "n": Written(words)}, normalise={"length": Normalise.preferences})
    again.load(ctx.payload)
    assert score(again, "four").total == scores.total


def test_what_cannot_be_normalised(tmp_path: Path) -> None:
    data = tiny_data.write(tmp_path / "data", without=("preferences",))
    alike = mixed(tmp_path, {"a": Written(lambda text: 0.5)}, normalise={"a": Normalise.demonstrations})
    with pytest.raises(RewardError, match=r"normalise.a=demonstrations: member a scores all 24 texts 0.5"):
        alike.fit({"dataset": data}, FakeContext(tmp_path / "one"))
    needy = mixed(tmp_path, {"a": Written(words, ("answer",))}, normalise={"a": Normalise.demonstrations})
    with pytest.raises(DataError, match="member a of the mix reads the column 'answer', which 24 of 24 demonstrations"):
        needy.fit({"dataset": data}, FakeContext(tmp_path / "three"))
    pairs = mixed(tmp_path, {"a": Written(words), "b": Counting()}, normalise={"a": Normalise.preferences})
    untrained = FakeContext(tmp_path / "two")
    with pytest.raises(DataError, match="no preferences in its train split"):
        pairs.fit({"dataset": data}, untrained)
    assert untrained.logged == [], "it is told before any member is trained"


def test_a_folder_of_another_mix_is_refused(tmp_path: Path) -> None:
    mixed(tmp_path, {"a": Written(words)}).save(tmp_path)
    with pytest.raises(RewardError, match="holds no mix of b"):
        mixed(tmp_path, {"b": Written(words)}).load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": {}}, r"members is empty: add rewards with \+reward@reward.members.<name>=<option>"),
        ({"members": {"a": "rules"}}, r"members.a='rules' is no reward; choose one with \+reward@reward.members.a="),
        ({"members": {"a": Selected("model", "tiny", None)}}, "members.a is an option of model"),
        ({"members": members("a/b")}, "members.a/b: a member's name is made of"),
        ({"weights": {"c": 1.0}}, "weights.c: there is no such member; there are a, b"),
        ({"clip": {"c": [0.0, 1.0]}}, "clip.c: there is no such member"),
        ({"weights": {"a": 0.0, "b": 0.0}}, "weights are all 0"),
        ({"weights": {"a": math.nan}}, "weights.a must be a finite number"),
        ({"weights": {"a": 2.0}, "combine": Combine.min}, "weights are for combine=sum, but combine=min"),
        ({"members": members("a"), "combine": Combine.min}, "combine=min needs at least two members"),
        ({"spread_coef": 2.0}, "spread_coef is for combine=mean_minus_spread, but combine=sum"),
        ({"clip": {"a": [1.0, -1.0]}}, r"clip.a must be \[lowest,highest\], got \[1.0, -1.0\]"),
        ({"clip": {"a": [1.0]}}, r"clip.a must be \[lowest,highest\]"),
        ({"normalise_samples": 1}, "normalise_samples must be at least 2"),
        ({"members": members("contribution")}, "members.contribution: the mix names parts of its own so"),
    ],
)
def test_options_that_make_no_sense(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixConfig(**{"members": members("a", "b"), **options})
