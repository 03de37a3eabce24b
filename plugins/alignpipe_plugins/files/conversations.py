"""Where the prompt ends and the answer begins: messages, hh-rlhf transcripts, pairs with an implicit prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
ROLES = ("system", "developer", "user", "assistant", "tool")
_SPEAKERS = {"user": "Human"}
_FIRST_UNSPACED = "\u2e80"
"""From here on (CJK) scripts put no spaces between words."""

Message = dict[str, str]


class RowError(ValueError):
    """A row that lacks what its table needs: malformed."""


class Unusable(Exception):
    """A row that is well-formed, but cannot be trained on; the argument is the reason as it is counted."""


def messages_of(value: Any, column: str) -> list[Message]:
    """The conversation in `value` as role and content only.

    Raises `RowError` if it is no list of messages with known roles and text.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError(f"column {column!r} is of type {type(value).__name__}, not a list of messages")
    messages = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise RowError(f"message {number} of column {column!r} is no object with 'role' and 'content'")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise RowError(f"message {number} of column {column!r} has the role {role!r}; known are {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise RowError(
                f"message {number} of column {column!r} has content that is a {type(content).__name__}, not text"
            )
        messages.append({"role": role, "content": content})
    return messages


def last_answer(messages: Sequence[Message], column: str) -> tuple[list[Message], str]:
    """Split a conversation into what comes before the last answer, and that answer.

    Raises `RowError` if it does not end with an assistant's message.
    """
    if not messages or messages[-1]["role"] != "assistant":
        ends = f"ends with the role {messages[-1]['role']!r}" if messages else "is empty"
        raise RowError(f"the conversation in column {column!r} {ends}; the last message must be the assistant's")
    return list(messages[:-1]), messages[-1]["content"]


def render(messages: Sequence[Message]) -> str:
    r"""The conversation as an hh-rlhf transcript that ends where the assistant is to speak.

    >>> render([{"role": "user", "content": "Hi."}])
    '\n\nHuman: Hi.\n\nAssistant:'
    """
    turns = (f"\n\n{_SPEAKERS.get(each['role'], each['role'].capitalize())}: {each['content']}" for each in messages)
    return "".join(turns) + ASSISTANT


def is_transcript(text: str) -> bool:
    """Whether the text is an hh-rlhf transcript: it starts with the human and the assistant speaks."""
    return (text.startswith(HUMAN) or text.startswith(HUMAN.lstrip())) and ASSISTANT in text


def split_transcript(text: str) -> tuple[str, str]:
    """Split a transcript behind its last `Assistant:` into prompt and answer."""
    end = text.rindex(ASSISTANT) + len(ASSISTANT)
    return text[:end], text[end:]


def split_pair(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The prompt that two texts share, and their two answers.

    Transcripts share everything up to and including their last `Assistant:`. Other texts share their common beginning,
    as in TRL but for one thing: the prompt ends between words, never inside one ("bl" of "blue" and "black"). The
    space before the first differing word belongs to the answers.

    Raises `Unusable` if two transcripts differ before the last answer.
    """
    if is_transcript(chosen) or is_transcript(rejected):
        if not (is_transcript(chosen) and is_transcript(rejected)):
            raise Unusable("different_prompts")
        prompt, answer = split_transcript(chosen)
        other, refused = split_transcript(rejected)
        if prompt != other:
            raise Unusable("different_prompts")
        return prompt, answer, refused
    if chosen == rejected:
        raise Unusable("same_answers")
    end = _common(chosen, rejected)
    while end and (_inside_word(chosen, end) or _inside_word(rejected, end)):
        end -= 1
    if end and chosen[end - 1] == " ":
        end -= 1
    return chosen[:end], chosen[end:], rejected[end:]


def _common(first: str, second: str) -> int:
    """How many characters the two texts have in common from the start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


def _inside_word(text: str, cut: int) -> bool:
    """Whether cutting before `text[cut]` would tear a word of a script that puts spaces between words."""
    around = text[cut - 1 : cut + 1]
    return len(around) == 2 and around.isalnum() and max(around) < _FIRST_UNSPACED
