"""Prompt and answers out of one row: messages, transcripts, implicit prompts, and what is malformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from alignpipe.conversations import (
    Exchange,
    RowError,
    Unusable,
    demonstration,
    messages_of,
    preference,
    render,
    split_pair,
)

USER = {"role": "user", "content": "Hi?"}
SYSTEM = {"role": "system", "content": "Be kind."}
YES = {"role": "assistant", "content": "Yes."}
NO = {"role": "assistant", "content": "No."}
TALK = "\n\nHuman: Hi?\n\nAssistant: Hello.\n\nHuman: Well?\n\nAssistant:"


def preference_of(**raw: Any) -> Exchange:
    return preference(raw)


def test_conversational_pairs_with_explicit_and_implicit_prompts() -> None:
    expected = (render([USER]), [USER], {"chosen": "Yes.", "rejected": "No."})
    assert preference_of(prompt=[USER], chosen=[YES], rejected=[NO]) == expected
    assert preference_of(prompt=[USER], chosen="Yes.", rejected="No.") == expected
    assert preference_of(chosen=[USER, YES], rejected=[USER, NO]) == expected
    # As in ultrafeedback_binarized: the question is repeated as text.
    assert preference_of(prompt="Hi?", chosen=[USER, YES], rejected=[USER, NO]) == expected
    assert preference_of(prompt="Hi?", chosen=[YES], rejected=[NO]) == expected


def test_further_keys_of_a_message_are_left_out() -> None:
    assert messages_of([{**USER, "tool_calls": None, "id": 3}], "prompt") == [USER]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("The sky is blue.", "The sky is green.", ("The sky is", " blue.", " green.")),  # TRL's own example
        ("The sky is blue.", "The sky is black.", ("The sky is", " blue.", " black.")),  # TRL would cut behind "bl"
        ("Q: why?\nBecause.", "Q: why?\nNo idea.", ("Q: why?\n", "Because.", "No idea.")),
        ("Say: yes", "Say: yes sir", ("Say: yes", "", " sir")),
        ("空は青い", "空は黒い", ("空は", "青い", "黒い")),
        ("Blue", "Black", ("", "Blue", "Black")),
    ],
)
def test_implicit_prompts_of_plain_text(chosen: str, rejected: str, expected: tuple[str, str, str]) -> None:
    assert split_pair(chosen, rejected) == expected
    assert split_pair(rejected, chosen) == (expected[0], expected[2], expected[1])


@pytest.mark.parametrize(
    "raw",
    [
        {"chosen": TALK + " A", "rejected": TALK.replace("Hello", "Bye") + " B"},
        {"chosen": TALK + " A", "rejected": "\n\nHuman: Hi?"},
        {"chosen": [USER, YES], "rejected": [SYSTEM, USER, NO]},
    ],
)
def test_pairs_of_different_prompts(raw: dict[str, Any]) -> None:
    with pytest.raises(Unusable, match=r"^different_prompts$"):
        preference(raw)


@pytest.mark.parametrize(
    ("read", "raw", "text"),
    [
        (demonstration, {"prompt": "Q", "completion": 3}, "column 'completion' is a int, not text"),
        (demonstration, {"text": "Once upon a time"}, "is no Human/Assistant transcript, so it has no prompt"),
        (demonstration, {"text": TALK + " A\n\nHuman: Bye."}, "the transcript ends with the human's turn; the last"),
        (preference, {"chosen": TALK + " A", "rejected": TALK + " B\n\nHuman: So?"}, "ends with the human's turn"),
        (demonstration, {"messages": [USER]}, "ends with the role 'user'; the last message must be the assistant's"),
        (demonstration, {"messages": []}, "is empty"),
        (demonstration, {"messages": "Hi"}, "column 'messages' is of type str, not a list of messages"),
        (demonstration, {"prompt": [USER], "completion": [YES, USER, YES]}, "it has 3 messages"),
        (demonstration, {"messages": [{"from": "human", "value": "Hi"}]}, "is no object with 'role' and 'content'"),
        (demonstration, {"messages": [{"role": "gpt", "content": "Hi"}]}, "has the role 'gpt'; known are system"),
        (demonstration, {"messages": [{"role": "user", "content": None}]}, "content that is a NoneType, not text"),
        (preference, {"prompt": "Q", "chosen": "A"}, "needs 'chosen' and 'rejected'"),
        (preference, {"chosen": "A", "rejected": [YES]}, "must both be text or both be lists of messages"),
        (preference, {"prompt": "Q", "chosen": 1, "rejected": 2}, "column 'chosen' is of type int"),
        (preference, {"prompt": 3, "chosen": "A", "rejected": "B"}, "column 'prompt' is of type int"),
    ],
)
def test_malformed_rows(read: Callable[[dict[str, Any]], Exchange], raw: dict[str, Any], text: str) -> None:
    with pytest.raises(RowError) as caught:
        read(raw)
    assert text in str(caught.value)
