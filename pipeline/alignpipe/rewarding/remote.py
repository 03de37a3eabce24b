"""Asking a scoring service over HTTP: JSON there and back, retries that wait, secrets that stay secret.

For rewards whose work is done elsewhere. httpx is an extra (`judge`); it is imported only where it is used.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from alignpipe.api.rewards import FailureKind
from alignpipe.errors import RewardError
from alignpipe.options import RequestOptions

if TYPE_CHECKING:
    import httpx

_Result = TypeVar("_Result")
_PASSING = frozenset({408, 409, 425, 429, *range(500, 600)}) - {501, 505}
"""Statuses that may be gone the next time."""
_OUT_OF_THE_QUESTION = frozenset({401, 403, 404, 405})
"""Statuses that every request would get: a wrong key, a wrong address."""
_QUOTED = 300
"""How many letters of an answer a message quotes."""


class Unanswered(Exception):
    """No usable answer after all attempts; `kind` says how it went wrong."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


class Rejected(Exception):
    """The service says that this very request is wrong; asking again would not help."""


class Secrets:
    """Values from environment variables, never shown: not in `repr`, and taken out of every text by `hide`.

    `variables` maps what a value is for to the name of its variable; `option` names the config key in messages.

    Raises `RewardError` for a variable that is not set or that no header can carry.
    """

    def __init__(self, variables: Mapping[str, str], option: str) -> None:
        self._values = {use: _read(name, option) for use, name in variables.items()}
        # "Bearer abc" may come back as "abc"; the longest first, since one may hold another.
        pieces = {piece for value in self._values.values() for piece in (value, *value.split()[1:])}
        self._hidden = sorted(pieces, key=len, reverse=True)

    def __getitem__(self, use: str) -> str:
        return self._values[use]

    def __contains__(self, use: str) -> bool:
        return use in self._values

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self._values)})"

    def items(self) -> Iterable[tuple[str, str]]:
        """What each is for, with its value: for the headers, and nothing else."""
        return self._values.items()

    def hide(self, text: str) -> str:
        """The text without any of the values."""
        for value in self._hidden:
            text = text.replace(value, "***")
        return text

    def hide_all(self, answer: Any) -> Any:
        """What JSON can hold, without any of the values in its texts and names."""
        if isinstance(answer, str):
            return self.hide(answer)
        if isinstance(answer, list):
            return [self.hide_all(entry) for entry in answer]
        if isinstance(answer, dict):
            return {self.hide(name): self.hide_all(value) for name, value in answer.items()}
        return answer


def _read(variable: str, option: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise RewardError(f"{option} names the environment variable {variable}, which is not set; export it first")
    if not (value.isascii() and value.isprintable()):
        raise RewardError(f"the environment variable {variable} ({option}) holds letters that no HTTP header can carry")
    return value


def need_httpx(what: str) -> None:
    """Raise `RewardError` if httpx is not installed; `what` needs it."""
    try:
        import httpx  # noqa: F401
    except ImportError as error:
        raise RewardError(f"{what} needs httpx, which is not installed: pip install 'alignpipe[judge]'") from error


def open_client(headers: Mapping[str, str], connections: int) -> httpx.AsyncClient:
    """A client for the running event loop, to be closed on it; proxies come from the environment."""
    import httpx

    # Its own time limits are per operation; `post_json` sets one for the whole request.
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(headers=dict(headers), timeout=None, limits=limits)


async def post_json(client: httpx.AsyncClient, url: str, body: Any, options: RequestOptions, secrets: Secrets) -> Any:
    """The JSON that a service answers, without the secrets if it quotes them.

    Time-outs, broken connections, answers that are no JSON and the statuses 408, 409, 425, 429 and 5xx (but 501 and
    505) are tried again, after the time a `Retry-After` asks for, else after twice as long each time, a random part of
    it left out.

    Raises `Unanswered` when that did not help or the service asks for more time than `longest_wait`, `Rejected` for
    any other status, and `RewardError` for one that every request would get (401, 403, 404, 405).
    """
    attempt = 0
    while True:
        answer, trouble, asked = await _post(client, url, body, options.timeout, secrets)
        if trouble is None:
            return answer
        if attempt == options.retries:
            raise Unanswered(trouble.kind, f"{trouble} ({attempt + 1} attempts)")
        # Not `asked or ...`: a service may ask for no wait at all.
        wait = asked if asked is not None else options.backoff * 2**attempt * random.uniform(0.5, 1.0)
        if asked is not None and asked > options.longest_wait:
            limit = f"longest_wait={options.longest_wait:g}"
            raise Unanswered(trouble.kind, f"{trouble}; it asks to wait {asked:.0f} s, more than {limit}")
        await asyncio.sleep(min(wait, options.longest_wait))
        attempt += 1


async def _post(
    client: httpx.AsyncClient, url: str, body: Any, timeout: float, secrets: Secrets
) -> tuple[Any, Unanswered | None, float | None]:
    """One attempt: the answer, or what went wrong and how long the service asks to wait."""
    import httpx

    try:
        async with asyncio.timeout(timeout):
            response = await client.post(url, json=body)
    except TimeoutError:
        return None, Unanswered("timeout", f"{url} gave no answer within {timeout:g} s"), None
    except httpx.HTTPError as error:
        said = secrets.hide(f"{type(error).__name__}: {error}")
        return None, Unanswered("exception", f"{url} cannot be reached: {said}"), None
    text = secrets.hide(response.text)
    said = f"{url} answered {response.status_code}: {text[:_QUOTED]!r}"
    if response.status_code in _OUT_OF_THE_QUESTION:
        raise RewardError(f"{said}. Check the address, the model's name and the key")
    if response.status_code in _PASSING:
        return None, Unanswered("exception", said), _retry_after(response.headers.get("retry-after"))
    if not response.is_success:
        raise Rejected(said)
    try:
        return secrets.hide_all(response.json()), None, None
    except (ValueError, RecursionError):
        return None, Unanswered("exception", f"{url} answered no JSON: {text[:_QUOTED]!r}"), None


def _retry_after(header: str | None) -> float | None:
    """Seconds a `Retry-After` asks for: a number, or a date; None if there is none that can be read."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        return _seconds_until(header)


def _seconds_until(date: str) -> float | None:
    """Seconds until a date as mail and HTTP write it, 0 if it is past; None if it is none."""
    try:
        return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    except ValueError:
        return None


async def together(work: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """The results of all, in order; after the first exception the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
