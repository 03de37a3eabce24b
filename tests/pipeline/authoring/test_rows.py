"""A file of answers or pairs as samples: TRL's conversational form, and what is said of the first broken row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignpipe.authoring.rows import Data, read
from alignpipe.errors import DataError

ROWS = [
    {"prompt": "Hi", "completion": "Hällo", "answer": "x"},
    {"prompt": "Bye", "completion": "So, long", "answer": "y"},
]
ASKED = [{"role": "user", "content": "Hi"}]
SAID = [{"role": "assistant", "content": "Hello"}]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def answers(path: Path) -> Data:
    found = read(path)
    assert not found.pairs
    return found


@pytest.fixture
def written(tmp_path: Path):
    def write(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write


def test_answers_with_their_own_columns(written) -> None:
    found = answers(written("rows.csv", 'prompt,completion,answer\nHi,Hällo,x\nBye,"So, long",y\n'))
    assert [(sample.prompt, sample.response) for sample in found.samples] == [("Hi", "Hällo"), ("Bye", "So, long")]
    assert [sample.row for sample in found.samples] == [{"answer": "x"}, {"answer": "y"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "completion": SAID},
        {"prompt": ASKED, "response": "Hello"},
        {"messages": [*ASKED, *SAID]},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "messages": ASKED, "completion": "Hello"},
    ],
)
def test_conversations(row: dict[str, Any], written) -> None:
    (sample,) = answers(written("a.jsonl", lines([row]))).samples
    assert (sample.prompt, sample.response, list(sample.messages)) == ("\n\nHuman: Hi\n\nAssistant:", "Hello", ASKED)
    assert sample.row == {}


def test_an_answer_that_was_cut(written) -> None:
    rows = [{"prompt": "p", "completion": "c", "ended": False}, {"prompt": "p", "completion": "c"}]
    assert [sample.ended for sample in answers(written("a.jsonl", lines(rows))).samples] == [False, True]
    table = "prompt,completion,ended\np,c,False\np,c,true\np,c,\n"
    assert [sample.ended for sample in answers(written("a.csv", table)).samples] == [False, True, True]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "No", "source": "a"}, "Hi"),
        ({"prompt": ASKED, "chosen": "Hello", "rejected": "No", "source": "a"}, "\n\nHuman: Hi\n\nAssistant:"),
        (
            {"chosen": [*ASKED, *SAID], "rejected": [*ASKED, {"role": "assistant", "content": "No"}], "source": "a"},
            "\n\nHuman: Hi\n\nAssistant:",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant:Hello", "rejected": "\n\nHuman: a\n\nAssistant:No", "source": "a"},
            "\n\nHuman: a\n\nAssistant:",
        ),
    ],
)
def test_pairs(row: dict[str, Any], prompt: str, written) -> None:
    found = read(written("p.jsonl", lines([row])))
    chosen, rejected = found.samples
    assert [(row["side"], row["completion"]) for row in found.raw] == [("chosen", "Hello"), ("rejected", "No")]
    assert (found.pairs[0]["chosen"], found.pairs[0]["rejected"]) == ("Hello", "No")
    assert (chosen.prompt, chosen.response, rejected.response) == (prompt, "Hello", "No")
    assert chosen.row == rejected.row == {"source": "a"}


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: y"),
        ([*ASKED, *SAID], [{"role": "user", "content": "Bye"}, *SAID]),
    ],
)
def test_pairs_of_different_prompts_are_left_out(chosen: Any, rejected: Any, written) -> None:
    rows = [{"chosen": chosen, "rejected": chosen}, {"chosen": chosen, "rejected": rejected}]
    found = read(written("p.jsonl", lines(rows)))
    assert (len(found.samples), len(found.raw), len(found.pairs), found.left_out) == (2, 2, 1, 1)
    with pytest.raises(DataError, match="has no pair whose two answers are to the same prompt"):
        read(written("q.jsonl", lines(rows[1:])))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", r"a\.jsonl has no rows; a row needs 'prompt'"),
        ("a.jsonl", '{"prompt": 1\n', r"a\.jsonl:1 is no JSON"),
        ("a.jsonl", '{"question": "x"}\n', r"a\.jsonl:1: has the columns question; a row needs"),
        ("a.jsonl", '{"prompt": 3, "completion": "x"}\n', r"a\.jsonl:1: column 'prompt' is of type int, not a list"),
        (
            "a.jsonl",
            lines([{"prompt": "x", "chosen": "a", "rejected": "b"}, ROWS[0]]),
            "a.jsonl:2: .*first row is a pref",
        ),
        ("a.jsonl", lines([{"chosen": "a", "rejected": "b"}]), "has no 'prompt'"),
        ("a.jsonl", lines([{"chosen": "a", "rejected": "a"}]), "has no 'prompt'"),
    ],
)
def test_what_cannot_be_read(name: str, content: str, message: str, written) -> None:
    with pytest.raises(DataError, match=message):
        read(written(name, content))
