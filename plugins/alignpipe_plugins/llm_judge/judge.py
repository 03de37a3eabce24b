"""A conversation with the endpoint: the cache first, then the network, and a count of what it took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from alignpipe.paths import user_path
from alignpipe.rewarding.remote import Secrets, Unanswered, post_json
from alignpipe_plugins.llm_judge.cache import Cache, Reply, request_key
from alignpipe_plugins.llm_judge.config import LlmJudgeConfig
from alignpipe_plugins.llm_judge.questions import Unreadable

if TYPE_CHECKING:
    import httpx

_Read = TypeVar("_Read")


class Conversation:
    """One batch's requests to the judge, on one event loop."""

    def __init__(self, config: LlmJudgeConfig, key: Secrets, client: httpx.AsyncClient) -> None:
        self._config = config
        self._secrets = key
        self._client = client
        self._url = f"{config.base_url.rstrip('/')}/chat/completions"
        self._cache = None if config.cache is None else Cache(user_path(config.cache))
        self._gate = asyncio.Semaphore(config.concurrency)
        self._turns: dict[str, asyncio.Lock] = {}
        self._heard: dict[str, Reply] = {}
        self._counts = {"requests": 0, "cached": 0, "prompt_tokens": 0, "completion_tokens": 0}

    async def ask(self, messages: list[dict[str, str]], read: Callable[[str], _Read]) -> _Read:
        """What `read` finds in the judge's answer; only answers it could read are kept.

        Raises what `read` raises (`Unreadable`), and what `post_json` raises.
        """
        body = self._body(messages)
        key = request_key(self._config.base_url, body)
        async with self._turns.setdefault(key, asyncio.Lock()):  # the same question twice in a batch is asked once
            known = self._known(key)
            if known is not None:
                with suppress(Unreadable):  # kept when it was read in another way: ask again
                    found = read(known.answer)
                    self._counts["cached"] += 1
                    return found
            async with self._gate:
                answered = await post_json(self._client, self._url, body, self._config, self._secrets)
            reply = self._reply(answered)
            found = read(reply.answer)
            self._heard[key] = reply
            if self._cache is not None:
                self._cache.put(key, reply)
            return found

    def close(self) -> dict[str, float | str]:
        """What the batch took, noted beside the cache: requests, answers from the cache, tokens, cost."""
        cost = (
            self._counts["prompt_tokens"] * self._config.price_in
            + self._counts["completion_tokens"] * self._config.price_out
        ) / 1e6
        usage: dict[str, float | str] = {"model": self._config.model, **self._counts, "cost": cost}
        if self._cache is not None:
            self._cache.note(usage)
        return usage

    def _known(self, key: str) -> Reply | None:
        if key in self._heard or self._cache is None:
            return self._heard.get(key)
        return self._cache.get(key)

    def _body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        """The request; what is null is left to the endpoint."""
        config = self._config
        chosen = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        set_ = {name: value for name, value in chosen.items() if value is not None}
        return {"model": config.model, "messages": messages, **set_, **config.extra}

    def _reply(self, answered: Any) -> Reply:
        """The text and the token counts of an answer; they are paid for, readable or not.

        Raises `Unanswered` for JSON that is no chat completion.
        """
        self._counts["requests"] += 1
        try:
            choice = answered["choices"][0]
            text = choice["message"]["content"]
            told = answered.get("usage")
        except (LookupError, TypeError, AttributeError):
            text = told = None
        if not isinstance(text, str):
            said = repr(answered)[:200]
            raise Unanswered("exception", f"{self._url} answered JSON without choices[0].message.content: {said}")
        counts = {name: _count(told, name) for name in ("prompt_tokens", "completion_tokens")}
        for name, value in counts.items():
            self._counts[name] += value
        return Reply(text, **counts)


def _count(told: Any, name: str) -> int:
    value = told.get(name) if isinstance(told, Mapping) else None
    return value if isinstance(value, int) and value > 0 else 0
