"""The module that authors of rewards import: what it offers is pinned, and ten lines are enough."""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, field

import pluggy
import pytest

import alignpipe.rewards as rewards
from alignpipe.api import HookSpecs, Sample
from alignpipe.rewards import Port, RewardPlugin, Scores, reward, score_each

SAMPLES = [Sample("p", "please"), Sample("p", "no")]


@dataclass(frozen=True)
class Options:
    """What can be set."""

    word: str = field(default="please", metadata={"help": "the polite word"})


@reward("polite")
def polite(samples):
    """Answers that say please.

    More about it.
    """
    return [float("please" in sample.response) for sample in samples]


@reward("worded", Options, version=3)
def worded(samples, options):
    return Scores([float(options.word in sample.response) for sample in samples])


@reward("built", Options, summary="a class")
class Built:
    """As a class."""

    def __init__(self, options, context) -> None:
        self.made_of = (options, context)

    def score(self, samples):
        return [0.0] * len(samples)


@reward("bare")
class Bare:
    def score(self, samples):
        return [1.0] * len(samples)


def test_what_is_offered_is_pinned() -> None:
    """Names may be added within API version 1; none may go, and no signature may change in kind."""
    assert {
        "Answer", "Artifact", "BuildContext", "Columns", "Failure", "FailureKind", "Message", "Port", "Requirement",
        "Reward", "RewardPlugin", "Sample", "Scores", "StageContext", "TrainableReward", "reward", "score_each",
    } <= set(rewards.__all__)  # fmt: skip
    sample = Sample(
        "p", "r", messages=[{"role": "user", "content": "p"}], row={"answer": 1}, prompt_ids=[1], ended=True
    )
    assert (sample.prompt, sample.response, sample.row["answer"], sample.ended) == ("p", "r", 1, True)
    scores = Scores([1.0], parts={"a": [1.0]}, per_token=[[1.0]], failures={0: rewards.Failure("refused", "why")})
    assert (scores.total, scores.failures[0].kind) == ([1.0], "refused")


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.__setitem__("answer", 2),
        lambda row: row.__delitem__("answer"),
        lambda row: row.update(answer=2),
        lambda row: row.setdefault("other", 2),
        lambda row: row.pop("answer"),
        lambda row: row.popitem(),
        lambda row: row.clear(),
        lambda row: row.__ior__({"answer": 2}),
    ],
)
def test_a_samples_row_is_for_others_to_read_too(change) -> None:
    """One member of a mix must not be able to change what the next one scores."""
    given = {"answer": 1}
    sample = Sample("p", "r", row=given)
    with pytest.raises(TypeError, match=r"change a copy of it, dict\(sample\.row\)"):
        change(sample.row)
    assert sample.row == given == {"answer": 1}
    assert json.loads(json.dumps(sample.row)) == given
    for copied in (copy.copy(sample.row), copy.deepcopy(sample.row), pickle.loads(pickle.dumps(sample.row))):
        copied["answer"] = 2
    assert sample.row["answer"] == 1


def test_what_the_decorator_takes_is_pinned() -> None:
    """Arguments may be added within API version 1; none may go."""
    arguments = ["name", "options", "summary", "version", "columns", "requires", "needs", "uses", "parallel", "api"]
    assert list(inspect.signature(reward).parameters)[: len(arguments)] == arguments


def test_a_function_is_a_whole_plugin() -> None:
    (component,) = polite.alignpipe_components()
    assert (component.group, component.name, component.version) == ("reward", "polite", 1)
    assert component.summary == "Answers that say please."
    assert component.factory == f"{__name__}:polite"
    assert polite(component.config(), None).score(SAMPLES) == [1.0, 0.0]
    manager = pluggy.PluginManager("alignpipe")
    manager.add_hookspecs(HookSpecs)
    manager.register(polite)
    assert [list(offered) for offered in manager.hook.alignpipe_components()] == [[component]]


def test_options_and_classes() -> None:
    assert worded(Options("no"), None).score(SAMPLES).total == [0.0, 1.0]
    assert worded.component.version == 3
    assert worded.component.config is Options
    assert Built(Options("x"), "context").made_of == (Options("x"), "context")
    assert Bare(Bare.component.config(), None).score(SAMPLES) == [1.0, 1.0]


def test_what_cannot_be_a_reward() -> None:
    with pytest.raises(TypeError, match=r"must take \(samples\) or \(samples, options\)"):
        reward("odd")(lambda: None)
    with pytest.raises(TypeError, match=r"must take .* or \(options, context\)"):

        @reward("odd")
        class Odd:
            def __init__(self, a, b, c) -> None: ...

    with pytest.raises(ValueError, match="must match"):
        reward("Not-A-Name")(polite.target)


@reward("needy", columns={"answer": "4"}, requires=["gpu", "network"])
def needy(samples):
    return [0.0 for _ in samples]


@reward("taught", needs={"dataset": Port("dataset")}, uses=["model"], parallel=True, requires=("sandbox",))
class Taught(Bare.target):
    def fit(self, inputs, ctx) -> None: ...


def test_declared_needs_reach_the_component() -> None:
    assert needy.component.requires == ("gpu", "network")
    assert needy(needy.component.config(), None).columns == {"answer": "4"}
    component = Taught.component
    assert (component.needs, component.uses, component.parallel) == ({"dataset": Port("dataset")}, ("model",), True)
    assert component.requires == ("sandbox",)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"requires": "gpu"}, TypeError, r"requires must be a list of names, such as requires=\['gpu'\]"),
        ({"columns": "answer"}, TypeError, r"columns must be a list of names, such as columns=\['answer'\]"),
        ({"requires": ["tpu"]}, ValueError, "reward/odd requires 'tpu'; what can be required: gpu, network, sandbox"),
        ({"uses": ["model"]}, TypeError, r"needs, uses and parallel are for a class with fit\(inputs, ctx\)"),
        ({"parallel": True}, TypeError, "needs, uses and parallel are for"),
    ],
)
def test_requirements_that_cannot_be_declared(given: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reward("odd", **given)(polite.target)


def test_a_reward_inside_a_function_cannot_be_found_again() -> None:
    def inner(samples): ...

    with pytest.raises(TypeError, match=r"<locals>\.inner must stand at the top level of its module"):
        reward("odd")(inner)


def test_a_class_names_its_columns_itself() -> None:
    with pytest.raises(TypeError, match="a class names its columns by an attribute"):
        reward("odd", columns=["answer"])(Bare.target)


def test_each_sample_by_itself() -> None:
    running, most = 0, 0

    async def one(sample: Sample) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(60 if sample.response == "hang" else 0.01)
        running -= 1
        if sample.response == "bad":
            raise ValueError("no such thing")
        return 2.0

    samples = [Sample("p", text) for text in ("a", "bad", "hang", "b", "c")]
    scores = asyncio.run(score_each(samples, one, concurrency=2, timeout=0.3))
    assert [scores.total[index] for index in (0, 3, 4)] == [2.0] * 3
    assert {index: failure.kind for index, failure in scores.failures.items()} == {1: "exception", 2: "timeout"}
    assert "ValueError: no such thing" in scores.failures[1].message
    assert most == 2


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, alignpipe.rewards; print(*({'torch', 'transformers', 'wandb', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()


def test_the_decorated_object_is_a_plugin() -> None:
    assert isinstance(polite, RewardPlugin)
    assert polite.__doc__.startswith("Answers that say please")
