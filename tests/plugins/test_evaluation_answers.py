"""One policy's answers: figures by hand, KL and perplexity against transformers' own numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from alignpipe.api import Sample
from alignpipe.errors import DataError
from alignpipe.training.models import Policy, load_causal, load_tokenizer
from alignpipe.training.rollouts import Response
from alignpipe.training.streams import episode_uniforms, stream
from alignpipe_plugins.evaluation.answers import Answers, answer, kl_to, perplexity, swapped
from alignpipe_plugins.rollout_local.config import LocalRolloutConfig
from alignpipe_plugins.rollout_local.sampler import LocalRollout
from support import ppo, tiny_models

ROWS = [{"prompt": f"Customer {row}:" + " hi" * (row % 4), "messages": [], "case": row} for row in range(6)]


def policy(scale: float = 1.0) -> Policy:
    model = load_causal(tiny_models.llama()).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(scale)
    return Policy(model, load_tokenizer(tiny_models.llama()))


def answers(made: Policy, rows: list[dict[str, Any]] = ROWS, room: int = 5) -> Answers:
    uniforms = episode_uniforms(stream(0, "answers"), len(rows), room)
    return answer(made, "sft", rows, LocalRollout(LocalRolloutConfig()), uniforms, 0.7, "eval.max_response_tokens")


def test_every_row_is_answered_with_what_rewards_need() -> None:
    made = policy()
    found = answers(made)
    for row, sample, prompt, response in zip(ROWS, found.samples, found.prompts, found.responses, strict=True):
        assert (sample.prompt, sample.row) == (row["prompt"], {"case": row["case"]})
        assert sample.prompt_ids == prompt == made.tokenizer.encode(row["prompt"])
        assert sample.response_ids == response.ids
        assert sample.response == made.tokenizer.decode(response.ids, skip_special_tokens=True)
        assert 1 <= len(response.ids) <= 5
    assert answers(made).responses == found.responses


def test_a_prompt_that_leaves_no_room_names_the_key() -> None:
    with pytest.raises(
        DataError, match=r"a prompt of 1\d\d tokens and eval\.max_response_tokens=5 do not fit into the"
    ):
        answers(policy(), [{"prompt": "Customer " * 62, "messages": []}])
    with pytest.raises(DataError, match="an empty prompt"):
        answers(policy(), [{"prompt": "", "messages": []}])


def test_the_figures_of_a_few_texts() -> None:
    texts = ["a b a b", "a b", ""]
    responses = [Response([5, 6, 7, 1], True), Response([5, 1], True), Response([5, 6, 7, 8, 9, 10], False)]
    samples = [Sample("p", text) for text in texts]
    figures = Answers("sft", [[3]] * 3, responses, samples).figures()
    assert figures == pytest.approx(
        {"length": 4.0, "eos_rate": 2 / 3, "distinct_1": 2 / 6, "distinct_2": 2 / 4}  # a, b of six; ab, ba of four
    )


def test_swapping_moves_the_prompt_and_keeps_the_response() -> None:
    found = answers(policy()).samples
    moved = swapped(found)
    for index, sample in enumerate(moved):
        own, other = found[index], found[(index + 1) % len(found)]
        assert (sample.response, sample.response_ids, sample.ended) == (own.response, own.response_ids, own.ended)
        assert sample.vocabulary == own.vocabulary
        assert (sample.prompt, sample.messages, sample.row) == (other.prompt, other.messages, other.row)
        assert sample.prompt_ids == other.prompt_ids


def test_the_kl_to_itself_is_zero_and_to_another_the_sum_over_tokens() -> None:
    made, other = policy(), policy(1.1)
    found = answers(made)
    assert kl_to(made, made, found, 0.7, "cpu") == [0.0] * len(ROWS)
    kl = kl_to(made, other, found, 0.7, "cpu")
    for value, prompt, response in zip(kl, found.prompts, found.responses, strict=True):
        with torch.no_grad():
            ours, theirs = (ppo.naive_logprobs(one.model, prompt, response.ids, 0.7) for one in (made, other))
        assert value == pytest.approx(float((ours - theirs).sum()), abs=1e-4)
    assert sum(map(abs, kl)) > 0.1


def demonstrations() -> list[dict[str, Any]]:
    return [{**row, "completion": " thanks" * (1 + row["case"] % 3)} for row in ROWS]


def test_the_perplexity_is_that_of_transformers_loss() -> None:
    made = policy()
    loss, tokens = 0.0, 0
    for row in demonstrations():
        prompt = made.tokenizer.encode(row["prompt"])
        completion = [*made.tokenizer.encode(row["completion"]), made.tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(prompt) + completion])
        with torch.no_grad():
            mean = made.model(torch.tensor([prompt + completion]), labels=labels).loss
        loss, tokens = loss + float(mean) * len(completion), tokens + len(completion)
    assert perplexity(made, demonstrations(), "cpu") == pytest.approx(math.exp(loss / tokens), rel=1e-4)


def test_a_demonstration_without_a_prompt_is_predicted_from_its_second_token() -> None:
    made = policy()
    row = {"prompt": "", "messages": [], "completion": "Hello there"}
    ids = [*made.tokenizer.encode("Hello there"), made.tokenizer.eos_token_id]
    with torch.no_grad():
        loss = float(made.model(torch.tensor([ids]), labels=torch.tensor([ids])).loss)
    assert perplexity(made, [row], "cpu") == pytest.approx(math.exp(loss), rel=1e-4)


def test_a_demonstration_with_nothing_to_predict_is_left_out() -> None:
    made, nothing = policy(), {"prompt": "", "messages": [], "completion": ""}
    assert perplexity(made, [nothing, *demonstrations()], "cpu") == perplexity(made, demonstrations(), "cpu")
    assert perplexity(made, [nothing], "cpu") is None


def test_a_long_demonstration_is_read_as_far_as_the_context_goes() -> None:
    made = policy()
    row = {**ROWS[0], "completion": " thanks" * 100}
    prompt = made.tokenizer.encode(row["prompt"])
    completion = made.tokenizer.encode(row["completion"])[: 128 - len(prompt)]
    labels = torch.tensor([[-100] * len(prompt) + completion])
    with torch.no_grad():
        loss = float(made.model(torch.tensor([prompt + completion]), labels=labels).loss)
    assert perplexity(made, [row], "cpu") == pytest.approx(math.exp(loss), rel=1e-4)
