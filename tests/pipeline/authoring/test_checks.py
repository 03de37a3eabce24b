"""The contract suite: a sound reward passes all of it, and each flaw fails the check that is there for it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from alignpipe.authoring.candidate import Candidate
from alignpipe.authoring.checks import CHECKS, Verdict, verdict
from alignpipe.authoring.choosing import choose
from alignpipe.cli.main import main
from alignpipe.testing import reward_contract
from support.distributions import InstallReward


@pytest.fixture
def found(tmp_path: Path):
    def check(name: str, option: str = "acme", *overrides: str) -> Verdict:
        return verdict(name, Candidate(choose(option, overrides), tmp_path / name))

    return check


def function(body: str, decoration: str = '"acme"', parameters: str = "samples") -> str:
    return f"@reward({decoration})\ndef score({parameters}):\n    'A reward of the tests.'\n    {body}\n"


def test_the_example_passes(example_reward: None, tmp_path: Path) -> None:
    candidate = Candidate(choose("example_reward", ["reward.word=thanks"]), tmp_path)
    outcomes = {name: verdict(name, candidate) for name in CHECKS}
    assert {name: one.outcome for name, one in outcomes.items()} == {
        **dict.fromkeys(CHECKS, "ok"),
        "save and load": "skipped",
    }
    assert outcomes["one score each"].why == "24 samples, parts word, cut"
    assert outcomes["options"].why == "2 options"


@pytest.mark.parametrize(
    ("check", "source", "why"),
    [
        ("light import", "import numpy\n" + function("return [0.0 for _ in samples]"), "acme_reward imports numpy"),
        ("one score each", function("return [0.0]"), "1 scores for 24 samples"),
        (
            "one score each",
            function("return [float(sample.row['answer']) for sample in samples]"),
            "no sample gets a score: KeyError: 'answer'",
        ),
        (
            "one score each",
            function("return [1 / ('a' in sample.response or 'i' in sample.response) for sample in samples]"),
            "ZeroDivisionError",
        ),
        ("finite", function("return [float('nan' if 'Paris' in s.response else 1) for s in samples]"), "2 of 24.* nan"),
        ("order", function("return [float(place) for place, _ in enumerate(samples)]"), "scores .* in another order"),
        (
            "batch",
            function("return [len(s.response) / max(len(t.response) for t in samples) for s in samples]"),
            "scores .* asked about alone",
        ),
        ("seed", "import random\n" + function("return [random.random() for _ in samples]"), "with the same seed"),
        ("failures", function("return [1.0 / len(s.response) for s in samples]"), "the response '': ZeroDivisionError"),
        (
            "failures",
            function("return [float(s.row.get('answer', '') == 'x') for s in samples]", '"acme", columns=["answer"]'),
            "reads the column 'answer', and scores a sample without it",
        ),
    ],
)  # fmt: skip
def test_flaws_are_found(check: str, source: str, why: str, install_reward: InstallReward, found) -> None:
    install_reward(source)
    verdict = found(check)
    assert verdict.outcome == "failed"
    assert re.search(why, verdict.why), verdict.why


def test_columns_are_filled(install_reward: InstallReward, found) -> None:
    body = "return [float(s.row['answer'] == s.response) for s in samples]"
    install_reward(function(body, '"acme", columns=["answer"]'))
    assert found("one score each").outcome == "ok"
    told = found("failures")
    assert (told.outcome, told.why) == ("ok", "8 odd samples; answer missed")


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("def __post_init__(self): object.__setattr__(self, 'word', self.word + '!')", "come back as something else"),
        ("def __reduce__(self): raise TypeError('no')", "cannot be pickled: TypeError: no"),
        ("def __getstate__(self): return {'word': 'other'}", "pickled, .* becomes"),
    ],
)  # fmt: skip
def test_options_that_do_not_survive(method: str, why: str, install_reward: InstallReward, found) -> None:
    own = f"@dataclass\nclass Own:\n    word: str = 'please'\n    {method}\n"
    install_reward(own + function("return [0.0 for _ in samples]", '"acme", Own', "samples, options"))
    verdict = found("options")
    assert verdict.outcome == "failed"
    assert re.search(why, verdict.why), verdict.why


TRAINED = """
@reward("acme")
class score:
    'Knows the words of the answers that were preferred.'
    def __init__(self):
        self.words = set()
    def fit(self, inputs, ctx):
        from alignpipe.dataset import Dataset
        rows = Dataset(inputs["dataset"].folder).rows("preferences", "train")
        self.words = {word for row in rows for word in row["chosen"].split()}
        ctx.log({"words": len(self.words)})
    def save(self, folder):
        (folder / "words").write_text("\\n".join(sorted(self.words)))
    def load(self, folder):
        self.words = LOADED
    def score(self, samples):
        assert self.words, "not trained"
        return [float(sum(word in self.words for word in sample.response.split())) for sample in samples]
"""


def test_a_trained_reward_is_trained_saved_and_loaded(install_reward: InstallReward, found) -> None:
    install_reward(TRAINED.replace("LOADED", 'set((folder / "words").read_text().split("\\n"))'))
    assert found("save and load") == Verdict("save and load", "ok", "trained, saved and loaded")
    assert found("seed").outcome == "ok"


def test_a_trained_reward_that_forgets(install_reward: InstallReward, found) -> None:
    install_reward(TRAINED.replace("LOADED", "{'one'}"))
    assert "after save and load" in found("save and load").why


def test_a_reward_that_cannot_be_trained_says_so_in_every_check(install_reward: InstallReward, tmp_path: Path) -> None:
    install_reward(TRAINED.replace("LOADED", "{'one'}").replace("rows = Dataset", "raise OSError('no disk')  #"))
    candidate = Candidate(choose("acme", []), tmp_path)
    assert {verdict(name, candidate).why for name in ("finite", "order")} == {"OSError: no disk"}


def test_a_slow_reward_is_held_against_the_deadline(install_reward: InstallReward, found) -> None:
    install_reward("import time\n" + function("time.sleep(0.005 * len(samples)); return [0.0 for _ in samples]"))
    told = found("speed", "acme", "scoring.deadline=1")
    assert told.outcome == "failed"
    assert "scoring.deadline=1 s cuts it" in told.why


def test_the_command_says_it_in_words(
    example_reward: None, install_reward: InstallReward, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "check", "example-reward", "reward.most=3"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("reward/example_reward (example-reward 0.1.0)\n\ncheck ")
    assert said.endswith("reward/example_reward keeps the contract\n")
    install_reward(function("return [float('nan') if 'Paris' in s.response else 1.0 for s in samples]"))
    assert main(["plugins", "check", "reward/acme"]) == 1
    assert "reward/acme does not keep the contract: finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing-like-it"], "nothing of this name is installed"),
        (["ppo/ppo"], "only rewards are checked"),
        (["files"], "it brings no reward"),
        (["alignpipe", "reward.word=x"], "alignpipe brings reward/bradley_terry, .*; check one of them"),
    ],
)
def test_what_cannot_be_checked(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "check", *words]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_the_pytest_module_makes_one_case_per_check() -> None:
    test = reward_contract("acme")
    (mark,) = test.pytestmark
    assert mark.args == ("check", list(CHECKS))


def test_the_pytest_module_is_light_until_it_is_used() -> None:
    code = (
        "import sys, alignpipe.testing; print([m for m in ('pytest', 'torch', 'hydra', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
