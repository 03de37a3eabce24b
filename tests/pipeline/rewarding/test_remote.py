"""Asking a service: what is tried again and after what time, what is not, and where secrets end up."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import sys
import time
from typing import Any

import pytest

from alignpipe.errors import RewardError
from alignpipe.options import RequestOptions
from alignpipe.rewarding.remote import (
    Rejected,
    Secrets,
    Unanswered,
    need_httpx,
    open_client,
    post_json,
    together,
)
from support.services import Asked, Reply, serve

pytest.importorskip("httpx")

NONE = Secrets({}, "reward.key")


def ask(url: str, secrets: Secrets = NONE, **options: float) -> Any:
    async def call() -> Any:
        given: dict[str, Any] = {"timeout": 5.0, "retries": 2, "backoff": 0.01, **options}
        async with open_client(dict(secrets.items()), 1) as client:
            return await post_json(client, url, {"question": 1}, RequestOptions(**given), secrets)

    return asyncio.run(call())


def test_an_answer_is_its_json() -> None:
    with serve(lambda asked: Reply([asked.body])) as service:
        assert ask(service.url) == [{"question": 1}]


def test_what_passes_is_waited_for() -> None:
    busy = [Reply("slow down", 429, {"Retry-After": "0.3"}), Reply("oops", 522), Reply("<html>", 200)]
    times: list[float] = []

    def shaky(asked: Asked) -> Reply:
        times.append(time.monotonic())
        return busy.pop(0) if busy else Reply("[1]")

    with serve(shaky) as service:
        assert ask(service.url, retries=3) == [1]
    assert len(times) == 4
    assert times[1] - times[0] >= 0.3, "as long as the service asks for"
    assert times[3] - times[1] < 0.3, "else as the backoff has it"


def test_a_retry_after_may_be_a_date_and_too_far_away() -> None:
    later = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=600), True)
    with serve(lambda asked: Reply("", 503, {"Retry-After": later})) as service:
        with pytest.raises(Unanswered, match=r"it asks to wait (600|59\d) s, more than longest_wait=60"):
            ask(service.url)
        assert len(service.asked) == 1


def test_a_retry_after_that_cannot_be_read_or_is_over() -> None:
    for said in ("soon", "Mon, 01 Jan 2024 00:00:00 GMT"):
        reply = Reply("", 503, {"Retry-After": said})
        with serve(lambda asked, reply=reply: reply) as service:
            with pytest.raises(Unanswered, match=r"answered 503: '' \(3 attempts\)"):
                ask(service.url)
            assert len(service.asked) == 3


def test_the_wait_doubles_and_is_never_longer_than_allowed(monkeypatch) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    with serve(lambda asked: Reply("down", 500)) as service:
        monkeypatch.setattr(asyncio, "sleep", note)
        with pytest.raises(Unanswered, match="7 attempts"):
            ask(service.url, retries=6, backoff=1.0, longest_wait=10.0)
    limits = [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, limits, strict=True)), waits


def test_what_will_not_pass_is_not_tried_again() -> None:
    for status, error in [
        (400, Rejected),
        (422, Rejected),
        (307, Rejected),
        (501, Rejected),
        (401, RewardError),
        (404, RewardError),
    ]:
        reply = Reply("no", status)
        with serve(lambda asked, reply=reply: reply) as service:
            with pytest.raises(error, match=rf"answered {status}: 'no'"):
                ask(service.url)
            assert len(service.asked) == 1


def test_a_service_that_hangs() -> None:
    def hang(asked: Asked) -> Reply:
        time.sleep(0.4)
        return Reply({})

    with serve(hang) as service, pytest.raises(Unanswered, match=r"no answer within 0\.1 s") as caught:
        ask(service.url, timeout=0.1, retries=0)
    assert caught.value.kind == "timeout"


def test_secrets_are_sent_and_not_shown(monkeypatch) -> None:
    monkeypatch.setenv("TOKEN", " t0ps3cret\n")
    secrets = Secrets({"X-Token": "TOKEN"}, "reward.headers")
    with (
        serve(lambda asked: Reply(f"you sent {asked.headers['x-token']}", 500)) as service,
        pytest.raises(Unanswered, match=r"you sent \*\*\*"),
    ):
        ask(service.url, secrets, retries=0)
    with serve(lambda asked: Reply({"t0ps3cret": [asked.headers["x-token"]], "n": 1})) as service:
        assert ask(service.url, secrets) == {"***": ["***"], "n": 1}
    assert repr(secrets) == "Secrets(X-Token)"
    assert secrets["X-Token"] == "t0ps3cret"
    assert "X-Token" in secrets


def test_a_secret_that_comes_back_without_its_scheme(monkeypatch) -> None:
    monkeypatch.setenv("TOKEN", "Bearer t0ps3cret")
    secrets = Secrets({"Authorization": "TOKEN"}, "reward.headers")
    assert secrets.hide("no such key: t0ps3cret (of Bearer t0ps3cret)") == "no such key: *** (of ***)"


def test_a_secret_that_is_not_there_or_cannot_be_sent(monkeypatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(RewardError, match=r"^reward\.key names the environment variable TOKEN, which is not set"):
        Secrets({"key": "TOKEN"}, "reward.key")
    for value in ("sk-a\nb", "sk-ü"):
        monkeypatch.setenv("TOKEN", value)
        with pytest.raises(RewardError, match="letters that no HTTP header can carry") as caught:
            Secrets({"key": "TOKEN"}, "reward.key")
        assert "sk-" not in str(caught.value)


def test_after_the_first_error_the_others_are_cancelled() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")

    async def bad() -> None:
        raise ValueError("bad")

    began = time.monotonic()
    with pytest.raises(ValueError, match="bad"):
        asyncio.run(together([slow(), bad()]))
    assert time.monotonic() - began < 10
    assert ended == ["slow"]


def test_without_httpx_it_says_what_to_install(monkeypatch) -> None:
    need_httpx("this")
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(RewardError, match=r"this needs httpx.*pip install 'alignpipe\[judge\]'"):
        need_httpx("this")
