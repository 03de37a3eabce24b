"""reward=math_answer: which number is the answer, how it is read, and when two are the same."""

from __future__ import annotations

import json
import math
import time
from fractions import Fraction
from pathlib import Path

import pytest

from alignpipe.api import Sample
from alignpipe.dataset import Dataset
from alignpipe.errors import DataError
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.files.config import FilesConfig
from alignpipe_plugins.files.stage import build as build_files
from alignpipe_plugins.math_answer.config import MathAnswerConfig
from alignpipe_plugins.math_answer.numbers import Found, equal, final_number
from alignpipe_plugins.math_answer.reward import MathAnswerReward
from support.context import FakeContext

SOLUTION = "She has 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nShe makes 9 * 2 = $<<9*2=18>>18.\n#### 18"


def scored(response: str, answer=SOLUTION, **options) -> float:
    reward = MathAnswerReward(MathAnswerConfig(**options))
    return reward.score([Sample("prompt", response, row={"answer": answer})]).total[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so it is 18", 18),
        ("18 of 20 were there", 20),
        ("#### 18 of 20", 18),
        ("#### 7\nno: #### 18", 18),
        ("5 eggs\n####\n18\nthanks 3", 18),
        (r"\boxed{18}, which is more than 3", 18),
        (r"\boxed{3} no, \boxed{x = \text{about } 18}", 18),
        (r"\boxed{3} and yet #### 18", 18),
        (r"$\boxed{\frac{3}{4}}$", Fraction(3, 4)),
        (r"\boxed{-\dfrac{1}{2}}", Fraction(-1, 2)),
        (r"\boxed{\frac34}", Fraction(3, 4)),
        (r"2\frac12 cups", Fraction(5, 2)),
        (r"\boxed{1{,}250\,\$}", 1250),
        ("1,234,567.50", Fraction("1234567.5")),
        ("$2,125", 2125),
        ("€ 3.5.", Fraction("3.5")),
        ("-3", -3),
        ("−3", -3),
        ("-$3", -3),
        ("$-3", -3),
        ("x=-3", -3),
        ("10-3", 3),
        ("(a)-3", 3),
        ("16 - 3", 3),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4 of it", Fraction(-3, 4)),
        ("1 1/2 cups", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        (".5", Fraction(1, 2)),
        ("2.50", Fraction(5, 2)),
        ("1.5e-3", Fraction("0.0015")),
        ("42km", 42),
        ("**42**", 42),
        ("see x42", None),
        ("1/0", None),
        ("none at all", None),
        ("12 eggs #### twelve", None),
        (r"12 eggs, so \boxed{twelve}", None),
        (r"so \boxed{12", None),
        ("####", None),
        ("", None),
        ("1" * 61, None),
        ("1e999999999", None),
    ],
)
def test_the_final_number(text: str, value) -> None:
    found = final_number(text)
    assert found == (None if value is None else Found(Fraction(value)))


def test_only_marked_answers_where_that_is_asked() -> None:
    assert final_number("it is 18", marked_only=True) is None
    assert final_number("#### 18", marked_only=True) == Found(Fraction(18))
    assert final_number(r"\boxed{18} or 3", marked_only=True) == Found(Fraction(18))


def test_percent_may_mean_either_where_one_side_alone_has_it() -> None:
    assert final_number("25 %") == Found(Fraction(25), percent=True)
    assert final_number(r"\boxed{25\%}") == Found(Fraction(25), percent=True)
    assert scored("25%", "25") == scored("25%", 0.25) == scored("0.25", "25%") == scored("25", "25%") == 1.0
    assert scored("25%", "25%") == 1.0
    assert scored("0.25%", "25%") == 0.0
    assert scored("2500", "25%") == 0.0


def test_tolerance_is_a_share_of_the_reference() -> None:
    one = Found(Fraction(1))
    assert equal(Found(Fraction("1.009")), one, 0.01)
    assert not equal(Found(Fraction("1.0101")), one, 0.01)
    assert scored("3.33", "10/3") == 0.0
    assert scored("3.33", "10/3", tolerance=0.01) == scored("-3.33", "-10/3", tolerance=0.01) == 1.0
    assert scored("1450001", "1,450,000") == 0.0  # exact by default, however large


@pytest.mark.parametrize("answer", [SOLUTION, "She has 3.\n#### 2,125", "#### -10", "so 5\n#### 0.50"])
def test_gsm8k_references_are_right_and_others_are_not(answer: str) -> None:
    number = answer.rpartition("#### ")[2]
    assert scored(answer, answer) == scored(f"The answer is ${number}.", answer) == 1.0
    assert scored(f"{answer}1", answer) == 0.0
    assert scored(f"#### {number}\n#### 99", answer) == 0.0
    assert scored("I do not know", answer) == 0.0


@pytest.mark.parametrize(("answer", "expected"), [(18, 1.0), (18.0, 1.0), ("18", 1.0), (18.5, 0.0)])
def test_numbers_as_references(answer, expected: float) -> None:
    assert scored("it is 18", answer) == expected


def test_parts_and_failures() -> None:
    answers = [18, None, "many", math.nan, True, ["18"]]
    samples = [Sample("p", "18", row={"answer": answer}) for answer in answers]
    scores = MathAnswerReward(MathAnswerConfig()).score([*samples, Sample("p", "?", row={"answer": 1})])
    assert {index: failure.kind for index, failure in scores.failures.items()} == dict.fromkeys(range(1, 6), "refused")
    assert "no number in the row's column 'answer': 'many'" in scores.failures[2].message
    assert (scores.parts["answered"][0], scores.parts["answered"][6], scores.total[6]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "piece", ["1", "1,", "1 ", r"\boxed{", r"\frac{", "1/", "$", "-", "####", " ", "1e", "{", "1 1/"]
)
def test_what_a_policy_may_babble_is_read_in_no_time(piece: str) -> None:
    began = time.process_time()
    final_number(piece * 5000)
    assert time.process_time() - began < 0.5


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Questions as in GSM8K, read by data=files."""
    path = tmp_path / "questions.jsonl"
    rows = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = FilesConfig(prompts=str(path), columns={"prompt": "question"}, max_prompt_tokens=None)
    ctx = FakeContext(tmp_path / "stage")
    build_files(config, ctx).run({}, ctx)
    return Dataset(ctx.payload)


def test_the_files_of_a_user_keep_their_answers(data: Dataset) -> None:
    rows = data.rows("prompts", "train")
    samples = [Sample(row["prompt"], row["answer"], row=Dataset.extras(row)) for row in rows]
    judge = Judge(MathAnswerReward(MathAnswerConfig()), "math_answer")
    judge.check_columns(rows, "training prompts")
    assert judge.score(samples).total == [1.0] * len(rows)
    with pytest.raises(DataError, match="reads the column 'solution'"):
        Judge(MathAnswerReward(MathAnswerConfig(column="solution")), "math_answer").check_columns(rows, "prompts")


@pytest.mark.parametrize(("options", "message"), [({"column": ""}, "column is empty"), ({"tolerance": 1.0}, "got 1.0")])
def test_options_that_make_no_sense(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MathAnswerConfig(**options)
