"""One raw row to one row of a table: TRL's column conventions, and transcripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alignpipe_plugins.files.conversations import (
    Message,
    RowError,
    Unusable,
    is_transcript,
    last_answer,
    messages_of,
    render,
    split_pair,
    split_transcript,
)

OURS: Mapping[str, tuple[str, ...]] = {
    "demonstrations": ("prompt", "completion", "messages", "text"),
    "preferences": ("prompt", "chosen", "rejected"),
    "prompts": ("prompt", "messages", "text"),
}
"""The columns that `data.columns` renames; in a prompts file an answer keeps its own name, for the rewards."""

NOT_EXTRAS = frozenset({"prompt", "messages", "completion", "chosen", "rejected"})
"""Names that mean the same in every table, so that none of them can be an extra column."""


@dataclass
class Row:
    """A row of a table: `answers` holds `completion`, or `chosen` and `rejected`, or nothing."""

    place: str
    prompt: str
    messages: list[Message]
    answers: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The row as the dataset artifact holds it: answers to plain prompts with a space before them (D05)."""
        apart = bool(self.messages) or self.prompt[-1:].isspace()
        answers = {name: text if apart or text[:1].isspace() else " " + text for name, text in self.answers.items()}
        return {"prompt": self.prompt, "messages": self.messages, **answers, **self.extras}


def parse(table: str, place: str, raw: Mapping[str, Any]) -> Row:
    """The row in our columns, `raw` having been renamed already; extras are not looked at.

    Raises `RowError` for a malformed row and `Unusable` for one that cannot be trained on.
    """
    row = {"demonstrations": _demonstration, "preferences": _preference, "prompts": _prompt}[table](place, raw)
    if not (row.prompt.strip() if not row.messages else any(each["content"].strip() for each in row.messages)):
        raise Unusable("empty_prompt")
    if any(not answer.strip() for answer in row.answers.values()):
        raise Unusable("empty_answer")
    if table == "preferences" and row.answers["chosen"].strip() == row.answers["rejected"].strip():
        raise Unusable("same_answers")
    return row


def _plain(place: str, prompt: str, **answers: str) -> Row:
    return Row(place, prompt, [], answers)


def _chat(place: str, messages: list[Message], **answers: str) -> Row:
    if messages and messages[-1]["role"] == "assistant":
        raise RowError("the conversation before the answer ends with an assistant's message; nobody asked")
    return Row(place, render(messages) if messages else "", messages, answers)


def _has(raw: Mapping[str, Any], *columns: str) -> bool:
    return all(raw.get(column) is not None for column in columns)


def _lacks(raw: Mapping[str, Any], wanted: str) -> RowError:
    empty = [name for name in (*sorted(NOT_EXTRAS), "text") if name in raw and raw[name] is None]
    nulls = f" ({', '.join(empty)} being null)" if empty else ""
    return RowError(
        f"needs {wanted}; it has {', '.join(map(repr, raw)) or 'no column'}{nulls} (rename with data.columns)"
    )


def _string(raw: Mapping[str, Any], column: str) -> str:
    value = raw[column]
    if not isinstance(value, str):
        raise RowError(f"column {column!r} is a {type(value).__name__}, not text")
    return value


def _answer(raw: Mapping[str, Any], column: str) -> str:
    """An answer that is text, or a list holding one assistant's message."""
    if isinstance(raw[column], str):
        return str(raw[column])
    before, answer = last_answer(messages_of(raw[column], column), column)
    if before:
        raise RowError(
            f"column {column!r} must be one assistant's message beside a prompt; it has {len(before) + 1} messages"
        )
    return answer


def _demonstration(place: str, raw: Mapping[str, Any]) -> Row:
    if _has(raw, "prompt", "completion"):
        if isinstance(raw["prompt"], str):
            return _plain(place, raw["prompt"], completion=_string(raw, "completion"))
        return _chat(place, messages_of(raw["prompt"], "prompt"), completion=_answer(raw, "completion"))
    if _has(raw, "messages"):
        before, answer = last_answer(messages_of(raw["messages"], "messages"), "messages")
        return _chat(place, before, completion=answer)
    if _has(raw, "text"):
        prompt, answer = split_transcript(_transcript(raw))
        return _plain(place, prompt, completion=answer)
    raise _lacks(raw, "'prompt' and 'completion', or 'messages'")


def _preference(place: str, raw: Mapping[str, Any]) -> Row:
    if not _has(raw, "chosen", "rejected"):
        raise _lacks(raw, "'chosen' and 'rejected', with or without 'prompt'")
    kinds = {isinstance(raw[column], str) for column in ("chosen", "rejected")}
    if len(kinds) == 2:
        raise RowError("'chosen' and 'rejected' must both be text or both be lists of messages")
    if kinds == {True}:
        if not _has(raw, "prompt"):
            prompt, chosen, rejected = split_pair(raw["chosen"], raw["rejected"])
            return _plain(place, prompt, chosen=chosen, rejected=rejected)
        if isinstance(raw["prompt"], str):
            return _plain(place, raw["prompt"], chosen=raw["chosen"], rejected=raw["rejected"])
        messages = messages_of(raw["prompt"], "prompt")
        return _chat(place, messages, chosen=raw["chosen"], rejected=raw["rejected"])
    return _conversations(place, raw)


def _conversations(place: str, raw: Mapping[str, Any]) -> Row:
    """A pair of message lists: only the answers beside a prompt of messages, else whole conversations."""
    if _has(raw, "prompt") and not isinstance(raw["prompt"], str):
        messages = messages_of(raw["prompt"], "prompt")
        return _chat(place, messages, chosen=_answer(raw, "chosen"), rejected=_answer(raw, "rejected"))
    before, chosen = last_answer(messages_of(raw["chosen"], "chosen"), "chosen")
    other, rejected = last_answer(messages_of(raw["rejected"], "rejected"), "rejected")
    if before != other:
        raise Unusable("different_prompts")
    # Some data sets repeat the question as text in `prompt`; it counts only where the conversations leave it out.
    if not before and _has(raw, "prompt"):
        before = [{"role": "user", "content": raw["prompt"]}]
    return _chat(place, before, chosen=chosen, rejected=rejected)


def _prompt(place: str, raw: Mapping[str, Any]) -> Row:
    """A prompt, alone or cut off from the answer that follows it; the answer is kept as the extra `reference`."""
    if _has(raw, "prompt", "completion"):
        return as_prompt(_demonstration(place, raw))
    if _has(raw, "prompt"):
        return (
            _plain(place, raw["prompt"])
            if isinstance(raw["prompt"], str)
            else _chat(place, messages_of(raw["prompt"], "prompt"))
        )
    if _has(raw, "messages"):
        messages = messages_of(raw["messages"], "messages")
        if messages and messages[-1]["role"] == "assistant":
            return as_prompt(_demonstration(place, raw))
        return _chat(place, messages)
    if _has(raw, "chosen", "rejected"):
        return as_prompt(_preference(place, raw))
    if _has(raw, "text"):
        return as_prompt(_demonstration(place, raw))
    raise _lacks(raw, "'prompt' or 'messages'")


def as_prompt(row: Row, reference: str = "reference") -> Row:
    """The prompt of a row with its extras; a demonstrated answer becomes the extra named `reference`."""
    answer = {reference: row.answers["completion"]} if "completion" in row.answers else {}
    return Row(row.place, row.prompt, row.messages, extras={**answer, **row.extras})


def as_demonstration(row: Row) -> Row:
    """The preferred answer of a pair as the one to imitate."""
    return Row(row.place, row.prompt, row.messages, {"completion": row.answers["chosen"]}, row.extras)


def _transcript(raw: Mapping[str, Any]) -> str:
    """A `text` that has a prompt: plain text to continue has none, and a policy is always asked something."""
    text = _string(raw, "text")
    if not is_transcript(text):
        raise RowError(
            "column 'text' is no Human/Assistant transcript, so it has no prompt; give 'prompt' and 'completion'"
        )
    return text
