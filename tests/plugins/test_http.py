"""reward=http: the protocol, retries, and what becomes of a service that misbehaves."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import alignpipe_plugins.http as plugin
from alignpipe.api import Reward, Sample, Scoring, Selected
from alignpipe.errors import ConfigError, DataError, RewardError
from alignpipe.rewarding.judge import Judge, Scored
from alignpipe.runner.requirements import check_machine
from alignpipe_plugins.http.config import HttpConfig
from alignpipe_plugins.http.reward import HttpReward, build, read_answer
from support.services import Asked, Reply, serve

pytest.importorskip("httpx")

SAMPLES = [
    Sample(
        "p",
        str(number),
        row={"id": number, "day": datetime.date(2026, 1, 2), "size": float("nan")},
        messages=[{"role": "user", "content": "p"}],
    )
    for number in range(10)
]
PATIENT = Scoring(retries=0, failure_budget=0.9)
QUICK = {"backoff": 0.01, "retries": 2}


def ask(url: str, samples=SAMPLES, scoring: Scoring = PATIENT, **options) -> Scored:
    return Judge(HttpReward(HttpConfig(url=url, **{**QUICK, **options})), "reward http", scoring).score(samples)


def lengths(asked: Asked) -> Reply:
    values = [float(sample["response"]) for sample in asked.body["samples"]]
    return Reply({"scores": values, "parts": {"twice": [2 * value for value in values]}})


def test_batches_go_out_and_scores_come_back_in_order() -> None:
    with serve(lengths) as service:
        found = ask(f"{service.url}/score", batch_size=4, concurrency=3)
    assert found.total == [float(number) for number in range(10)]
    assert found.parts == {"twice": [2.0 * number for number in range(10)]}
    assert sorted(len(asked.body["samples"]) for asked in service.asked) == [2, 4, 4]
    assert {asked.path for asked in service.asked} == {"/score"}
    first = next(sample for asked in service.asked for sample in asked.body["samples"] if sample["response"] == "3")
    assert first == {
        "prompt": "p", "response": "3", "messages": [{"role": "user", "content": "p"}],
        "row": {"id": 3, "day": "2026-01-02", "size": "NaN"}, "ended": True,
    }  # fmt: skip


def test_only_the_columns_asked_for_are_sent_and_they_must_be_there() -> None:
    with serve(lengths) as service:
        ask(service.url, columns=["id"])
        assert service.asked[0].body["samples"][2]["row"] == {"id": 2}
    reward = HttpReward(HttpConfig(url="http://host", columns=["answer"]))
    assert isinstance(reward, Reward)
    with pytest.raises(DataError, match="reads the column 'answer'"):
        Judge(reward, "reward http").check_columns([{"prompt": ""}], "training prompts")


def test_no_more_requests_at_once_than_allowed() -> None:
    def slowly(asked: Asked) -> Reply:
        time.sleep(0.05)
        return lengths(asked)

    with serve(slowly) as service:
        ask(service.url, batch_size=1, concurrency=3)
        assert service.most_at_once <= 3
        assert len(service.asked) == 10


def test_what_passes_is_tried_again() -> None:
    replies = [Reply("busy", 503), Reply("<html>", 200), Reply("slow down", 429, {"Retry-After": "0"})]

    def shaky(asked: Asked) -> Reply:
        return replies.pop(0) if replies else lengths(asked)

    with serve(shaky) as service:
        assert ask(service.url, retries=3).total == [float(number) for number in range(10)]
        assert len(service.asked) == 4


def test_a_service_that_stays_down_is_a_failure_of_the_samples_it_was_asked_about() -> None:
    def half(asked: Asked) -> Reply:
        return Reply("down", 500) if asked.body["samples"][0]["response"] == "0" else lengths(asked)

    with serve(half) as service:
        found = ask(service.url, batch_size=5, retries=1)
        assert len(service.asked) == 3
    assert {place: failure.kind for place, failure in found.failures.items()} == dict.fromkeys(range(5), "exception")
    assert "answered 500: 'down' (2 attempts)" in found.failures[0].message
    assert found.total[5:] == [5.0, 6.0, 7.0, 8.0, 9.0]


def test_a_service_that_hangs_and_one_that_is_not_there() -> None:
    def hang(asked: Asked) -> Reply:
        time.sleep(0.5)
        return Reply({})

    with serve(hang) as service:
        began = time.monotonic()
        with pytest.raises(RewardError, match=r"\(timeout: 10\).*gave no answer within 0.1 s \(2 attempts\)"):
            ask(service.url, timeout=0.1, retries=1)
        assert time.monotonic() - began < 3
    with pytest.raises(RewardError, match="cannot be reached: ConnectError"):
        ask(service.url, retries=0)


def test_a_rejected_batch_is_halved_until_the_samples_meant_are_found() -> None:
    def picky(asked: Asked) -> Reply:
        if any(sample["response"] in ("3", "8") for sample in asked.body["samples"]):
            return Reply("too long", 422)
        return lengths(asked)

    with serve(picky) as service:
        found = ask(service.url)
    assert {place: failure.kind for place, failure in found.failures.items()} == {3: "refused", 8: "refused"}
    assert "answered 422: 'too long'" in found.failures[3].message


def test_a_wrong_address_stops_at_once() -> None:
    with serve(lambda asked: Reply("no such page", 404)) as service:
        with pytest.raises(RewardError, match=r"answered 404: 'no such page'. Check the address"):
            ask(service.url)
        assert len(service.asked) == 1


def test_headers_come_from_the_environment_and_stay_out_of_messages(monkeypatch) -> None:
    monkeypatch.setenv("SCORER_TOKEN", "t0ps3cret")
    with serve(lambda asked: Reply(f"you sent {asked.headers.get('x-token')}", 500)) as service:
        config = HttpConfig(url=service.url, headers={"X-Token": "SCORER_TOKEN"}, retries=0)
        reward = build(config, None)
        with pytest.raises(RewardError) as caught:
            Judge(reward, "reward http", PATIENT).score(SAMPLES)
        assert service.asked[0].headers["x-token"] == "t0ps3cret"
    assert "you sent ***" in str(caught.value)
    assert "t0ps3cret" not in f"{caught.value}{config}{vars(reward)}"
    with pytest.raises(RewardError, match=r"reward.headers names the environment variable NO_SUCH, which is not set"):
        build(HttpConfig(url=service.url, headers={"X-Token": "NO_SUCH"}), None)


def test_a_missing_key_is_told_before_any_work(monkeypatch) -> None:
    chosen = Selected("reward", "http", HttpConfig(url="http://host", headers={"X-Token": "SCORER_TOKEN"}))
    monkeypatch.delenv("SCORER_TOKEN", raising=False)
    with pytest.raises(
        ConfigError, match=r"^reward=http cannot run on this machine: reward.headers names .* SCORER_TO"
    ):
        check_machine(chosen)
    monkeypatch.setenv("SCORER_TOKEN", "t0ps3cret")
    check_machine(chosen)


def test_failures_of_the_service_are_typed() -> None:
    answer = {
        "scores": [1.0, None, "2", 0.0, True],
        "failures": {"0": {"kind": "refused", "message": "empty"}, "3": "no idea"},
    }
    verdicts = read_answer(answer, 5)
    assert [verdict.failure and verdict.failure.kind for verdict in verdicts] == [
        "refused",
        "nan",
        "nan",
        "exception",
        "nan",
    ]
    assert verdicts[0].failure.message == "the service says: empty"
    assert verdicts[1].failure.message == "the score is None, which is no number"
    assert read_answer({"scores": [1], "parts": {"tone": ["x"]}}, 1)[0].failure.message.startswith("part 'tone' is 'x'")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0], "must be an object with scores"),
        ({"score": [1.0]}, "must be an object with scores"),
        ({"scores": [1.0]}, "scores must be a list with one entry for each of the 2 samples, got 1 entries"),
        ({"scores": 1.0}, "scores must be a list .* got 1.0"),
        ({"scores": [1.0, 2.0], "parts": {"tone": [1.0]}}, "part 'tone' must be a list"),
        ({"scores": [1.0, 2.0], "parts": [1]}, "parts must be an object"),
        ({"scores": [1.0, 2.0], "failures": {"2": "x"}}, "names the place '2'; places are 0 to 1"),
        ({"scores": [1.0, 2.0], "failures": ["x"]}, "failures must be an object"),
    ],
)
def test_answers_that_do_not_keep_to_the_protocol(answer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_answer(answer, 2)
    with serve(lambda asked: Reply(answer)) as service, pytest.raises(RewardError, match=r"\(count: 2\).*protocol"):
        ask(service.url, SAMPLES[:2])


def test_a_part_that_only_some_samples_have() -> None:
    def some(asked: Asked) -> Reply:
        values = [float(sample["response"]) for sample in asked.body["samples"]]
        return Reply({"scores": values, "parts": {"tone": values} if values[0] else {}})

    with serve(some) as service:
        found = ask(service.url, batch_size=5)
    assert {place: failure.kind for place, failure in found.failures.items()} == dict.fromkeys(range(5), "count")
    assert "the part 'tone', not this one" in found.failures[0].message
    assert found.parts["tone"][5:] == [5.0, 6.0, 7.0, 8.0, 9.0]


def test_the_server_of_the_readme(tmp_path) -> None:
    """The example is complete: it runs as it stands and scores what it says it scores."""
    readme = (Path(plugin.__file__).parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert code.count("\n") <= 25
    file = tmp_path / "server.py"
    file.write_text(code.replace("8000", "0") + "\n")
    server = subprocess.Popen([sys.executable, "-u", str(file)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        found = ask(address, [Sample("p", "three words here"), Sample("p", ""), Sample("p", "one")])
    finally:
        server.kill()
        server.wait()
    assert [found.total[0], found.total[2]] == [3.0, 1.0]
    assert found.parts["words"][0] == 3.0
    assert found.failures[1].kind == "refused"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "host:8000"}, "url must be an address like https://host/path, got 'host:8000'"),
        ({"url": "https://me:secret@host"}, "url must not hold a user or a password"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"timeout": 0.0}, "timeout must be a positive number"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"headers": {"X Token:": "SCORER_TOKEN"}}, "headers.X Token:: a header's name is made of"),
    ],
)
def test_options_that_make_no_sense(options, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        HttpConfig(**{"url": "http://host", **options})
    assert "secret" not in str(caught.value)


def test_without_httpx_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(RewardError, match=r"reward=http needs httpx.*alignpipe\[judge\]"):
        build(HttpConfig(url="http://host"), None)
