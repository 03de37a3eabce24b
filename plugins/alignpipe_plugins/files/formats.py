"""One raw row to one row of a table: TRL's column conventions, and transcripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alignpipe.conversations import (
    LacksColumns,
    Message,
    RowError,
    Unusable,
    demonstration,
    has,
    messages_of,
    preference,
    prompt_of,
    render,
)

OURS: Mapping[str, tuple[str, ...]] = {
    "demonstrations": ("prompt", "completion", "messages", "text"),
    "preferences": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt", "messages", "text"),
}
"""The columns that `data.columns` renames; in a prompts file an answer keeps its own name, for the rewards."""


@dataclass
class Row:
    """A row of a table: `answers` holds `completion`, or `chosen` and `rejected`, or nothing."""

    location: str
    prompt: str
    messages: list[Message]
    answers: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The row as the dataset artifact holds it: answers to plain prompts with a space before them (D05)."""
        apart = bool(self.messages) or self.prompt[-1:].isspace()
        answers = {name: text if apart or text[:1].isspace() else " " + text for name, text in self.answers.items()}
        return {"prompt": self.prompt, "messages": self.messages, **answers, **self.extras}


def parse(table: str, location: str, raw: Mapping[str, Any]) -> Row:
    """The row in our columns, `raw` having been renamed already; extras are not looked at.

    Raises `RowError` for a malformed row and `Unusable` for one that cannot be trained on.
    """
    if table == "prompts":
        row = _prompt(location, raw)
    else:
        row = Row(location, *(demonstration if table == "demonstrations" else preference)(raw))
    if row.messages and row.messages[-1]["role"] == "assistant":
        raise RowError("the conversation before the answer ends with an assistant's message; nobody asked")
    if not (row.prompt.strip() if not row.messages else any(each["content"].strip() for each in row.messages)):
        raise Unusable("empty_prompt")
    if any(not answer.strip() for answer in row.answers.values()):
        raise Unusable("empty_answer")
    if table == "preferences" and row.answers["chosen"].strip() == row.answers["rejected"].strip():
        raise Unusable("same_answers")
    return row


def _prompt(location: str, raw: Mapping[str, Any]) -> Row:
    """A prompt, alone or cut off from the answer that follows it; the answer is kept as the extra `reference`."""
    if has(raw, "prompt") and not has(raw, "completion"):
        return Row(location, *prompt_of(raw))
    if has(raw, "messages") and not has(raw, "prompt"):
        messages = messages_of(raw["messages"], "messages")
        if not messages or messages[-1]["role"] != "assistant":
            return Row(location, render(messages), messages)
    elif has(raw, "chosen", "rejected") and not has(raw, "prompt"):
        return as_prompt(Row(location, *preference(raw)))
    elif not has(raw, "prompt") and not has(raw, "text"):
        raise LacksColumns("'prompt' or 'messages'", raw)
    return as_prompt(Row(location, *demonstration(raw)))


def as_prompt(row: Row, reference: str = "reference") -> Row:
    """The prompt of a row with its extras; a demonstrated answer becomes the extra named `reference`."""
    answer = {reference: row.answers["completion"]} if "completion" in row.answers else {}
    return Row(row.location, row.prompt, row.messages, extras={**answer, **row.extras})


def as_demonstration(row: Row) -> Row:
    """The preferred answer of a pair as the one to imitate."""
    return Row(row.location, row.prompt, row.messages, {"completion": row.answers["chosen"]}, row.extras)
