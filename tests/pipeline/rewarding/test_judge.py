"""Asking a reward: what is checked, what is asked again, who is at fault, and when it is too much."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import math
import threading
import time
import weakref

import pytest

from alignpipe.api import Failure, Sample, Scores, Scoring
from alignpipe.errors import DataError, RewardError
from alignpipe.rewarding.judge import Judge, Scored, TooFewScores
from alignpipe.rewarding.worker import _overdue_message
from alignpipe.rewards import score_each

SAMPLES = [Sample("a prompt", str(index)) for index in range(40)]
NAN = float("nan")
PATIENT = Scoring(retries=0, failure_budget=0.5)


class Rule:
    """Answers with a function of the batch; remembers the batches it was asked about."""

    def __init__(self, function) -> None:
        self.function = function
        self.batches: list[list[int]] = []

    def score(self, samples):
        self.batches.append([int(sample.response) for sample in samples])
        return self.function(samples)


def ask(function, scoring: Scoring = PATIENT, samples=SAMPLES) -> Scored:
    return Judge(Rule(function), "reward acme (acme-reward 1.2)", scoring).score(samples)


def numbers(samples) -> list[float]:
    return [float(sample.response) for sample in samples]


def test_plain_floats_and_scores_with_parts() -> None:
    plain = ask(numbers)
    assert plain == Scored([float(index) for index in range(40)], {}, None, {})
    rich = ask(lambda samples: Scores(total=numbers(samples), parts={"tone": [1] * len(samples)}))
    assert rich.parts == {"tone": [1.0] * 40}


def test_numbers_may_come_one_by_one() -> None:
    assert ask(lambda samples: (float(sample.response) for sample in samples)).total == [float(n) for n in range(40)]


def test_a_reward_cannot_bring_the_samples_into_another_order() -> None:
    def shortest_first(samples):
        samples.sort(key=lambda sample: len(sample.response))
        return numbers(samples)

    with pytest.raises(RewardError, match=r"failed on 40 of 40 samples .*no attribute 'sort'"):
        ask(shortest_first)


@pytest.mark.parametrize("error", [KeyError("answer_key"), SystemExit(0)])
def test_one_bad_sample_does_not_spoil_its_batch(error: BaseException) -> None:
    def picky(samples):
        if any(sample.response in ("7", "31") for sample in samples):
            raise error
        return Scores(numbers(samples), parts={"size": numbers(samples)})

    scored = ask(picky)
    assert set(scored.failures) == {7, 31}
    assert scored.kept == [index for index in range(40) if index not in (7, 31)]
    assert [scored.total[index] for index in scored.kept] == scored.kept
    assert math.isnan(scored.total[7])
    assert math.isnan(scored.parts["size"][31])
    assert scored.failure_counts() == {"exception": 2}
    assert f"{type(error).__name__}: {error}" in scored.failures[7].message
    assert "test_judge.py" in scored.failures[7].message, "the traceback is there"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (lambda samples: [NAN if sample.response == "3" else 1.0 for sample in samples], "nan", "the total is nan"),
        (lambda samples: [math.inf if sample.response == "3" else 1.0 for sample in samples], "nan", "total is inf"),
        (
            lambda samples: Scores(
                [1.0] * len(samples), {"tone": [NAN if s.response == "3" else 0.0 for s in samples]}
            ),
            "nan",
            "part 'tone' is nan",
        ),
        (lambda samples: [1.0 for sample in samples if sample.response != "3"], "count", "0 scores for 1 samples"),
        (lambda samples: ["a" if sample.response == "3" else 1.0 for sample in samples], "count", "no numbers"),
        (lambda samples: ["1.5" if sample.response == "3" else 1.0 for sample in samples], "count", "text among them"),
        (
            lambda samples: Scores(
                [1.0] * len(samples),
                failures={place: Failure("refused", "fork") for place, s in enumerate(samples) if s.response == "3"},
            ),
            "refused",
            "fork",
        ),
    ],
    ids=["nan", "inf", "part", "count", "text", "number as text", "typed"],
)
def test_failures_are_typed(answer, kind: str, message: str) -> None:
    scored = ask(answer)
    assert {index: failure.kind for index, failure in scored.failures.items()} == {3: kind}
    assert message in scored.failures[3].message
    assert scored.kept == [index for index in range(40) if index != 3]


def test_one_score_whatever_is_asked_is_no_answer() -> None:
    """Asked about one sample at a time it looks right."""
    scored = Judge(Rule(lambda _: [1.0]), "acme", PATIENT).score_all(SAMPLES)
    assert scored.failure_counts() == {"count": 40}
    assert all(map(math.isnan, scored.total)), "what each got alone is not kept"
    assert scored.failures[7].message == ("its total has 1 scores for 40 samples; it must give one each, in order")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda samples: {place: number + 1 for place, number in enumerate(numbers(samples))}, "dict"),
        (lambda samples: set(numbers(samples)), "set"),
        (lambda samples: "1" * len(samples), "str"),
        (lambda samples: Scores([1.0] * len(samples), {"tone": b"1" * len(samples)}), "bytes"),
    ],
)
def test_what_is_no_list_is_no_answer_though_it_can_be_read_as_one(answer, kind: str) -> None:
    """The keys of a dictionary would be the scores, a set has no order, text is read digit by digit."""
    scored = Judge(Rule(answer), "acme", PATIENT).score_all(SAMPLES)
    assert scored.failure_counts() == {"count": 40}
    assert f"is of type {kind}; it must be a list of numbers" in scored.failures[7].message


def test_past_the_budget_the_run_stops_with_the_first_failure_and_who_it_was() -> None:
    def odd(samples):
        if any(int(sample.response) % 2 for sample in samples):
            raise ValueError("odd ones out")
        return numbers(samples)

    with pytest.raises(RewardError) as caught:
        ask(odd, Scoring(retries=0, failure_budget=0.1))
    said = str(caught.value)
    assert said.startswith("reward acme (acme-reward 1.2) failed on ")
    assert "of 40 samples (exception: " in said
    assert "scoring.failure_budget=0.1" in said
    assert "the response begins '1': ValueError: odd ones out\nTraceback" in said


def test_what_a_reward_does_not_apply_to_is_masked_and_counts_against_no_budget() -> None:
    def math_only(samples):
        return Scores(
            [None if int(sample.response) < 30 else 1.0 for sample in samples],
            {"tone": [None if sample.response == "39" else 2.0 for sample in samples]},
        )

    scored = ask(math_only, Scoring(retries=1, failure_budget=0.0))
    assert scored.kept == list(range(30, 40))
    assert scored.failure_counts() == {"not_applicable": 30}
    assert math.isnan(scored.total[0])
    assert [math.isnan(value) for value in scored.parts["tone"][30:]] == [False] * 9 + [True]
    with pytest.raises(TooFewScores, match=r"reward acme \(acme-reward 1.2\) applies to none of the 20 samples"):
        ask(math_only, PATIENT, SAMPLES[:20])


def test_failures_beside_what_does_not_apply_are_counted_by_themselves() -> None:
    answer = lambda samples: [None if int(s.response) < 30 else NAN if s.response == "30" else 1.0 for s in samples]  # noqa: E731
    assert ask(answer, Scoring(retries=0, failure_budget=0.025)).failure_counts() == {"nan": 1, "not_applicable": 30}
    with pytest.raises(RewardError, match=r"failed on 1 of 40 samples \(nan: 1\).*response begins '30'"):
        ask(answer, Scoring(retries=0, failure_budget=0.02))


def test_to_fail_on_samples_that_need_no_score_costs_nothing() -> None:
    """As long as the others have one; and what the reward does not apply to still has none."""
    strict = Scoring(retries=0, failure_budget=0.0)
    judge = Judge(Rule(lambda samples: [NAN if int(s.response) < 30 else 1.0 for s in samples]), "acme", strict)
    assert judge.score(SAMPLES, spared=range(30)).failure_counts() == {"nan": 30}
    assert judge.score(SAMPLES[:30], spared=range(30)).kept == []
    with pytest.raises(RewardError, match=r"failed on 1 of 40 samples \(nan: 1\).*response begins '29'"):
        judge.score(SAMPLES, spared=range(29))
    for_others = Judge(Rule(lambda samples: [None] * len(samples)), "acme", strict)
    with pytest.raises(TooFewScores, match="applies to none of the 5"):
        for_others.score(SAMPLES[:5], spared=range(5))


def test_samples_that_need_no_score_do_not_cost_the_others_theirs() -> None:
    """Past the budget a batch is not searched for who is at fault: those spared must not bring it there."""

    def raising(samples):
        if any(int(sample.response) < 8 for sample in samples):
            raise ValueError("too short")
        return numbers(samples)

    scored = Judge(Rule(raising), "acme", Scoring(retries=0, failure_budget=0.0)).score(SAMPLES, spared=range(8))
    assert scored.kept == list(range(8, 40))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"parts": {1: [1.0] * 4}}, "its parts must be numbers by the name of the part, got {1: "),
        ({"parts": {"": [1.0] * 4}}, "its parts must be numbers by the name"),
        ({"parts": [[1.0] * 4]}, "its parts must be numbers by the name"),
        ({"failures": [0]}, "its failures must be a Failure by the index of the sample, got [0]"),
        ({"failures": {0: "refused"}}, "its failure of sample 0 is 'refused'; it must be Failure(kind, message), with"),
        ({"failures": {0: Failure("weird", "what")}}, "with one of the kinds timeout, exception, nan, count, refused"),
        ({"failures": {-1: Failure("nan", "the last")}}, "its failures name sample -1; the 1 samples are 0 to 0"),
        ({"failures": {99: Failure("nan", "none")}}, "its failures name sample 99"),
    ],
)
def test_what_is_no_answer_is_told_in_words(scores, message: str) -> None:
    """Asked about one sample, when the batch was halved as far as that."""
    wrong = Judge(Rule(lambda samples: Scores([1.0] * len(samples), **scores)), "acme", PATIENT)
    scored = wrong.score_all(SAMPLES[:4])
    assert scored.failure_counts() == {"count": 4}
    assert message in scored.failures[0].message


def test_all_may_fail_where_only_the_failures_are_wanted() -> None:
    scored = Judge(Rule(lambda _: 1 / 0), "reward broken", Scoring(failure_budget=0)).score_all(SAMPLES[:2])
    assert scored.kept == []
    assert scored.failure_counts() == {"exception": 2}
    assert scored.failures[1].message.startswith("ZeroDivisionError: division by zero\nTraceback")


def test_exactly_the_budget_is_allowed() -> None:
    few = {"0", "1", "2", "3"}
    answer = lambda samples: [NAN if sample.response in few else 1.0 for sample in samples]  # noqa: E731
    assert len(ask(answer, Scoring(retries=0, failure_budget=0.1)).failures) == 4
    with pytest.raises(RewardError, match="failed on 4 of 40"):
        ask(answer, Scoring(retries=0, failure_budget=0.09))


def failing(judge: Judge, wrong: int, of: int) -> int:
    """Ask about `of` samples, of which `wrong` fail; how many did."""
    samples = [Sample("a prompt", "broken" if index < wrong else "fine") for index in range(of)]
    return len(judge.score(samples).failures)


class Broken:
    """Fails on the samples that say so."""

    def score(self, samples):
        return [NAN if sample.response == "broken" else 1.0 for sample in samples]


def test_rare_failures_do_not_stop_a_run_of_small_batches() -> None:
    judge = Judge(Broken(), "acme", Scoring(retries=0, failure_budget=0.1))
    with pytest.raises(RewardError, match="failed on 2 of 8"):
        failing(judge, 2, 8)  # the first question: there is nothing else to go by
    for _ in range(13):
        assert failing(judge, 0, 8) == 0
    assert failing(judge, 4, 8) == 4  # 4 of 112
    assert failing(judge, 4, 8) == 4  # 8 of 112
    with pytest.raises(
        RewardError, match=r"failed on 4 of 8 samples \(nan: 4\), and on 8 of the 104 before them, more"
    ):
        failing(judge, 4, 8)  # 12 of 112
    assert failing(judge, 1, 200) == 1


def test_a_small_batch_that_fails_wholly_is_too_much_after_any_number_of_good_ones() -> None:
    judge = Judge(Broken(), "acme", Scoring(retries=0, failure_budget=0.5))
    for _ in range(50):
        failing(judge, 0, 8)
    with pytest.raises(RewardError, match="failed on 8 of 8"):
        failing(judge, 8, 8)


def test_a_large_batch_is_held_against_itself_alone() -> None:
    judge = Judge(Broken(), "acme", Scoring(retries=0, failure_budget=0.1))
    failing(judge, 0, 200)
    with pytest.raises(RewardError, match="failed on 21 of 200"):
        failing(judge, 21, 200)


def test_a_reward_that_is_down_is_not_asked_about_every_sample() -> None:
    def down(samples):
        raise ConnectionError("refused")

    rule = Rule(down)
    with pytest.raises(RewardError, match="ConnectionError"):
        Judge(rule, "acme", Scoring(retries=0, failure_budget=0.1)).score(SAMPLES)
    assert len(rule.batches) < 20


def test_what_went_wrong_is_tried_again() -> None:
    seen: set[str] = set()

    def shaky(samples):
        new = {sample.response for sample in samples if sample.response in ("5", "6")} - seen
        seen.update(new)
        return [NAN if sample.response in new else float(sample.response) for sample in samples]

    rule = Rule(shaky)
    scored = Judge(rule, "acme", Scoring(retries=1, failure_budget=0.0)).score(SAMPLES)
    assert scored.total == [float(index) for index in range(40)]
    assert not scored.failures
    assert rule.batches[1:] == [[5, 6]], "only they are asked about again"


def test_a_refusal_is_not_tried_again() -> None:
    rule = Rule(lambda samples: Scores([0.0] * len(samples), failures={0: Failure("refused", "no")}))
    Judge(rule, "acme", Scoring(retries=3, failure_budget=0.5)).score(SAMPLES)
    assert len(rule.batches) == 1


def test_a_hanging_reward_is_cut_at_its_deadline_and_told_where_it_was() -> None:
    gate = threading.Event()
    began = time.monotonic()
    try:
        with pytest.raises(RewardError) as caught:
            ask(lambda samples: gate.wait(60), Scoring(deadline=0.3, retries=2, failure_budget=0.5))
    finally:
        gate.set()
    assert time.monotonic() - began < 10
    assert "(timeout: 40)" in str(caught.value)
    assert "threading.py" in str(caught.value)


def test_a_reward_that_hung_once_is_asked_again_in_a_fresh_thread() -> None:
    gate, calls = threading.Event(), []

    def once(samples):
        calls.append(threading.current_thread())
        if len(calls) == 1:
            gate.wait(60)
        return numbers(samples)

    judge = Judge(Rule(once), "acme", Scoring(deadline=0.2, retries=0, failure_budget=0.0))
    try:
        with pytest.raises(RewardError, match="timeout: 40"):
            judge.score(SAMPLES)
        assert judge.score(SAMPLES).total == [float(index) for index in range(40)]
    finally:
        gate.set()
    assert calls[0] is not calls[1]


def test_a_reward_is_let_go_when_nobody_asks_it_any_more() -> None:
    """A reward may be a model that fills a GPU, and the run goes on for hours without it."""
    threads: list[threading.Thread] = []

    def remembering(samples):
        threads.append(threading.current_thread())
        return numbers(samples)

    judge = Judge(Rule(remembering), "acme")
    judge.score(SAMPLES)
    reward = weakref.ref(judge.reward)
    del judge
    gc.collect()
    threads[0].join(10)
    assert reward() is None
    assert not threads[0].is_alive()


def test_an_async_reward_is_awaited_and_cancelled() -> None:
    ended: list[str] = []

    async def slow(samples):
        try:
            await asyncio.sleep(0 if len(samples) < 40 else 60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return numbers(samples)

    assert ask(slow, samples=SAMPLES[:3]).total == [0.0, 1.0, 2.0]
    with pytest.raises(RewardError, match="timeout: 40"):
        ask(slow, Scoring(deadline=0.2, retries=0))
    for _ in range(100):
        if ended:
            break
        time.sleep(0.02)
    assert ended == ["cancelled"]


async def waiting(sample) -> float:
    await asyncio.sleep(60)  # the line that is told
    return 1.0


@pytest.mark.parametrize("each", [False, True], ids=["awaited", "score_each"])
def test_of_an_async_reward_that_hangs_its_own_line_is_told(each: bool) -> None:
    async def slow(samples):
        return await (score_each(samples, waiting) if each else waiting(samples[0]))

    scored = Judge(Rule(slow), "acme", Scoring(deadline=0.19999, retries=0)).score_all(SAMPLES[:3])
    line = inspect.getsourcelines(waiting)[1] + 1
    assert scored.failures[0].message == f"no answer within 0.2 s; it was at {__file__}:{line} (waiting)"


def test_an_async_reward_that_will_not_be_cancelled_is_left_behind() -> None:
    async def stubborn(samples):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(5)

    scored = Judge(Rule(stubborn), "acme", Scoring(deadline=0.1, retries=0)).score_all(SAMPLES[:3])
    assert scored.failures[0].message == "no answer within 0.1 s", "the line of the event loop would tell nothing"


@pytest.mark.parametrize(("left", "told"), [(0.0999, "0.1"), (29.998, "30"), (12.34, "12.34"), (0.001, "0.001")])
def test_the_time_that_was_left_is_told_as_people_read_it(left: float, told: str) -> None:
    assert _overdue_message(left, None) == f"no answer within {told} s"


def test_a_rewards_own_error_is_passed_on() -> None:
    def speaking(samples):
        raise RewardError("the row has no answer")

    with pytest.raises(RewardError, match=r"^the row has no answer$"):
        ask(speaking)


def test_scores_per_token_add_up_to_their_total() -> None:
    samples = [Sample("p", str(index), response_ids=[1, 2, 3]) for index in range(3)]
    split = [[0.0, 1.0, 1.0], [0.0, 0.0, 2.0], [2.0, 0.0]]
    scored = ask(
        lambda batch: Scores([2.0, 2.5, 2.0], per_token=split), Scoring(retries=0, failure_budget=0.9), samples
    )
    assert scored.per_token == [[0.0, 1.0, 1.0], [], []]
    assert scored.failures[1].message == "per_token adds up to 2, not to the total 2.5"
    assert scored.failures[2].message == "per_token has 2 entries for 3 response tokens"


def test_what_a_failed_sample_has_per_token_is_not_looked_at() -> None:
    failed = {1: Failure("refused", "no tests")}
    scored = ask(lambda batch: Scores([1.0, 0.0], per_token=[[1.0], None], failures=failed), samples=SAMPLES[:2])
    assert (scored.per_token, scored.failures) == ([[1.0], []], failed)


def test_columns_that_a_reward_reads_must_be_there() -> None:
    class Exact:
        columns = ("answer",)

        def score(self, samples):
            return numbers(samples)

    judge = Judge(Exact(), "reward exact (acme 1)")
    judge.check_columns([{"prompt": "1+1", "answer": "2"}], "training prompts")
    with pytest.raises(
        DataError, match=r"reads the column 'answer', which 1 of 2 training prompts do not have .*: solution"
    ):
        judge.check_columns([{"prompt": "", "solution": "", "answer": "2"}, {"prompt": ""}], "training prompts")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"deadline": 0.0}, "deadline"), ({"retries": -1}, "retries"), ({"failure_budget": 1.0}, "failure_budget")],
)
def test_scoring_options_that_make_no_sense(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scoring(**changes)
