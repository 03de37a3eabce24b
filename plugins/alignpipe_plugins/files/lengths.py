"""Which prompts the model cannot take: counted in tokens, as training will encode them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from alignpipe.training.models import ModelSource
from alignpipe.training.tokens import RefusedByTemplate, encode_prompt
from alignpipe_plugins.files.formats import Row

_STOP_EVERY = 500


@dataclass(frozen=True)
class Limit:
    """The most tokens a prompt may have, and which setting says so."""

    tokens: int
    origin: str


def find_limit(wanted: int, context: int | None) -> Limit:
    """`wanted`, or what the model's context leaves when one token is kept for the answer."""
    if context is not None and context - 1 < wanted:
        return Limit(context - 1, f"the model's context of {context} tokens")
    return Limit(wanted, f"data.max_prompt_tokens={wanted}")


def unfit_prompts(
    tables: Mapping[str, Sequence[Row]], source: ModelSource, limit: Limit, check_stop: Callable[[], None]
) -> Iterator[tuple[str, Row, str, str]]:
    """Yield `(key, row, reason, detail)` for every row whose prompt is empty, too long or refused by the chat template.

    The detail is what the template said. Prompts that several rows share are counted once.
    """
    tokenizer = source.tokenizer(list(_texts(row for rows in tables.values() for row in rows)))
    # Finding prompts beyond the model's length is the purpose here, so the tokenizer need not warn of them.
    tokenizer.model_max_length = sys.maxsize
    reasons: dict[str, tuple[str, str] | None] = {}
    for key, rows in tables.items():
        for row in rows:
            # The rendered conversation may lie inside a plain prompt of another row, which is encoded differently.
            identity = f"{len(row.messages)} {row.prompt}"
            if identity not in reasons:
                if len(reasons) % _STOP_EVERY == 0:
                    check_stop()
                try:
                    length = len(encode_prompt(tokenizer, row.prompt, row.messages))
                    reasons[identity] = _reason(length, limit)
                except RefusedByTemplate as error:
                    reasons[identity] = ("refused_by_template", error.why)
            if reason := reasons[identity]:
                yield key, row, *reason


def _reason(length: int, limit: Limit) -> tuple[str, str] | None:
    """What is wrong with a prompt of so many tokens; there may be none where there is text (a template left it out)."""
    if length == 0:
        return "empty_prompt", ""
    return ("prompt_too_long", "") if length > limit.tokens else None


def _texts(rows: Iterable[Row]) -> Iterator[str]:
    """What a tokenizer that is trained is trained on: every prompt once, and all answers."""
    seen: set[str] = set()
    for row in rows:
        if row.prompt not in seen:
            seen.add(row.prompt)
            yield row.prompt
        yield from row.answers.values()
