"""Token batches against plain Hugging Face calls, one unpadded row at a time."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from alignpipe.training.batches import (
    last_token_scores,
    pad_rows,
    prompt_groups,
    response_logits,
    response_logprobs,
    state_values,
)
from alignpipe.training.models import TokenScorer, load_causal, load_scorer, load_tokenizer, new_score_head
from support import tiny_models

PROMPTS = [[5, 9, 20, 7], [11], [30, 31], [8, 8, 8, 8, 8, 8]]
RESPONSES = [[40, 41], [50, 51, 52, 53, 54], [60], [70, 71, 1]]
FAMILIES = ["llama", "gpt2"]


def folder(family: str):
    return {"llama": tiny_models.llama, "gpt2": tiny_models.gpt2}[family]()


def naive_logprobs(model, prompt: list[int], response: list[int], temperature: float) -> list[float]:
    """The textbook: all logits of one row, a full log-softmax, the entries of the response."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0] / temperature
    table = logits.log_softmax(-1)
    return [table[len(prompt) + step - 1, token].item() for step, token in enumerate(response)]


@pytest.mark.parametrize(("family", "temperature"), list(itertools.product(FAMILIES, [1.0, 0.7])))
def test_response_logprobs_are_those_of_each_row_alone(family: str, temperature: float) -> None:
    model = load_causal(folder(family))
    batch = pad_rows(PROMPTS, RESPONSES, 0, "cpu")
    logp, entropies = response_logprobs(model, batch, temperature, with_entropy=True)
    assert logp.shape == batch.response_mask.shape == (4, 5)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        expected = naive_logprobs(model, prompt, response, temperature)
        assert logp[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)
        assert logp[row, len(response) :].tolist() == [0.0] * (5 - len(response))
        with torch.no_grad():
            table = (model(torch.tensor([prompt + response])).logits[0] / temperature).log_softmax(-1)
        spread = -(table.exp() * table).sum(-1)[len(prompt) - 1 : -1]
        assert entropies[row, : len(response)].tolist() == pytest.approx(spread.tolist(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_order_change_nothing(family: str) -> None:
    model = load_causal(folder(family))
    logp, _ = response_logprobs(model, pad_rows(PROMPTS, RESPONSES, 0, "cpu"))
    order = [2, 0, 3, 1]
    moved, _ = response_logprobs(
        model,
        pad_rows([PROMPTS[i] for i in order], [RESPONSES[i] for i in order], 17, "cpu"),  # another pad, too
    )
    assert torch.allclose(moved, logp[order], atol=1e-5)
    longer = pad_rows([*PROMPTS, [3] * 20], [*RESPONSES, [4] * 9], 0, "cpu")
    wider, _ = response_logprobs(model, longer)
    assert torch.allclose(wider[:4, :5], logp, atol=1e-5)


class WithoutWindow(nn.Module):
    """A model whose forward cannot leave logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids, use_cache):
        return self.model(ids, use_cache=use_cache)


class Counting(nn.Module):
    """Stands in for a language model and remembers for how many positions logits were asked."""

    def forward(self, ids, use_cache, logits_to_keep):
        self.kept = logits_to_keep.tolist()
        return type("Output", (), {"logits": torch.zeros(len(ids), len(self.kept), 400)})


def test_nobody_is_told_to_pass_a_mask_for_padding_that_no_token_sees() -> None:
    told: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, handler = logging.getLogger("transformers.modeling_utils"), Listening()
    logger.addHandler(handler)
    try:
        model = load_causal(tiny_models.gpt2())
        model.config.pad_token_id = 0
        model.warn_if_padding_and_no_attention_mask(torch.tensor([[5, 0]]), None)
        logger.warning("something else")
    finally:
        logger.removeHandler(handler)
    assert told == ["something else"]


def test_logits_are_computed_in_the_window_of_the_responses_only() -> None:
    counting = Counting()
    batch = pad_rows(PROMPTS, RESPONSES, 0, "cpu")
    assert response_logits(counting, batch).shape[1] == len(counting.kept)
    assert counting.kept == list(
        range(8)
    )  # from the shortest prompt's last token to the last but one of the longest row
    model = load_causal(tiny_models.llama())
    assert torch.allclose(response_logits(WithoutWindow(model), batch), response_logits(model, batch), atol=1e-5)


def scorer_and_classifier(family: str):
    """Our scorer, and the plain classifier of transformers with the same weights."""
    model = load_scorer(folder(family))
    new_score_head(model, torch.Generator().manual_seed(3))
    classifier = AutoModelForSequenceClassification.from_pretrained(folder(family), num_labels=1).eval()
    classifier.load_state_dict(model.state_dict())
    pad = load_tokenizer(folder(family)).pad_token_id
    classifier.config.pad_token_id = pad
    return TokenScorer(model).eval(), classifier


def pooled(classifier, ids: list[int]) -> float:
    with torch.no_grad():
        return classifier(torch.tensor([ids])).logits.item()


@pytest.mark.parametrize("family", FAMILIES)
def test_last_token_scores_are_transformers_pooled_logits(family: str) -> None:
    scorer, classifier = scorer_and_classifier(family)
    with torch.no_grad():
        scores = last_token_scores(scorer, pad_rows(PROMPTS, RESPONSES, 0, "cpu"))
    expected = [pooled(classifier, prompt + response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_state_values_are_the_pooled_logits_of_every_prefix(family: str) -> None:
    scorer, classifier = scorer_and_classifier(family)
    with torch.no_grad():
        values = state_values(scorer, pad_rows(PROMPTS, RESPONSES, 0, "cpu"))
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        # The state in which token t is chosen is all that stands before it (D45).
        expected = [pooled(classifier, prompt + response[:step]) for step in range(len(response))]
        assert values[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)
        assert not values[row, len(response) :].any()


def test_the_layout_says_where_things_stand() -> None:
    batch = pad_rows([[1, 2], [3]], [[4], [5, 6, 7]], 9, "cpu")
    assert batch.input_ids.tolist() == [[1, 2, 4, 9], [3, 5, 6, 7]]
    assert batch.response_mask.tolist() == [[True, False, False], [True, True, True]]
    assert batch.prompt_lengths.tolist() == [2, 1]
    assert batch.lengths.tolist() == [3, 4]
    assert batch.window == (0, 3)
    # What stands at the predicting positions 0, 1, 2 moves to the response tokens that they predict.
    assert batch.aligned(torch.tensor([[10, 11, 12], [20, 21, 22]])).tolist() == [[11, 0, 0], [20, 21, 22]]


def test_rows_with_the_same_prompt_know_each_other() -> None:
    answers = [[4], [5], [6], [7]]
    assert pad_rows([[1, 2], [3], [1, 2], [1, 2]], answers, 9, "cpu").prefix_owners.tolist() == [0, 1, 0, 0]
    assert pad_rows([[1, 2], [3], [1], [2]], answers, 9, "cpu").prefix_owners is None


@pytest.mark.parametrize(("prompts", "responses"), [([[]], [[1]]), ([[1]], [[]])])
def test_empty_rows_are_refused(prompts: list[list[int]], responses: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        pad_rows(prompts, responses, 0, "cpu")


def test_prompts_are_numbered_by_the_first_of_their_kind() -> None:
    assert prompt_groups([[1, 2], [3], [1, 2], [3, 4], [3]]) == [0, 1, 0, 3, 1]
