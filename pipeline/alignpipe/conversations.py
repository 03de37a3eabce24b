"""Where the prompt ends and the answer begins: TRL's columns and messages, hh-rlhf transcripts, implicit prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
ROLES = ("system", "developer", "user", "assistant", "tool")
_SPEAKERS = {"user": "Human"}
_FIRST_UNSPACED = "\u2e80"
"""From here on (CJK) scripts put no spaces between words."""

Message = dict[str, str]


class RowError(ValueError):
    """A row that lacks what its table needs: malformed."""


class LacksColumns(RowError):
    """A row without the columns of its table, `wanted` in words."""

    def __init__(self, wanted: str, raw: Mapping[str, Any]) -> None:
        empty = [name for name, value in raw.items() if value is None]
        nulls = f" ({', '.join(empty)} being null)" if empty else ""
        super().__init__(f"needs {wanted}; it has {', '.join(map(repr, raw)) or 'no column'}{nulls}")
        self.wanted = wanted


class Unusable(Exception):
    """A row that is well-formed, but cannot be trained on; the argument is the reason as it is counted."""


class Exchange(NamedTuple):
    """A prompt, as text and (of a conversation) as messages too, and its answers by the names of their columns."""

    prompt: str
    messages: list[Message]
    answers: dict[str, str]


def demonstration(raw: Mapping[str, Any]) -> Exchange:
    """The row's prompt and its `completion`.

    Raises `RowError` if it has none.
    """
    if has(raw, "prompt", "completion"):
        answer = _string if isinstance(raw["prompt"], str) else _answer
        return Exchange(*prompt_of(raw), {"completion": answer(raw, "completion")})
    if has(raw, "messages"):
        before, last = last_answer(messages_of(raw["messages"], "messages"), "messages")
        return Exchange(render(before), before, {"completion": last})
    if has(raw, "text"):
        prompt, rest = split_transcript(_transcript(raw))
        return Exchange(prompt, [], {"completion": rest})
    raise LacksColumns("'prompt' and 'completion', or 'messages'", raw)


def preference(raw: Mapping[str, Any]) -> Exchange:
    """The row's prompt, given or implicit, and its answers `chosen` and `rejected`.

    Raises `RowError` if it is no pair, `Unusable` as `split_pair` does.
    """
    if not has(raw, "chosen", "rejected"):
        raise LacksColumns("'chosen' and 'rejected', with or without 'prompt'", raw)
    chosen, rejected = raw["chosen"], raw["rejected"]
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError("'chosen' and 'rejected' must both be text or both be lists of messages")
    if isinstance(chosen, str):
        if has(raw, "prompt"):
            prompt, messages = prompt_of(raw)
        else:
            messages = []
            prompt, chosen, rejected = split_pair(chosen, rejected)
    elif has(raw, "prompt") and not isinstance(raw["prompt"], str):
        prompt, messages = prompt_of(raw)
        chosen, rejected = _answer(raw, "chosen"), _answer(raw, "rejected")
    else:
        messages, chosen = last_answer(messages_of(chosen, "chosen"), "chosen")
        other, rejected = last_answer(messages_of(rejected, "rejected"), "rejected")
        if messages != other:
            raise Unusable("different_prompts")
        # Some data sets repeat the question as text in `prompt`; it counts only where the conversations leave it out.
        if not messages and has(raw, "prompt"):
            messages = [{"role": "user", "content": raw["prompt"]}]
        prompt = render(messages)
    return Exchange(prompt, messages, {"chosen": chosen, "rejected": rejected})


def prompt_of(raw: Mapping[str, Any]) -> tuple[str, list[Message]]:
    """The column `prompt`, which is text or messages, as text and as messages (none if it is text).

    Raises `RowError` if it is neither.
    """
    if isinstance(raw["prompt"], str):
        return raw["prompt"], []
    messages = messages_of(raw["prompt"], "prompt")
    return render(messages), messages


def has(raw: Mapping[str, Any], *columns: str) -> bool:
    """Whether the row has a value in all these columns."""
    return all(raw.get(column) is not None for column in columns)


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
    r"""The conversation as an hh-rlhf transcript that ends where the assistant is to speak; of none, no text.

    >>> render([{"role": "user", "content": "Hi."}])
    '\n\nHuman: Hi.\n\nAssistant:'
    """
    if not messages:
        return ""
    turns = (f"\n\n{_SPEAKERS.get(each['role'], each['role'].capitalize())}: {each['content']}" for each in messages)
    return "".join(turns) + ASSISTANT


def is_transcript(text: str) -> bool:
    """Whether the text is an hh-rlhf transcript: it starts with the human and the assistant speaks."""
    return (text.startswith(HUMAN) or text.startswith(HUMAN.lstrip())) and ASSISTANT in text


def split_transcript(text: str) -> tuple[str, str]:
    """Split a transcript behind its last `Assistant:` into prompt and answer.

    Raises `RowError` if the human speaks behind that: the answer would hold a turn that is not the assistant's.
    """
    end = text.rindex(ASSISTANT) + len(ASSISTANT)
    if HUMAN in text[end:]:
        raise RowError("the transcript ends with the human's turn; the last must be the assistant's")
    return text[:end], text[end:]


def split_pair(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The prompt that two texts share, and their two answers.

    Transcripts share everything up to and including their last `Assistant:`. Other texts share their common beginning,
    as in TRL but for one thing: the prompt ends between words, never inside one ("bl" of "blue" and "black"). The
    space before the first differing word belongs to the answers.

    Raises `Unusable` if two transcripts differ before the last answer, `RowError` as `split_transcript` does.
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


def _transcript(raw: Mapping[str, Any]) -> str:
    """A `text` that has a prompt: plain text to continue has none, and a policy is always asked something."""
    text = _string(raw, "text")
    if not is_transcript(text):
        raise RowError(
            "column 'text' is no Human/Assistant transcript, so it has no prompt; give 'prompt' and 'completion'"
        )
    return text
