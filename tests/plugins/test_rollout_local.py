"""rollout=local against a sampler that is obviously right: one row, no cache, the textbook's inverse CDF."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    RecurrentGemmaConfig,
)

from alignpipe.errors import PluginError
from alignpipe.options import Forward, ModelLinearDtype
from alignpipe.training.lanes import Lanes
from alignpipe.training.linears import BFloat16Linear
from alignpipe.training.models import load_causal
from alignpipe.training.packed.decode import PackedDecoder
from alignpipe.training.packed.models import Parts, packable, set_forward
from alignpipe.training.rollouts import Response, sampled
from alignpipe.training.streams import episode_uniforms, stream
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource
from alignpipe_plugins.rollout_local.config import LocalRolloutConfig
from alignpipe_plugins.rollout_local.sampler import LocalRollout, _decode
from support import tiny_models

PROMPTS = [[5, 9, 20, 7], [11], [30, 31], [8, 8, 8, 8, 8, 8], [40, 5], [9, 10, 11]]
UNIFORMS = episode_uniforms(stream(0, "episodes", 0), len(PROMPTS), 12)
FAMILIES = {"llama": tiny_models.llama, "gpt2": tiny_models.gpt2}
SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
GROUPED = [LlamaConfig(**SIZES), Qwen2Config(**SIZES), Qwen3Config(**SIZES, head_dim=16), MistralConfig(**SIZES)]


class Wrong:
    """A rollout of somebody else's that does not keep its contract."""

    def __init__(self, *responses: Any) -> None:
        self.responses = list(responses)

    def sample(self, *_: Any, **__: Any) -> list[Any]:
        return self.responses


@pytest.mark.parametrize(
    ("responses", "told"),
    [
        ([Response([1], True)], "gave 1 responses to 2 prompts"),
        ([Response([1], True), [1, 2]], r"gave \[1, 2\], which is no alignpipe\.training\.rollouts\.Response"),
        ([Response([1], True), Response([], False)], "gave a response of 0 tokens, where 1 to 3 are wanted"),
        ([Response([1], True), Response([1] * 4, False)], "gave a response of 4 tokens, where 1 to 3 are wanted"),
    ],
)
def test_what_a_rollout_gives_is_looked_at(responses: list[Any], told: str) -> None:
    with pytest.raises(PluginError, match=rf"the rollout .*Wrong {told}"):
        sampled(Wrong(*responses), None, [[1], [2]], torch.rand(2, 3), temperature=1.0, eos_ids=[0])


def sampler(batch_size: int = 64, lanes: int = 1) -> LocalRollout:
    return LocalRollout(LocalRolloutConfig(batch_size), Lanes(lanes))


def naive(model, prompt, uniforms, temperature: float, eos_id: int) -> Response:
    ids: list[int] = []
    for uniform in uniforms.tolist():
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, -1].double()
        table = (logits / temperature).softmax(-1).cumsum(-1)
        ids.append(next(token for token, total in enumerate(table.tolist()) if total > uniform))
        if ids[-1] == eos_id:
            break
    return Response(ids, ids[-1] == eos_id)


def an_end(model) -> int:
    """A token that ends some responses, at as many different steps as can be, and others not at all."""
    drawn = [row.ids for row in sampler().sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[-1])]
    tokens = {token for ids in drawn for token in ids if not all(token in other for other in drawn)}
    return max(sorted(tokens), key=lambda token: len({ids.index(token) for ids in drawn if token in ids}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("batch_size", "lanes"), [(64, 1), (1, 1), (4, 1), (64, 2), (4, 3)])
def test_it_is_the_naive_sampler_whatever_the_batch(family: str, batch_size: int, lanes: int) -> None:
    model = load_causal(FAMILIES[family]())
    eos = an_end(model)
    drawn = sampler(batch_size, lanes).sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[eos])
    expected = [naive(model, prompt, row, 0.7, eos) for prompt, row in zip(PROMPTS, UNIFORMS, strict=True)]
    assert drawn == expected
    assert {response.ended for response in drawn} == {True, False}  # so both ways out were taken
    assert len({len(response.ids) for response in drawn if response.ended}) > 1


@pytest.mark.parametrize("config", GROUPED, ids=lambda config: config.model_type)
def test_both_decoders_draw_the_same_tokens(config) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
    eos = an_end(model)
    assert packable(model, 18) is not None
    packed = sampler(4).sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[eos])
    assert packed == [naive(model, prompt, row, 0.7, eos) for prompt, row in zip(PROMPTS, UNIFORMS, strict=True)]
    set_forward(model, Forward.general, None)
    assert sampler(4).sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[eos]) == packed


RECURRENT = [
    MambaConfig(vocab_size=90, hidden_size=32, num_hidden_layers=2, state_size=8, initializer_range=0.5),
    Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),
    RecurrentGemmaConfig(**{**SIZES, "num_hidden_layers": 3, "num_key_value_heads": 1}, lru_width=32, head_dim=8),
]


@pytest.mark.parametrize("config", RECURRENT, ids=lambda config: config.model_type)
def test_what_remembers_more_than_keys_and_values_is_read_anew(config) -> None:
    """A recurrent state takes in the pads on the left, and has no rows that could leave."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).eval()
    eos = an_end(model)
    drawn = sampler(4).sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[eos])
    assert drawn == [naive(model, prompt, row, 0.7, eos) for prompt, row in zip(PROMPTS, UNIFORMS, strict=True)]
    assert len({len(response.ids) for response in drawn}) > 2


def test_the_decoder_reads_no_place_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys and values lie in memory as it comes, so the places nobody has written are NaN here."""
    model = load_causal(tiny_models.llama())
    eos = an_end(model)
    drawn = sampler(4).sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[eos])
    room, made = PackedDecoder._empty_cache, []

    def poisoned(self, like, rows):
        made.append(room(self, like, rows).fill_(torch.nan))
        return made[-1]

    monkeypatch.setattr(PackedDecoder, "_empty_cache", poisoned)
    assert sampler(4).sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[eos]) == drawn
    assert len({len(each) for each in made}) > 2  # some rows left, the others moved


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_decoding_in_half_precision(dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(GROUPED[2]).to(dtype).eval()
    rows = [list(prompt) for prompt in PROMPTS]
    decoder = PackedDecoder(packable(model, 12), rows, 12)
    logits = decoder.start()
    for token in (7, 8, 60):
        for row, made in zip(rows, logits, strict=True):
            with torch.no_grad():
                alone = model(torch.tensor([row])).logits[0, -1].float()
            assert made.dtype == torch.float32
            assert torch.allclose(made, alone, atol=0.05 * float(alone.abs().max()))
        logits = decoder.step(torch.full((len(rows),), token))
        rows = [[*row, token] for row in rows]


def test_prompts_filled_up_to_a_round_number_of_tokens_are_the_same_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_causal(tiny_models.llama())
    drawn = [sampler().sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[-1])]
    monkeypatch.setattr(Parts, "padding", lambda parts, tokens: -tokens % 8)
    drawn.append(sampler().sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[-1]))
    assert drawn[0] == drawn[1]


def test_rows_that_have_ended_leave_and_never_come_back() -> None:
    """A decoder whose rows would go on after their end, if they were let."""

    class Script:
        sizes: list[int]

        def start(self):
            self.sizes, self.done = [], 0
            self.rows = torch.arange(8)
            return self.logits()

        def step(self, tokens):
            self.sizes.append(len(tokens))
            self.done += 1
            return self.logits()

        def select(self, rows):
            self.rows = self.rows[rows]

        def logits(self):
            # Row r ends (token 1) in step r, and draws its own number plus 2 otherwise, also afterwards.
            wanted = torch.where(self.rows == self.done, 1, self.rows + 2)
            return torch.nn.functional.one_hot(wanted, 10) * 1e4

    script = Script()
    drawn = _decode(script, torch.rand((8, 7), dtype=torch.float64), 1.0, [1])
    assert drawn == [Response([row + 2] * row + [1], True) for row in range(7)] + [Response([9] * 7, False)]
    assert script.sizes == [7, 6, 5, 4, 3, 2]


def test_weights_are_cast_once_for_a_sample_and_not_kept() -> None:
    model = set_forward(load_causal(tiny_models.llama()), Forward.auto, ModelLinearDtype.bfloat16)
    first = sampler(2).sample(model, PROMPTS, UNIFORMS, temperature=1.0, eos_ids=[-1])
    layers = [module for module in model.modules() if isinstance(module, BFloat16Linear)]
    assert layers
    assert all(layer._cached is None for layer in layers)
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(-1)
    assert sampler(2).sample(model, PROMPTS, UNIFORMS, temperature=1.0, eos_ids=[-1]) != first


def test_a_response_belongs_to_its_row_not_to_its_place() -> None:
    model = load_causal(tiny_models.llama())
    eos = an_end(model)
    drawn = sampler().sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[eos])
    order = [4, 0, 5, 2, 1, 3]
    moved = sampler(2).sample(model, [PROMPTS[i] for i in order], UNIFORMS[order], temperature=0.7, eos_ids=[eos])
    assert moved == [drawn[index] for index in order]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_whole_distribution_is_sampled(temperature: float) -> None:
    model = load_causal(tiny_models.llama())
    count = 4000
    # Evenly spaced uniforms meet every token as often as its probability says, give or take one.
    uniforms = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]
    drawn = sampler(1000).sample(model, [PROMPTS[0]] * count, uniforms, temperature=temperature, eos_ids=[-1])
    counts = torch.tensor([response.ids[0] for response in drawn]).bincount(minlength=model.config.vocab_size)
    with torch.no_grad():
        expected = (model(torch.tensor([PROMPTS[0]])).logits[0, -1].double() / temperature).softmax(-1)
    assert float((counts / count - expected).abs().max()) <= 1.01 / count
    assert int((counts > 0).sum()) > 20  # rare tokens, too (D20)


def test_the_end_is_part_of_the_response_and_nothing_follows_it() -> None:
    model = load_causal(tiny_models.llama())
    eos = an_end(model)
    for response in sampler().sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[eos]):
        assert response.ids.count(eos) == int(response.ended)
        assert (response.ids[-1] == eos) == response.ended
        assert response.ended or len(response.ids) == 12


def test_whichever_end_comes_first_ends_the_response() -> None:
    model = load_causal(tiny_models.llama())
    one = an_end(model)
    free = sampler().sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[one])
    other = next(ids[-2] for ids in (response.ids for response in free) if len(ids) > 3 and one not in ids[:-1])
    drawn = sampler(4).sample(model, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[one, other])
    for before, after in zip(free, drawn, strict=True):
        ends = [place for place, token in enumerate(before.ids) if token in (one, other)]
        assert after.ids == (before.ids[: ends[0] + 1] if ends else before.ids)
        assert after.ended == bool(ends)
    assert {response.ids[-1] for response in drawn if response.ended} == {one, other}


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_take_part(family: str) -> None:
    source = PretrainedSource(PretrainedConfig(path=str(FAMILIES[family]()), lora_rank=4), 0)
    plain = load_causal(FAMILIES[family]())
    adapted = source.adapt(load_causal(FAMILIES[family]()))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    drawn = sampler().sample(adapted, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[-1])
    assert drawn != sampler().sample(plain, PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[-1])
    assert drawn == sampler().sample(source.merge(adapted), PROMPTS, UNIFORMS, temperature=0.7, eos_ids=[-1])


def test_nothing_is_left_behind() -> None:
    model = load_causal(tiny_models.llama()).train()
    state = torch.random.get_rng_state()
    sampler().sample(model, PROMPTS, UNIFORMS, temperature=1.0, eos_ids=[1])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_too_few_uniforms_and_no_batch() -> None:
    model = load_causal(tiny_models.llama())
    with pytest.raises(ValueError, match="6 prompts but uniforms for 5"):
        sampler().sample(model, PROMPTS, UNIFORMS[:5], temperature=1.0, eos_ids=[1])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        LocalRolloutConfig(0)
