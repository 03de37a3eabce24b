"""The contract suite: a sound reward passes all of it, and each flaw fails the check that is there for it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignpipe.api import Sample
from alignpipe.authoring.candidate import Candidate
from alignpipe.authoring.checks import CHECKS, Verdict, verdict
from alignpipe.authoring.reward_choice import choose
from alignpipe.cli.main import main
from alignpipe.registry import registry
from alignpipe.testing import reward_contract
from support.distributions import InstallFakePlugin, InstallReward


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
    assert {name: one.outcome for name, one in outcomes.items()} == dict.fromkeys(CHECKS, "ok")
    assert outcomes["one score each"].why == "24 samples have a score, parts word, cut"
    assert outcomes["options"].why == "2 options"
    assert outcomes["save and load"].why == "it keeps nothing: its options say all"


@pytest.mark.parametrize(
    ("check", "source", "why"),
    [
        ("light import", "import numpy\n" + function("return [0.0 for _ in samples]"), "acme_reward imports numpy"),
        (
            "light import",
            "import os, sys\nif 'pytest' not in sys.modules:\n    os._exit(3)\n" + function("return [0.0]"),
            "importing acme_reward failed: its process ended with status 3",
        ),
        ("one score each", function("return [0.0]"), "1 scores for 24 samples"),
        ("one score each", "import sys\n" + function("sys.exit(0)"), "SystemExit: 0"),
        (
            "one score each",
            function("return [float(sample.row['answer']) for sample in samples]"),
            "no built-in sample gets a score: .*KeyError: 'answer'; name the columns .* in `columns`; try it on rows",
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


REFUSING = """
    from alignpipe.rewards import Failure
    fits = [str(sample.row.get("answer")).isdigit() for sample in samples]
    failures = {place: Failure("refused", "no number") for place, fit in enumerate(fits) if not fit}
    return Scores([float("84" in sample.response) for sample in samples], failures=failures)
"""


def test_an_example_of_a_column_is_what_the_built_in_samples_hold(install_reward: InstallReward, tmp_path) -> None:
    install_reward(function(REFUSING, '"acme", columns={"answer": "84"}'))
    candidate = Candidate(choose("acme", []), tmp_path)
    assert {verdict(name, candidate).outcome for name in CHECKS} == {"ok"}
    assert candidate.samples[0].row == {"answer": "84"}


def test_samples_that_do_not_suit_are_no_fault_of_the_reward(
    install_reward: InstallReward, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install_reward(function(REFUSING, '"acme", columns=["answer"]'))
    candidate = Candidate(choose("acme", []), tmp_path)
    outcomes = {name: verdict(name, candidate) for name in CHECKS}
    skipped = ["one score each", "finite", "order", "batch", "seed", "failures", "speed"]
    assert [name for name, found in outcomes.items() if found.outcome == "skipped"] == skipped
    assert re.search("refuses every built-in sample: .*: no number; .*--data FILE", outcomes["one score each"].why)
    assert outcomes["finite"].why == "no scores"
    assert main(["plugins", "check", "reward/acme"]) == 0
    told = f"reward/acme keeps the contract as far as it was tried; skipped: {', '.join(skipped)}"
    assert told in capsys.readouterr().out
    own = Candidate(choose("acme", []), tmp_path, [Sample("p", "r", row={"answer": "x"})])
    assert verdict("finite", own).outcome == "failed", "the author's own rows are to suit"


@pytest.mark.parametrize(
    "words",
    [
        ["math_answer"],
        ["support_gold"],
        ["rules", 'reward.wanted=[please,"it\'s"]', "reward.patterns={digits: '\\d+\"'}"],
        [
            "mix",
            "+reward@reward.members.polite=rules",
            "reward.members.polite.patterns={digits: '\\d+\"'}",
            "+reward@reward.members.right=math_answer",
            "reward.weights.polite=0.5",
            "reward.clip.right=[0,0.5]",
            "reward.normalise.right=preferences",
        ],
    ],
    ids=lambda words: words[0],
)
def test_built_in_rewards_keep_the_contract(words: list[str], tmp_path: Path) -> None:
    candidate = Candidate(choose(words[0], words[1:]), tmp_path)
    assert {name: found for name in CHECKS if (found := verdict(name, candidate)).outcome != "ok"} == {}


def test_a_mix_trains_its_members(install_reward: InstallReward, found) -> None:
    install_reward(TRAINED.replace("LOADED", 'set((folder / "words").read_text().split("\\n"))'))
    told = found("save and load", "mix", "+reward@reward.members.known=acme")
    assert (told.outcome, told.why) == ("ok", "trained, saved and loaded")


def test_a_mix_that_cannot_be_trained_here_says_what_its_members_need(install_reward: InstallReward, found) -> None:
    install_reward(TRAINED.replace('@reward("acme")', '@reward("acme", uses=["tracker"])'))
    told = found("finite", "mix", "+reward@reward.members.known=acme")
    assert told.outcome == "skipped"
    assert told.why.startswith("training it needs tracker; train it in a run")


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (
            "def __post_init__(self): object.__setattr__(self, 'word', self.word + '!')",
            "stored in an artifact, options of reward/acme come back as something else: word",
        ),
        ("data: bytes = b'please'", "stored in an artifact, options of reward/acme are no plain data: .*bytes"),
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
    if "stored" in why:  # a member of a mix is no better
        verdict = found("options", "mix", "+reward@reward.members.it=acme")
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


def test_a_folder_is_saved_into_once(install_reward: InstallReward, tmp_path: Path) -> None:
    source = TRAINED.replace("LOADED", 'set((folder / "words").read_text().split("\\n"))')
    install_reward(source.replace("def save(self, folder):", "def save(self, folder):\n        (folder / 'a').mkdir()"))
    candidate = Candidate(choose("acme", []), tmp_path)
    assert {verdict(name, candidate).outcome for name in CHECKS} == {"ok"}


def test_a_trained_reward_that_forgets(install_reward: InstallReward, found) -> None:
    install_reward(TRAINED.replace("LOADED", "{'one'}"))
    assert "after save and load" in found("save and load").why


def test_a_reward_that_cannot_be_trained_says_so_once(install_reward: InstallReward, tmp_path: Path) -> None:
    install_reward(TRAINED.replace("LOADED", "{'one'}").replace("rows = Dataset", "raise OSError('no disk')  #"))
    candidate = Candidate(choose("acme", []), tmp_path)
    outcomes = {name: found for name in CHECKS if (found := verdict(name, candidate)).outcome != "ok"}
    assert outcomes.pop("one score each") == Verdict("one score each", "failed", "OSError: no disk")
    assert {(found.outcome, found.why) for found in outcomes.values()} == {("skipped", "no scores")}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            "import time\n" + function("time.sleep(600)"),
            r"24 samples: no answer within 0.2 s; it was at .*acme_reward.py:\d+ \(score\); scoring.deadline=<s",
        ),
        (
            function("return [0.0] * (len(samples) + 1)"),
            r"the response .*: its total has 2 scores for 1 samples; .* order",
        ),
        (function("raise OSError('down')"), "the response .*: OSError: down; try it on"),
    ],
    ids=["hang", "count", "down"],
)
def test_a_cause_is_told_once(source: str, why: str, install_reward: InstallReward, tmp_path: Path) -> None:
    install_reward(source)
    candidate = Candidate(choose("acme", ["scoring.deadline=0.2"]), tmp_path)
    began = time.monotonic()
    found = [verdict(name, candidate) for name in CHECKS if name != "light import"]
    assert time.monotonic() - began < 2, "it is not asked again"
    assert [one.check for one in found if one.outcome == "failed"] == ["one score each"]
    assert re.fullmatch(f"(no built-in sample gets a score: )?{why}.*", found[1].why), found[1].why
    assert {one.why for one in found if one.outcome == "skipped"} == {"no scores"}


def test_a_batch_may_take_half_a_minute_here_if_nothing_is_said(install_reward: InstallReward, tmp_path: Path) -> None:
    install_reward(function("return [0.0 for _ in samples]"))
    patient = Candidate(choose("acme", ["scoring.deadline=500", "scoring.retries=3"]), tmp_path).scoring
    assert (patient.deadline, patient.retries) == (500, 0)
    assert Candidate(choose("acme", ["scoring.retries=3"]), tmp_path).scoring.deadline == 30


def test_one_that_hangs_when_asked_alone_is_asked_so_once(install_reward: InstallReward, tmp_path: Path) -> None:
    body = "time.sleep(600 if len(samples) == 1 else 0); return [0.0 for _ in samples]"
    install_reward("import time\n" + function(body))
    candidate = Candidate(choose("acme", ["scoring.deadline=0.2"]), tmp_path)
    assert candidate.first().kept
    assert re.match(
        "asked about the response .* alone, it gave no answer within 0.2 s", verdict("batch", candidate).why
    )
    told = verdict("seed", candidate)
    assert (told.outcome, told.why) == ("skipped", "not asked any more, since it gave no answer in time")


def test_one_that_hangs_on_odd_samples(install_reward: InstallReward, found) -> None:
    body = "time.sleep(0 if all(sample.response for sample in samples) else 600); return [0.0 for _ in samples]"
    install_reward("import time\n" + function(body))
    told = found("failures", "acme", "scoring.deadline=0.2")
    assert told.outcome == "failed"
    assert told.why.startswith("asked about odd samples (empty, very long, control characters), it gave no answer")


def test_samples_without_a_score_are_told_in_words(install_reward: InstallReward, found) -> None:
    install_reward(
        function(
            "return Scores([0.0] * len(samples), failures={"
            "p: Failure('refused', 'even') for p in range(len(samples)) if p % 2 == 0 and len(samples) > 1})"
        )
    )
    told = "12 of 24 samples have a score, no parts; the other 12 have none: 12 refused"
    assert found("one score each").why == told
    assert re.search(
        r"has no score \(refused\), and scores 0 in another order|scores 0, and has no", found("order").why
    )


def test_samples_that_a_reward_does_not_apply_to(install_reward: InstallReward, tmp_path: Path) -> None:
    install_reward(function("return [1.0 if 'Paris' in sample.response else None for sample in samples]"))
    candidate = Candidate(choose("acme", []), tmp_path)
    outcomes = {name: verdict(name, candidate) for name in CHECKS}
    assert {one.outcome for one in outcomes.values()} == {"ok"}
    assert outcomes["one score each"].why.endswith("the other 22 have none: 22 not applicable")


def test_a_reward_that_applies_to_none_of_the_built_in_samples(install_reward: InstallReward, found) -> None:
    install_reward(function("return [None for sample in samples]"))
    told = found("one score each")
    assert told.outcome == "skipped"
    assert told.why.startswith("it applies to no built-in sample")


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
    assert said.endswith("reward/example_reward keeps the contract\n\n")
    install_reward(function("return [float('nan') if 'Paris' in s.response else 1.0 for s in samples]"))
    assert main(["plugins", "check", "reward/acme"]) == 1
    assert "reward/acme does not keep the contract: finite" in capsys.readouterr().out


def test_verdicts_come_as_they_are_found_and_training_is_told(
    install_reward: InstallReward, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_reward(TRAINED.replace("LOADED", 'set((folder / "words").read_text().split("\\n"))'))
    seen: list[str] = []

    def checked(candidate: Candidate) -> str:
        seen.append(capsys.readouterr().out)
        return "fine"

    monkeypatch.setattr("alignpipe.authoring.checks.CHECKS", {**CHECKS, "speed": checked})
    assert main(["plugins", "check", "reward/acme"]) == 0
    (so_far,) = seen
    lines = so_far.splitlines()
    assert lines[2].split() == ["check", "verdict", "why"]
    assert [line[:14].strip() for line in lines[3:]] == [
        "light import",
        "options",
        "training it on",
        *list(CHECKS)[2:-1],
    ]
    assert lines[5] == "training it on 12 pairs ..."


def test_of_several_rewards_one_that_needs_options_does_not_keep_the_others_from_being_checked(
    install_fake_plugin: InstallFakePlugin, capsys: pytest.CaptureFixture[str]
) -> None:
    source = (
        "from dataclasses import dataclass\nfrom alignpipe.rewards import reward\n"
        "@dataclass\nclass Options:\n    word: str = '???'\n"
        '@reward("first", Options)\ndef first(samples, options): return [0.0 for _ in samples]\n'
        '@reward("second")\ndef second(samples): return [0.0 for _ in samples]\n'
    )
    entries = {"first": "acme_two:first", "second": "acme_two:second"}
    install_fake_plugin("acme-two", entries, {"acme_two.py": source})
    registry.cache_clear()
    assert main(["plugins", "check", "acme-two"]) == 1
    said = capsys.readouterr().out
    assert "not checked: reward.word must be given" in said
    assert "reward/second keeps the contract" in said


def test_a_reward_that_cannot_run_here_is_not_tried(
    install_reward: InstallReward, capsys: pytest.CaptureFixture[str]
) -> None:
    refusing = (
        "from alignpipe.errors import RewardError\n@dataclass\nclass Own:\n"
        "    def check_machine(self): raise RewardError('no service')\n"
    )
    install_reward(refusing + function("return [0.0 for _ in samples]", '"acme", Own', "samples, options"))
    assert main(["plugins", "check", "reward/acme"]) == 1
    assert capsys.readouterr().err == "alignpipe: error: reward=acme cannot run on this machine: no service\n"


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ('["answer", "level"]', "reads columns      answer, level"),
        ('{"answer": "84"}', "reads columns      answer (such as '84')"),
        ("()", "reads columns      -"),
    ],
)
def test_show_tells_the_columns_that_it_reads(
    columns: str, told: str, install_reward: InstallReward, capsys: pytest.CaptureFixture[str]
) -> None:
    install_reward(function("return [0.0 for _ in samples]", f'"acme", columns={columns}'))
    assert main(["plugins", "show", "reward/acme"]) == 0
    assert told in capsys.readouterr().out.splitlines()


def test_show_lists_what_a_distribution_brings(
    install_fake_plugin: InstallFakePlugin, install_reward: InstallReward, capsys: pytest.CaptureFixture[str]
) -> None:
    source = function("return [0.0 for _ in samples]", '"second"').replace("'A reward of the tests.'", "'Second.'")
    install_fake_plugin(
        "acme-more",
        {"second": "acme_more:score", "lost": "acme_lost"},
        {"acme_more.py": "from alignpipe.rewards import reward\n" + source, "acme_lost.py": "import not_there"},
        version="1.4",
    )
    registry.cache_clear()
    assert main(["plugins", "show", "acme_more"]) == 0
    lines = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["acme-more 1.4"]
    assert ["reward/second", "Second.", "second"] in lines
    assert ["-", "broken: ModuleNotFoundError: No module named 'not_there'", "lost"] in lines


def test_torch_is_left_alone_by_rewards_that_do_without(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2 + 2?", "completion": "4", "answer": "4"}\n')
    code = (
        "import sys\nfrom alignpipe.cli.main import main\n"
        "assert main(['plugins', 'check', 'reward/math_answer']) == 0\n"
        "assert main(['score', '--reward', 'math_answer', '--data', 'rows.jsonl']) == 0\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


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
