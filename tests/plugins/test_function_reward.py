"""reward=function: a file becomes a reward, keyed by what it holds, and kept in the artifact."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from alignpipe.api import Sample, Scoring, Selected
from alignpipe.errors import AlignpipeError, ConfigError, RewardError
from alignpipe.rewarding.artifact import open_stored, save_reward
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.function_reward.config import FunctionConfig
from alignpipe_plugins.function_reward.reward import build
from support.context import FakeContext

SAMPLES = [Sample("p", "thanks", row={"answer": "thanks"}), Sample("p", "no", row={"answer": "yes"})]
SOURCE = """
    from dataclasses import dataclass
    from alignpipe.rewards import reward

    WEIGHT = 2.0

    def score(samples, word="thanks"):
        return [WEIGHT * (word in sample.response) for sample in samples]

    def exact(completions, answer, **kwargs):
        return [float(text == truth) for text, truth in zip(completions, answer)]

    @dataclass(frozen=True)
    class Options:
        word: str = "no"

    @reward("decorated", Options)
    def decorated(samples, options):
        return [float(options.word in sample.response) for sample in samples]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my rewards.py"
    path.write_text(dedent(SOURCE))
    return path


def scored(path: str | Path, **options: object) -> list[float]:
    reward = build(FunctionConfig(str(path), options), None)  # type: ignore[arg-type]
    return Judge(reward, "reward function", Scoring(retries=0)).score(SAMPLES).total


def test_functions_of_a_file(file: Path) -> None:
    assert scored(file) == [2.0, 0.0], "the function called score is meant"
    assert scored(f"{file}:score", word="no") == [0.0, 2.0]
    assert scored(f"{file}:exact") == [1.0, 0.0]
    assert scored(f"{file}:decorated") == [0.0, 1.0]
    assert scored(f"{file}:decorated", word="thanks") == [1.0, 0.0]
    assert build(FunctionConfig(f"{file}:exact"), None).columns == ("answer",)  # type: ignore[arg-type]
    assert not (file.parent / "__pycache__").exists()


def test_the_only_function_needs_no_name(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text("def _half(x):\n    return x / 2\ndef length(samples):\n    return [_half(2.0) for _ in samples]\n")
    assert scored(file) == [1.0, 1.0]
    assert FunctionConfig(str(file)).revision()["function"] == "length"


def test_a_neighbour_can_be_imported(file: Path) -> None:
    (file.parent / "neighbour_of_test.py").write_text("FIVE = 5.0\n")
    (file.parent / "b.py").write_text(
        "from neighbour_of_test import FIVE\ndef score(samples):\n    return [FIVE for _ in samples]\n"
    )
    assert scored(file.parent / "b.py") == [5.0, 5.0]


def test_the_key_is_the_function_and_the_content(file: Path, tmp_path: Path) -> None:
    first = FunctionConfig(f"{file}:score").revision()
    moved = tmp_path / "elsewhere.py"
    moved.write_bytes(file.read_bytes())
    assert FunctionConfig(str(moved)).revision() == first
    assert FunctionConfig(f"{file}:exact").revision() != first
    file.write_text(file.read_text().replace("2.0", "3.0"))
    assert FunctionConfig(f"{file}:score").revision() != first


def test_the_artifact_keeps_the_file_and_another_file_gives_other_bytes(file: Path, tmp_path: Path) -> None:
    contents = []
    for weight in ("2.0", "3.0"):
        file.write_text(dedent(SOURCE).replace("2.0", weight))
        config = FunctionConfig(f"{file}:score")
        folder = tmp_path / weight
        folder.mkdir()
        save_reward(folder, build(config, None), Selected("reward", "function", config), 1, "alignpipe 1")  # type: ignore[arg-type]
        contents.append((folder / "reward.json").read_bytes())
    assert contents[0] != contents[1], "what comes after must not count as a hit"
    file.unlink()
    context = FakeContext(
        tmp_path, builders={"reward/function": lambda config: build(FunctionConfig(config["path"]), None)}
    )  # type: ignore[arg-type]
    assert open_stored(tmp_path / "2.0", context, Scoring()).reward.score(SAMPLES) == [2.0, 0.0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.py:score", "nowhere.py: there is no such file; write file.py:function"),
        ("~nobody-here/my.py:score", "~nobody-here/my.py: there is no such file; write file.py:function"),
        (".:score", "is a folder"),
        ("{file}:scoer", r"no function 'scoer' \(did you mean 'score'\?\); its functions: score, exact, decorated"),
        ("{file}:truth", "no function 'truth'"),
    ],
)
def test_paths_that_lead_nowhere(path: str, message: str, file: Path) -> None:
    path = path.replace("{file}", str(file))
    with pytest.raises(ConfigError, match=rf"reward\.path=.*{message}"):
        FunctionConfig(path).revision()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def score(:\n", "this is no Python, line 1"),
        ("score = 3\n", "name the function, as in .*:score; the file's functions: none"),
        ("def a(samples): ...\ndef b(samples): ...\n", "the file's functions: a, b"),
        (
            "import not_there_at_all\ndef score(samples): ...\n",
            "running the file failed in line 1: ModuleNotFoundError",
        ),
        ("def score(): ...\n", r"the function cannot be used: it takes \(\), and must take \(samples\)"),
        ("def score(samples, word): ...\n", "the function cannot be used: .*set options.word"),
        ("def score(samples): ...\ndel score\n", "after running the file there is no 'score' in it"),
    ],
)
def test_files_that_cannot_be_used(source: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "f.py"
    file.write_text(source)
    with pytest.raises(AlignpipeError, match=rf"reward\.path={file}.*{message}"):
        scored(file)


def test_other_mistakes(file: Path) -> None:
    with pytest.raises(ValueError, match="path is empty"):
        FunctionConfig(" ")
    with pytest.raises(RewardError, match="that is a float, no function"):
        scored(f"{file}:WEIGHT")
    with pytest.raises(RewardError, match=r"reward\.options cannot be used: .*'wrod'"):
        scored(f"{file}:decorated", wrod="x")
    with pytest.raises(RewardError, match=r"options\.wrod: it takes no such argument"):
        scored(f"{file}:score", wrod="x")
