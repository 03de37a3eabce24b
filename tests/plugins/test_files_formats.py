"""One raw row to one row of a table: every column convention, and what is malformed or unusable."""

from __future__ import annotations

from typing import Any

import pytest

from alignpipe.conversations import RowError, Unusable
from alignpipe_plugins.files.formats import Row, parse

USER = {"role": "user", "content": "Hi?"}
SYSTEM = {"role": "system", "content": "Be kind."}
YES = {"role": "assistant", "content": "Yes."}
NO = {"role": "assistant", "content": "No."}
TALK = "\n\nHuman: Hi?\n\nAssistant: Hello.\n\nHuman: Well?\n\nAssistant:"


def record(table: str, **raw: Any) -> dict[str, Any]:
    return parse(table, "here", raw).record()


def plain(prompt: str, **answers: str) -> dict[str, Any]:
    return {"prompt": prompt, "messages": [], **answers}


def test_plain_columns_get_a_space_between_prompt_and_answer() -> None:
    assert record("demonstrations", prompt="Q:", completion="A") == plain("Q:", completion=" A")
    assert record("demonstrations", prompt="Q: ", completion="A") == plain("Q: ", completion="A")
    assert record("demonstrations", prompt="Q", completion="\nA") == plain("Q", completion="\nA")
    assert record("preferences", prompt="Q", chosen="A", rejected=" B") == plain("Q", chosen=" A", rejected=" B")
    assert record("prompts", prompt="Q") == plain("Q")


def test_conversations_keep_messages_and_are_rendered_as_a_transcript() -> None:
    before = [SYSTEM, USER]
    text = "\n\nSystem: Be kind.\n\nHuman: Hi?\n\nAssistant:"
    expected = {"prompt": text, "messages": before, "completion": "Yes."}
    assert record("demonstrations", messages=[*before, YES]) == expected
    assert record("demonstrations", prompt=before, completion=[YES]) == expected
    assert record("demonstrations", prompt=before, completion="Yes.") == expected
    assert record("prompts", prompt=before) == {"prompt": text, "messages": before}
    assert record("prompts", messages=before) == {"prompt": text, "messages": before}
    assert record("prompts", messages=[*before, YES]) == {"prompt": text, "messages": before, "reference": "Yes."}


def test_transcripts_are_cut_behind_their_last_assistant() -> None:
    assert record("preferences", chosen=TALK + " Good.", rejected=TALK + " Bad.") == plain(
        TALK, chosen=" Good.", rejected=" Bad."
    )
    assert record("prompts", chosen=TALK + " Good.", rejected=TALK + " Bad.") == plain(TALK)
    assert record("demonstrations", text=TALK + " Good.") == plain(TALK, completion=" Good.")
    assert record("prompts", text=TALK + " Good.") == plain(TALK, reference=" Good.")


@pytest.mark.parametrize(
    ("table", "raw", "reason"),
    [
        ("preferences", {"chosen": TALK + " A", "rejected": TALK + " A"}, "same_answers"),
        ("preferences", {"chosen": "Same", "rejected": "Same"}, "same_answers"),
        ("preferences", {"prompt": "Q", "chosen": "A", "rejected": " A "}, "same_answers"),
        ("preferences", {"chosen": [USER, YES], "rejected": [USER, YES]}, "same_answers"),
        ("preferences", {"chosen": TALK + " ", "rejected": TALK + " A"}, "empty_answer"),
        ("preferences", {"prompt": "Q", "chosen": "A", "rejected": ""}, "empty_answer"),
        ("preferences", {"chosen": "Blue", "rejected": "Black"}, "empty_prompt"),
        ("demonstrations", {"prompt": "Q", "completion": " \n"}, "empty_answer"),
        ("demonstrations", {"prompt": "", "completion": "A"}, "empty_prompt"),
        ("demonstrations", {"messages": [YES]}, "empty_prompt"),
        ("prompts", {"prompt": " \n "}, "empty_prompt"),
        ("prompts", {"prompt": []}, "empty_prompt"),
        ("prompts", {"prompt": [{"role": "user", "content": " "}]}, "empty_prompt"),
    ],
)
def test_unusable_rows(table: str, raw: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        parse(table, "here", raw)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("table", "raw", "text"),
    [
        (
            "demonstrations",
            {"question": "Q", "answer": "A"},
            "needs 'prompt' and 'completion', or 'messages'; it has 'question'",
        ),
        (
            "demonstrations",
            {"prompt": "Q", "completion": None},
            "it has 'prompt', 'completion' (completion being null)",
        ),
        ("demonstrations", {"messages": [USER, YES, NO]}, "ends with an assistant's message; nobody asked"),
        ("prompts", {"prompt": 3}, "column 'prompt' is of type int, not a list of messages"),
        ("prompts", {}, "needs 'prompt' or 'messages'; it has no column"),
    ],
)
def test_malformed_rows(table: str, raw: dict[str, Any], text: str) -> None:
    with pytest.raises(RowError) as caught:
        parse(table, "here", raw)
    assert text in str(caught.value)


def test_a_prompt_cut_off_from_its_answer_keeps_it_as_reference() -> None:
    assert parse("prompts", "here", {"prompt": "Q", "completion": "A"}).extras == {"reference": "A"}
    assert parse("prompts", "here", {"messages": [USER, YES]}).extras == {"reference": "Yes."}
    assert isinstance(parse("prompts", "here", {"prompt": "Q"}), Row)
