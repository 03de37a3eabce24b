"""reward=llm_judge against a server of our own: grades, comparisons, retries, the cache, the key."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time

import pytest

from alignpipe.api import Reward, Sample, Scoring, Selected
from alignpipe.errors import ConfigError, DataError, RewardError
from alignpipe.rewarding.judge import Judge, Scored
from alignpipe.runner.requirements import check_machine
from alignpipe_plugins.llm_judge import questions
from alignpipe_plugins.llm_judge.config import LlmJudgeConfig, Mode
from alignpipe_plugins.llm_judge.questions import Question, Unreadable, read_grades, read_winner
from alignpipe_plugins.llm_judge.reward import LlmJudgeReward, build
from alignpipe_plugins.mix.config import MixConfig
from support.services import Asked, Reply, Service, serve

pytest.importorskip("httpx")

PATIENT = Scoring(retries=0, failure_budget=0.9)
KEY = "sk-t0ps3cret-0123456789"
QUICK = {"model": "judge-1", "api_key_env": None, "backoff": 0.01, "retries": 2, "cache": None}


def config(service: Service | None = None, **options) -> LlmJudgeConfig:
    url = service.url if service else "http://host"
    return LlmJudgeConfig(**{"base_url": f"{url}/v1", **QUICK, **options})


def ask(service: Service, samples, scoring: Scoring = PATIENT, **options) -> Scored:
    return Judge(LlmJudgeReward(config(service, **options)), "reward llm_judge", scoring).score(samples)


def says(text: str, prompt_tokens: int = 100, completion_tokens: int = 10) -> Reply:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return Reply({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})


def question(asked: Asked) -> str:
    return asked.body["messages"][-1]["content"]


def by_number(asked: Asked) -> Reply:
    """Grades a response by the number in it."""
    number = question(asked).split("[begin]\nanswer ")[1].split("\n")[0]
    return says(f'Because of {{x}}.\n{{"score": {number}}}')


def numbered(*numbers: float) -> list[Sample]:
    return [Sample("p", f"answer {number}") for number in numbers]


def test_grades_become_shares_of_the_scale() -> None:
    with serve(by_number) as service:
        found = ask(service, numbered(1, 10, 5.5), system="Be strict.")
    assert found.total == [0.0, 1.0, 0.5]
    assert found.parts == {}
    asked = service.asked[0]
    assert asked.path == "/v1/chat/completions"
    assert "authorization" not in asked.headers
    assert {name: asked.body[name] for name in ("model", "temperature", "max_tokens")} == {
        "model": "judge-1", "temperature": 0.0, "max_tokens": 512,
    }  # fmt: skip
    assert asked.body["messages"][0] == {"role": "system", "content": "Be strict."}


def test_fields_that_are_null_are_not_sent_and_extra_ones_are() -> None:
    with serve(by_number) as service:
        ask(service, numbered(3), temperature=None, max_tokens=None, extra={"seed": 7})
    assert set(service.asked[0].body) == {"model", "messages", "seed"}


def test_further_grades_become_parts() -> None:
    answer = says('{"score": 10, "honest": 1, "kind": 5.5} or so')
    with serve(lambda asked: answer) as service:
        found = ask(service, numbered(1), parts=["honest", "kind"])
    assert found.total == [1.0]
    assert found.parts == {"honest": [0.0], "kind": [0.5]}
    assert '{"score": ..., "honest": ..., "kind": ...}' in question(service.asked[0])


@pytest.mark.parametrize(
    ("answer", "options", "grade"),
    [
        ('{"score": 2} no, rather {"score": 4}', {}, 1 / 3),
        ('```json\n{"score": "10"}\n```', {}, 1.0),
        ('{"score": 3} and {"other": {"score": 9}} {', {}, 2 / 9),
        ("Grade: 3. Grade: 7", {"pattern": r"Grade: (\d+)"}, 2 / 3),
        ('{"score": 0}', {"low": -1.0, "high": 1.0}, 0.5),
    ],
)
def test_reading_a_grade(answer: str, options, grade: float) -> None:
    assert read_grades(answer, config(**options)) == {"score": pytest.approx(grade)}


@pytest.mark.parametrize(
    ("answer", "options", "message"),
    [
        ("I would say seven", {}, "no JSON with 'score' in the judge's answer, which ends 'I would say seven'"),
        ('{"score": 11}', {}, "score is 11, no number from 1 to 10"),
        ('{"score": true}', {}, "score is True, no number"),
        ('{"score": NaN}', {}, "score is nan, no number"),
        ('{"score": 5}', {"parts": ["kind"]}, "kind is None, no number"),
        ("7/10", {"pattern": r"Grade: (\d+)"}, "is not in the judge's answer"),
    ],
)
def test_answers_without_a_grade(answer: str, options, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read_grades(answer, config(**options))


def test_a_pattern_that_never_ends_is_a_failure_of_its_sample(monkeypatch) -> None:
    monkeypatch.setattr(questions, "PATTERN_SECONDS", 0.05)
    with serve(lambda asked: says("a" * 60 + "b" if "answer 2\n" in question(asked) else "aa 10")) as service:
        found = ask(service, numbered(1, 2), pattern=r"(?:a|aa)+ (\d+)$")
    assert found.total[0] == 1.0
    assert {place: failure.kind for place, failure in found.failures.items()} == {1: "timeout"}
    assert "took more than 0.05 s on the judge's answer; make it simpler" in found.failures[1].message


def test_reading_a_winner() -> None:
    pair = {"mode": Mode.pairwise, "reference": "chosen"}
    for answer, value in [('{"winner": "A"}', 1.0), ('{"winner": "b"}', 0.0), ('so {"winner": "tie"}', 0.5)]:
        assert read_winner(answer, config(**pair)) == value
    assert read_winner("Verdict: [[B]]", config(**pair, pattern=r"\[\[(\w+)\]\]")) == 0.0
    with pytest.raises(Unreadable, match="named 'C' as the winner"):
        read_winner('{"winner": "C"}', config(**pair))


def compare(better) -> tuple[Scored, list[Asked]]:
    def judge(asked: Asked) -> Reply:
        text = question(asked)
        first, second = (text.split(f"Answer {name}:\n[begin]\n")[1].split("\n[end]")[0] for name in "AB")
        return says(json.dumps({"winner": better(first, second)}))

    samples = [Sample("p", text, row={"chosen": "middling"}) for text in ("much longer text", "short", "middling")]
    with serve(judge) as service:
        found = ask(service, samples, mode=Mode.pairwise, reference="chosen")
    return found, service.asked


def test_a_comparison_is_asked_both_ways_round() -> None:
    def longer(first: str, second: str) -> str:
        return "tie" if len(first) == len(second) else "AB"[len(second) > len(first)]

    found, asked = compare(longer)
    assert found.total == [1.0, 0.0, 0.5]
    assert found.parts == {
        "as_first": [1.0, 0.0, 0.5],
        "as_second": [1.0, 0.0, 0.5],
        "consistent": [1.0, 1.0, 1.0],
    }
    assert len(asked) == 5, "both ways round are the same question where the answers are equal"


def test_a_judge_that_likes_what_comes_first_says_nothing() -> None:
    found, _ = compare(lambda first, second: "A")
    assert found.total == [0.5, 0.5, 0.5]
    assert found.parts["consistent"] == [0.0, 0.0, 0.0]


def test_without_the_swap_it_is_asked_once() -> None:
    sample = Sample("p", "x", row={"chosen": "y"})
    with serve(lambda asked: says('{"winner": "A"}')) as service:
        found = ask(service, [sample], mode=Mode.pairwise, reference="chosen", swap=False)
        assert len(service.asked) == 1
    assert (found.total, found.parts) == ([1.0], {})


def test_the_reference_column_must_be_there() -> None:
    reward = LlmJudgeReward(config(reference="gold"))
    assert isinstance(reward, Reward)
    with pytest.raises(DataError, match="reads the column 'gold'"):
        Judge(reward, "reward llm_judge").check_columns([{"prompt": ""}], "training prompts")


def test_templates(tmp_path) -> None:
    file = tmp_path / "question.jinja"
    file.write_text("{{ prompt }}|{{ response }}|{{ row.topic }}|{{ messages[0].content }}|{{ low }}-{{ high }}\n")
    options = config(template=str(file))
    sample = Sample("{{ p }}", "{% r %}", row={"topic": "t"}, messages=[{"role": "user", "content": "m"}])
    (message,) = Question(options).messages(sample, {})
    assert message == {"role": "user", "content": "{{ p }}|{% r %}|t|m|1-10"}
    before = options.revision()
    file.write_text("{{ prompt.__class__.__mro__ }}")
    assert options.revision() != before
    for text in ("{{ prompt.__class__.__mro__ }}", "{{ nothing }}"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"reward\.template=.*question.jinja cannot be filled in"):
            Question(options).messages(sample, {})
    file.write_text("{% if %}")
    with pytest.raises(ConfigError, match="is no Jinja template"):
        options.revision()  # which is asked when a run is planned, before any work
    with pytest.raises(ConfigError, match=r"reward\.template=.*none.jinja cannot be read"):
        config(template=str(tmp_path / "none.jinja")).revision()


def test_the_built_in_question_shows_what_there_is() -> None:
    chat = Sample("p", "the answer", messages=[{"role": "user", "content": "hello"}], row={"gold": "the gold"})
    text = Question(config(reference="gold")).messages(chat, {})[0]["content"]
    assert "[user]\nhello\n" in text
    assert "A reference answer:\n[begin]\nthe gold\n[end]" in text
    assert "The answer to judge:\n[begin]\nthe answer\n[end]" in text
    assert "from 1 (worst) to\n10 (best)" in text
    assert "reference" not in Question(config()).messages(chat, {})[0]["content"]


def test_failures_are_typed_and_of_one_sample_each() -> None:
    def moody(asked: Asked) -> Reply:
        text = question(asked)
        if "answer 1\n" in text:
            return Reply({"error": {"message": "too long"}}, 400)
        if "answer 2\n" in text:
            return says("seven of ten")
        if "answer 3\n" in text:
            time.sleep(1.0)
        if "answer 4\n" in text:
            return Reply({"choices": []})
        return by_number(asked)

    with serve(moody) as service:
        found = ask(service, numbered(1, 2, 3, 4, 10), timeout=0.4, retries=0)
    assert {place: failure.kind for place, failure in found.failures.items()} == {
        0: "refused", 1: "exception", 2: "timeout", 3: "exception",
    }  # fmt: skip
    assert "answered 400" in found.failures[0].message
    assert "which ends 'seven of ten'" in found.failures[1].message
    assert "no answer within 0.4 s" in found.failures[2].message
    assert "without choices[0].message.content" in found.failures[3].message
    assert found.total[4] == 1.0


def test_no_more_requests_at_once_than_allowed() -> None:
    def slowly(asked: Asked) -> Reply:
        time.sleep(0.05)
        return by_number(asked)

    with serve(slowly) as service:
        ask(service, numbered(*range(1, 11)), concurrency=4)
        assert 2 <= service.most_at_once <= 4


def test_the_key_is_sent_and_nowhere_else(monkeypatch, tmp_path, caplog) -> None:
    """A server that quotes the key in its error: the error, the log, the cache, the config, the object are clean."""
    monkeypatch.setenv("JUDGE_KEY", KEY + "\n")
    caplog.set_level(logging.DEBUG)
    cache = tmp_path / "cache"

    def strict(asked: Asked) -> Reply:
        if asked.headers["authorization"] != f"Bearer {KEY}":
            return Reply("who are you", 401)
        if "answer 2\n" in question(asked):
            return Reply(f"invalid: {asked.headers['authorization']}", 500)
        return says(f'I saw {KEY} {{"score": 10}}') if "answer 1\n" in question(asked) else says(f"no grade, {KEY}")

    with serve(strict) as service:
        options = config(service, api_key_env="JUDGE_KEY", cache=str(cache))
        reward = build(options, None)
        found = Judge(reward, "reward llm_judge", PATIENT).score(numbered(1, 2, 3))
        assert found.total[0] == 1.0
        monkeypatch.setenv("JUDGE_KEY", "sk-wrong-0987654321")
        with pytest.raises(
            RewardError, match=r"answered 401: 'who are you'. Check the address.* and the key"
        ) as caught:
            Judge(build(options, None), "reward llm_judge", PATIENT).score(numbered(4))
    shown = [str(failure.message) for failure in found.failures.values()]
    assert "invalid: Bearer ***" in shown[0]
    assert "no grade, ***" in shown[1]
    kept = [path.read_text() for path in cache.rglob("*.*")]
    assert len(kept) == 2, "an answer and usage.jsonl"
    shown += [*kept, str(caught.value), caplog.text, repr(options), repr(vars(reward)), str(options.revision())]
    assert not any(KEY in text or "sk-wrong" in text for text in shown)


def test_what_was_answered_once_is_not_asked_again(tmp_path) -> None:
    options = {"cache": str(tmp_path / "cache"), "price_in": 2.0, "price_out": 10.0}
    with serve(by_number) as service:
        first = ask(service, numbered(1, 10, 10), **options)
        assert len(service.asked) == 2, "the same question twice in a batch is asked once"
        second = ask(service, numbered(10, 1, 4), **options)
        assert len(service.asked) == 3
        ask(service, numbered(10), **options, temperature=1.0)
        ask(service, numbered(10), **options, extra={"seed": 1})
        assert len(service.asked) == 5, "another temperature is another question"
    assert (first.total, second.total) == ([0.0, 1.0, 1.0], [1.0, 0.0, pytest.approx(1 / 3)])
    lines = [json.loads(line) for line in (tmp_path / "cache" / "usage.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert {name: lines[0][name] for name in lines[0] if name != "time"} == {
        "model": "judge-1", "requests": 2, "cached": 1, "prompt_tokens": 200, "completion_tokens": 20,
        "cost": pytest.approx((200 * 2.0 + 20 * 10.0) / 1e6),
    }  # fmt: skip
    assert (lines[1]["requests"], lines[1]["cached"]) == (1, 2)


def test_answers_that_cannot_be_read_are_not_kept(tmp_path) -> None:
    replies = [says("hm"), says('{"score": 10}')]
    with serve(lambda asked: replies.pop(0)) as service:
        found = ask(service, numbered(1), Scoring(retries=1), cache=str(tmp_path))
    assert found.total == [1.0]
    assert len(list(tmp_path.glob("*/*.json"))) == 1


def test_a_damaged_entry_is_asked_about_again(tmp_path) -> None:
    with serve(by_number) as service:
        ask(service, numbered(10), cache=str(tmp_path))
        (file,) = tmp_path.glob("*/*.json")
        for damaged in ('{"answer": "{\\"score', '{"answer": "no grade"}', "[]"):
            file.write_text(damaged)
            assert ask(service, numbered(10), cache=str(tmp_path)).total == [1.0]
        assert len(service.asked) == 4


def test_a_batch_that_is_cut_leaves_no_request_behind() -> None:
    gate = threading.Event()

    def hang(asked: Asked) -> Reply:
        gate.wait(10)
        return by_number(asked)

    with serve(hang) as service:
        began = time.monotonic()
        with pytest.raises(RewardError, match=r"\(timeout: 2\)"):
            ask(service, numbered(1, 2), Scoring(deadline=0.5, retries=2))
        assert time.monotonic() - began < 5
        gate.set()


def test_the_key_must_be_there(monkeypatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(RewardError, match=r"reward.api_key_env names the environment variable JUDGE_KEY, which is not"):
        build(config(api_key_env="JUDGE_KEY"), None)
    mix = Selected(
        "reward", "mix", MixConfig({"judge": Selected("reward", "llm_judge", config(api_key_env="JUDGE_KEY"))})
    )
    with pytest.raises(ConfigError, match=r"^reward=llm_judge cannot run on this machine: reward.api_key_env names"):
        check_machine(mix)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    check_machine(mix)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 10.0}, "low must be below high=10, got 10"),
        ({"mode": Mode.pairwise}, "reference must name the column to compare with"),
        ({"mode": Mode.pairwise, "reference": "r", "parts": ["kind"]}, "parts are read from the JSON of pointwise"),
        ({"parts": ["score"]}, "parts must name each further grade once"),
        ({"pattern": r"\d+"}, "pattern must have a group"),
        ({"pattern": "("}, "pattern is no regular expression"),
        ({"extra": {"temperature": 1}}, "extra must not set temperature"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"base_url": "https://key@host/v1"}, "base_url must not hold a user or a password"),
        ({"base_url": "host"}, "base_url must be an address"),
    ],
)
def test_options_that_make_no_sense(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_without_httpx_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(RewardError, match=r"reward=llm_judge needs httpx.*alignpipe\[judge\]"):
        build(config(), None)
