"""The packed forward against the general one: the same numbers and gradients, and only where that is sure."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from alignpipe.ops import vocabulary
from alignpipe.options import Forward, ModelLinearDtype
from alignpipe.training.batches import last_token_scores, pad_rows, response_logprobs, state_values
from alignpipe.training.models import TokenScorer, load_causal, new_score_head
from alignpipe.training.packed import forward
from alignpipe.training.packed.models import Parts, packable, set_forward
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource
from support import tiny_models

SIZES = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama-tied": LlamaConfig(**{**SIZES, "tie_word_embeddings": True, "num_key_value_heads": 4}),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, head_dim=12),
    "llama-3": LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "mistral": MistralConfig(**SIZES, sliding_window=20),
}
PROMPTS = [[5, 9, 20, 7], [11], [30, 31], [8, 8, 8, 8, 8, 8]]
RESPONSES = [[40, 41], [50, 51, 52, 53, 54], [60], [70, 71, 1]]
BATCH = pad_rows(PROMPTS, RESPONSES, 0, "cpu")
WEIGHTS = torch.randn(BATCH.response_mask.shape, generator=torch.Generator().manual_seed(0))


def made(config, auto=AutoModelForCausalLM):
    """A model with random weights, also where they begin as zeros and ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = auto.from_config(deepcopy(config))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.train()


def general(model: nn.Module) -> nn.Module:
    """A copy that takes the model's own forward; compared with in float64, where its own rounding does not count."""
    copy = deepcopy(model)
    set_forward(copy.get_base_model() if hasattr(copy, "get_base_model") else copy, Forward.general, None)
    return copy


def scorer(config) -> TokenScorer:
    config = deepcopy(config)
    config.num_labels = 1
    model = made(config, AutoModelForSequenceClassification)
    new_score_head(model, torch.Generator().manual_seed(3))
    return TokenScorer(model)


def gradient(module: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """All gradients in one row, in the order of the parameters; they are cleared."""
    loss.backward()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    row = torch.cat([parameter.grad.flatten().double() for parameter in trained])
    module.zero_grad(set_to_none=True)
    return row


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an entry for every batch whose logits are computed block by block."""
    calls: list[int] = []

    def linear(*words, **options):
        calls.append(1)
        return vocabulary.linear_logprobs(*words, **options)

    monkeypatch.setattr(forward, "linear_logprobs", linear)
    return calls


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def check_gradients(grads: list[torch.Tensor]) -> None:
    """Gradients of ours and of the model's own forward in float64, then ours in float64, then its own in float32.

    In float64 both are the same to 1e-6. Float32 rounds by about as much, by how much depends on the processor and on
    the weights: over six sets of them ours was off by 0.7 to 1.7 times as much as the model's own.
    """
    ours, exact, ours_exact, own = grads
    assert relative(ours_exact, exact) < 1e-6
    assert relative(ours, exact) < 2 * relative(own, exact)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_log_probabilities_and_gradients_are_those_of_the_models_own_forward(
    family: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_LARGE", 0 if large else 1 << 23)
    monkeypatch.setattr(vocabulary, "_BLOCK", 0)
    monkeypatch.setattr(vocabulary, "_NARROWEST", 40)
    calls = watched(monkeypatch)
    ours = made(CONFIGS[family])
    theirs = general(ours).double()
    assert packable(ours, 9) is not None
    assert packable(theirs, 9) is None
    models = (ours, theirs, deepcopy(ours).double(), general(ours))
    results = [response_logprobs(model, BATCH, 0.8, with_entropy=True) for model in models]
    for mine, general_one in zip(*results[:2], strict=True):
        assert torch.allclose(mine.double(), general_one, atol=1e-5)
    assert len(calls) == 2 * large
    check_gradients([gradient(model, (logp * WEIGHTS).sum()) for model, (logp, _) in zip(models, results, strict=True)])


@pytest.mark.parametrize("family", CONFIGS)
def test_values_and_scores_and_their_gradients_are_those_of_the_models_own_forward(family: str) -> None:
    ours = scorer(CONFIGS[family])
    theirs = TokenScorer(general(ours.model).double())
    for read, weights in ((state_values, WEIGHTS), (last_token_scores, WEIGHTS[:, 0])):
        models = (ours, theirs, deepcopy(ours).double(), TokenScorer(general(ours.model)))
        results = [read(model, BATCH) for model in models]
        assert torch.allclose(results[0].double(), results[1], atol=1e-5)
        check_gradients(
            [gradient(model, (read_ * weights).sum()) for model, read_ in zip(models, results, strict=True)]
        )


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_adapters_are_trained_alike(family: str, tmp_path) -> None:
    made(CONFIGS[family]).save_pretrained(tmp_path)
    source = PretrainedSource(PretrainedConfig(path=str(tmp_path), lora_rank=3), 0)
    ours = source.adapt(source.load(tmp_path))
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    theirs = general(ours).double()
    assert packable(ours, 9) is not None
    assert packable(theirs, 9) is None
    both = (ours.double(), theirs)  # small random adapters: float32 would round by more than what is looked for
    grads = [gradient(model, (response_logprobs(model, BATCH)[0] * WEIGHTS).sum()) for model in both]
    assert relative(*grads) < 1e-6


def test_the_same_bits_every_time_and_whatever_fills_the_rows() -> None:
    model = made(CONFIGS["llama"])
    batches = [BATCH, BATCH, pad_rows(PROMPTS, RESPONSES, 33, "cpu")]
    results = [response_logprobs(model, batch)[0] for batch in batches]
    grads = [gradient(model, (logp * WEIGHTS).sum()) for logp in results]
    assert all(torch.equal(result, results[0]) for result in results)
    assert all(torch.equal(grad, grads[0]) for grad in grads)


def test_the_head_sees_response_places_only() -> None:
    model = made(CONFIGS["llama"])
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _module, given, _made: seen.append(len(given[0])))
    model.model.layers[-1].mlp.register_forward_hook(lambda _module, given, _made: seen.append(len(given[0])))
    model.model.layers[0].mlp.register_forward_hook(lambda _module, given, _made: seen.append(len(given[0])))
    response_logprobs(model, BATCH)
    responses, tokens = sum(map(len, RESPONSES)), sum(map(len, PROMPTS + RESPONSES))
    assert seen == [tokens - len(RESPONSES), responses, responses]  # the last tokens predict nothing


def test_a_head_with_a_hook_is_called_also_for_a_large_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_LARGE", 0)
    model = made(CONFIGS["llama"])
    plain = response_logprobs(model, BATCH, 0.5)[0]
    model.lm_head.register_forward_hook(lambda _module, _given, made: made * 2)
    calls = watched(monkeypatch)
    hooked = response_logprobs(model, BATCH, 1.0)[0]
    assert not calls
    assert torch.allclose(hooked, plain, atol=1e-5)
    assert not torch.allclose(hooked, torch.zeros(()), atol=0.1)


def no_padding(parts: Parts, tokens: int) -> int:
    return 0


def to_a_multiple_of_8(parts: Parts, tokens: int) -> int:
    return -tokens % 8


def test_numbers_of_tokens_rounded_up_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 tokens become 24 by pads, the 11 asked for 16 by prompt tokens; the other batch has no pads to give."""
    even = pad_rows([[5, 9], [11, 7], [30, 31]], [[40, 41], [50, 51], [60, 61]], 0, "cpu")
    model, critic = made(CONFIGS["qwen3"]), scorer(CONFIGS["llama"])
    seen: list[int] = []
    for layer in (model.model.layers[0], model.model.layers[-1]):
        layer.mlp.register_forward_hook(lambda _module, given, _made: seen.append(len(given[0])))
    results = []
    for padding in (no_padding, to_a_multiple_of_8):
        monkeypatch.setattr(Parts, "padding", padding)
        for batch in (BATCH, even):
            logp, values, scores = (
                response_logprobs(model, batch)[0],
                state_values(critic, batch),
                last_token_scores(critic, batch),
            )
            weights = WEIGHTS[: len(logp), : logp.shape[1]]
            grads = [gradient(model, (logp * weights).sum()), gradient(critic, (values * weights).sum() + scores.sum())]
            results.append([logp.detach(), values.detach(), scores.detach(), *grads])
    assert seen == [20, 11, 9, 6, 24, 16, 9, 8]
    for plain, rounded in zip(results[:2], results[2:], strict=True):
        assert all(relative(ours, theirs) < 1e-6 for ours, theirs in zip(rounded, plain, strict=True))


TWICE = [[5, 9, 20, 7], [11], [5, 9, 20, 7], [30, 31], [11], [5, 9, 20, 7]]
ANSWERS = [[40, 41], [50, 51, 52, 53], [42, 1], [60], [54], [40, 43, 44, 45, 46, 1]]


@pytest.mark.parametrize("padding", [no_padding, to_a_multiple_of_8])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_prompt_that_comes_several_times_is_read_once(family: str, padding, monkeypatch) -> None:
    monkeypatch.setattr(Parts, "padding", padding)
    batch = pad_rows(TWICE, ANSWERS, 0, "cpu")
    weights = torch.randn(batch.response_mask.shape, generator=torch.Generator().manual_seed(0)).double()
    model, critic = made(CONFIGS[family]).double(), scorer(CONFIGS[family]).double()
    others = general(model), TokenScorer(general(critic.model))
    seen: list[int] = []
    for network in (model, critic.model):
        network.model.layers[0].mlp.register_forward_hook(lambda _module, given, _made: seen.append(len(given[0])))
    reads = (
        (lambda network: response_logprobs(network, batch)[0], (model, others[0])),
        (lambda network: state_values(network, batch), (critic, others[1])),
        (lambda network: last_token_scores(network, batch), (critic, others[1])),
    )
    for read, networks in reads:
        results = [read(network) for network in networks]
        assert torch.allclose(*results, atol=1e-6)
        factors = weights if results[0].dim() == 2 else weights[:, 0]
        grads = [gradient(n, (result * factors).sum()) for n, result in zip(networks, results, strict=True)]
        assert relative(*grads) < 1e-6
    # 16 response tokens, of which 6 predict nothing, and 7 of the prompts'. What the first token of a response is
    # predicted by, the last of its prompt, is asked of each row.
    assert seen == ([16 - 6 + 7 + 3] * 2 + [16 + 7] if padding is no_padding else [24, 24, 24])


def test_products_in_bfloat16_are_made_for_few_lengths() -> None:
    model = made(CONFIGS["llama"])
    assert packable(model, 9).padding(289) == 0
    padding = packable(set_forward(model, Forward.auto, ModelLinearDtype.bfloat16), 9).padding
    rounded = {tokens: tokens + padding(tokens) for tokens in range(1, 5000)}
    assert [rounded[tokens] for tokens in (1, 8, 250, 289, 304, 513, 1024, 4001)] == [
        8,
        8,
        256,
        304,
        304,
        544,
        1024,
        4032,
    ]
    assert max(made / tokens for tokens, made in rounded.items() if tokens >= 128) < 17 / 16
    assert len(set(rounded.values())) < 5000 / 35


def with_config(**changes):
    config = deepcopy(CONFIGS["llama"])
    for name, value in changes.items():
        setattr(config, name, value)
    return made(config)


def checkpointed():
    model = made(CONFIGS["llama"])
    model.gradient_checkpointing_enable()
    return model


def hooked(pick):
    model = made(CONFIGS["llama"])
    pick(model).register_forward_pre_hook(lambda _module, _given: None)
    return model


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
REFUSED = {
    "another family": lambda: load_causal(tiny_models.gpt2()),
    "attention": lambda: with_config(_attn_implementation="eager"),
    "angles that move": lambda: with_config(rope_parameters=DYNAMIC),
    "dropout": lambda: with_config(attention_dropout=0.1),
    "checkpointing": checkpointed,
    "a hook on the model": lambda: hooked(lambda model: model),
    "a hook on a layer": lambda: hooked(lambda model: model.model.layers[1]),
    "a hook on attention": lambda: hooked(lambda model: model.model.layers[1].self_attn),
    "a subclass": lambda: type("OtherForCausalLM", (type(made(CONFIGS["llama"])),), {})(CONFIGS["llama"]),
    "not wanted": lambda: set_forward(made(CONFIGS["llama"]), Forward.general, None),
}


@pytest.mark.parametrize("why", REFUSED)
def test_where_it_is_not_sure_the_models_own_forward_is_taken(why: str) -> None:
    assert packable(made(CONFIGS["llama"]), 9) is not None
    assert packable(REFUSED[why](), 9) is None


def test_a_sliding_window_that_bites_is_left_to_the_models_own_forward() -> None:
    model = made(CONFIGS["mistral"])
    assert packable(model, 20) is not None
    assert packable(model, 21) is None
    assert (
        packable(made(Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)), 9) is None
    )
    # Longer rows are computed all the same.
    long = pad_rows([[7] * 30], [[5, 6]], 0, "cpu")
    assert torch.allclose(response_logprobs(model, long)[0], response_logprobs(general(model), long)[0], atol=1e-6)


def test_half_precision_weights() -> None:
    ours = made(CONFIGS["qwen3"]).to(torch.bfloat16)
    logp, _ = response_logprobs(ours, BATCH)
    assert logp.dtype == torch.float32
    assert torch.allclose(logp, response_logprobs(general(ours), BATCH)[0], atol=0.1)
