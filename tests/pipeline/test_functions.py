"""Plain functions as rewards: ours and TRL's signature, with TRL's own documented examples."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Any

import pytest

from alignpipe.api import Sample, Scores, Scoring
from alignpipe.errors import RewardError
from alignpipe.functions import Form, FunctionReward
from alignpipe.rewarding.judge import Judge, Scored

CHAT = [{"role": "user", "content": "What is (1 + 2) * 4?"}]
PLAIN = [
    Sample("The sky is", " blue.", row={"ground_truth": "a", "level": 1}, response_ids=[6303, 13]),
    Sample("The sun is", " in the sky.", row={"ground_truth": "b", "level": 2}, response_ids=[304, 279, 12884, 13]),
]
PATIENT = Scoring(retries=0, failure_budget=0.9)


def ask(function: Any, samples=PLAIN, form: Form = Form.auto, **options: Any) -> Scored:
    return Judge(FunctionReward(function, options, form), "reward function", PATIENT).score(samples)


def test_our_signature_with_and_without_options() -> None:
    def polite(samples, word="please", *, weight=1.0):
        return [weight * (word in sample.response) for sample in samples]

    assert ask(polite).total == [0.0, 0.0]
    assert ask(polite, word="sky", weight=2.0).total == [0.0, 2.0]
    assert ask(lambda batch: Scores([1.0, 2.0], parts={"tone": [0.0, 1.0]})).parts == {"tone": [0.0, 1.0]}
    assert FunctionReward(polite).columns == ()


def test_the_examples_of_trls_documentation() -> None:
    def by_tokens(completions_ids, **kwargs):
        return [float(len(ids)) for ids in completions_ids]

    def by_characters(completions, **kwargs):
        return [float(len(completion)) for completion in completions]

    def correct(completions, ground_truth, **kwargs):
        matches = [re.search(r"\\boxed\{(.*?)\}", completion) for completion in completions]
        return [
            float(match is not None and match[1] == truth) for match, truth in zip(matches, ground_truth, strict=True)
        ]

    assert ask(by_tokens).total == [2.0, 4.0]
    assert ask(by_characters).total == [6.0, 12.0]
    boxed = [Sample("p", r"so \boxed{9}", row={"ground_truth": truth}) for truth in ("9", "3")]
    assert ask(correct, boxed).total == [1.0, 0.0]
    assert FunctionReward(correct).columns == ("ground_truth",)


def test_conversations_come_as_messages() -> None:
    seen: list[Any] = []

    def format_reward(prompts, completions, **kwargs):
        seen.append(prompts)
        contents = [completion[0]["content"] for completion in completions]
        return [1.0 if re.match(r"^<think>.*?</think>", content) else 0.0 for content in contents]

    samples = [Sample("text", reply, messages=CHAT) for reply in ("<think>x</think>12", "12")]
    assert ask(format_reward, samples).total == [1.0, 0.0]
    assert seen == [[CHAT, CHAT]]
    plain = [Sample("text", sample.response) for sample in samples]
    assert ask(format_reward, plain, Form.messages).total == [1.0, 0.0]
    assert seen[-1][0] == [{"role": "user", "content": "text"}]
    assert ask(lambda completions, **_: [float(len(text)) for text in completions], samples, Form.text).total == [18, 2]


def test_conversations_and_plain_prompts_in_one_batch_are_asked_apart() -> None:
    def kind(completions, **kwargs):
        assert len({type(completion) for completion in completions}) == 1
        return [float(isinstance(completion, str)) for completion in completions]

    async def slow_kind(completions, **kwargs):
        return kind(completions)

    mixed = [Sample("p", "a"), Sample("p", "b", messages=CHAT), Sample("p", "c")]
    assert ask(kind, mixed).total == [1.0, 0.0, 1.0]
    assert ask(slow_kind, mixed).total == [1.0, 0.0, 1.0]


def test_what_trl_passes() -> None:
    given: dict[str, Any] = {}

    def everything(prompts, completions, **kwargs):
        given.update(kwargs)
        kwargs["log_extra"]("column", [1, 2])
        kwargs["log_metric"]("name", 1.0)
        return [0.0, 0.0]

    ask(everything, weight=3)
    assert {name: given[name] for name in ("ground_truth", "level", "weight")} == {
        "ground_truth": ["a", "b"], "level": [1, 2], "weight": 3,
    }  # fmt: skip
    assert given["completion_ids"] == [[6303, 13], [304, 279, 12884, 13]]
    assert not {"prompt", "trainer_state", "completions_ids"} & set(given)
    assert ask(lambda completions: [1.0, 2.0]).total == [1.0, 2.0], "what it does not take is left out"


def test_none_is_a_failure_and_never_zero() -> None:
    def picky(completions, **kwargs):
        return [None if "sun" in text or "sky" in text else 1.0 for text in completions]

    scored = ask(picky)
    assert scored.kept == [0]
    assert math.isnan(scored.total[1])
    assert scored.failures[1].kind == "not_applicable"
    assert "gave None" in scored.failures[1].message


def test_text_without_token_ids_is_refused_to_a_function_that_reads_them() -> None:
    def by_tokens(completion_ids, **kwargs):
        return [float(len(ids)) for ids in completion_ids]

    scored = ask(by_tokens, [*PLAIN, Sample("p", "text alone")])
    assert scored.kept == [0, 1]
    assert scored.total[:2] == [2.0, 4.0]
    assert "no policy sampled this text" in scored.failures[2].message


def test_async_functions_are_awaited() -> None:
    async def slow(prompts, completions, **kwargs):
        await asyncio.sleep(0)
        return [float(len(text)) for text in completions]

    async def ours(samples):
        await asyncio.sleep(0)
        return [1.0, None]

    assert ask(slow).total == [6.0, 12.0]
    assert ask(ours).kept == [0]


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (lambda: [], {}, r"it takes \(\), and must take \(samples\)"),
        (lambda completion, answer: [], {}, r"set options.answer, or write \(samples\)"),
        (lambda samples: [], {"word": "x"}, "options.word: it takes no such argument"),
        (lambda samples, **more: [], {"samples": 1}, "options.samples: it takes no such argument"),
        (lambda completions: [], {"completions": 1}, "options.completions: it takes no such argument"),
        (lambda completions, trainer_state: [], {}, "it needs trainer_state, which is not there"),
        (lambda prompts, completions, /: [], {}, "it takes prompts, completions by position only"),
    ],
)
def test_what_cannot_be_called(function: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FunctionReward(function, options)


def test_an_answer_that_is_no_list_is_told_by_the_judge() -> None:
    scored = ask(lambda samples: 1.0 if len(samples) == 1 and "sun" in samples[0].prompt else [1.0] * len(samples))
    assert scored.kept == [0, 1]
    with pytest.raises(RewardError, match=r"its total is 1\.0, which are no numbers"):
        ask(lambda samples: 1.0)
