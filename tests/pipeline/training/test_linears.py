"""Linear layers that multiply in bfloat16: what they compute, what they are trained by, and where they stand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from alignpipe.errors import ModelError
from alignpipe.options import Forward, ModelLinearDtype
from alignpipe.training.batches import pad_rows, response_logprobs
from alignpipe.training.linears import (
    BFloat16Linear,
    bfloat16_weights_cached,
    linear_dtype_of,
    multiply_in_bfloat16,
    multiply_in_float32,
)
from alignpipe.training.models import load_causal, load_scorer
from alignpipe.training.packed.models import faster_in_bfloat16, packable, set_forward
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource
from support import tiny_models

BATCH = pad_rows([[5, 9, 20, 7], [11], [30, 31]], [[40, 41], [50, 51, 52, 53, 54], [60]], 0, "cpu")


def coarse(forward: Forward = Forward.auto):
    return set_forward(load_causal(tiny_models.llama()), forward, ModelLinearDtype.bfloat16)


def linear() -> BFloat16Linear:
    layer = nn.Linear(8, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
        layer.bias.copy_(torch.tensor([1.0, -2.0, 0.3]))
    layer.__class__ = BFloat16Linear
    return layer


def test_it_rounds_its_factors_and_gives_back_the_type_it_was_given() -> None:
    layer = linear()
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    exact = x.bfloat16().double() @ layer.weight.bfloat16().double().T + layer.bias.bfloat16().double()
    assert layer(x).dtype == torch.float32
    assert torch.allclose(layer(x).double(), exact, rtol=2**-8, atol=1e-2)
    assert torch.equal(layer(x.bfloat16()).float(), layer(x))
    assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_its_gradients_are_float32_and_near_those_of_the_exact_product() -> None:
    layer = linear()
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    layer(x).square().sum().backward()
    exact = nn.functional.linear(x, layer.weight, layer.bias)
    wanted = torch.autograd.grad(exact.square().sum(), [layer.weight, layer.bias])
    for parameter, grad in zip((layer.weight, layer.bias), wanted, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert float((parameter.grad - grad).norm() / grad.norm()) < 0.02


def test_all_linear_layers_but_the_head() -> None:
    model = coarse()
    kinds = {name.rsplit(".")[-1] for name, module in model.named_modules() if isinstance(module, BFloat16Linear)}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    scorer = set_forward(load_scorer(tiny_models.llama()), Forward.auto, ModelLinearDtype.bfloat16)
    assert type(scorer.score) is nn.Linear
    assert type(model.lm_head) is nn.Linear
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_what_a_model_multiplies_in() -> None:
    assert linear_dtype_of(load_causal(tiny_models.llama())) == torch.float32
    assert linear_dtype_of(load_causal(tiny_models.llama(), dtype="bfloat16")) == torch.bfloat16
    assert linear_dtype_of(coarse()) == torch.bfloat16


def test_both_forwards_round_alike_and_near_the_exact_result() -> None:
    exact = load_causal(tiny_models.llama())
    assert packable(coarse(), 9) is not None
    assert packable(coarse(Forward.general), 9) is None
    logp = [response_logprobs(model, BATCH)[0].detach() for model in (exact, coarse(), coarse(Forward.general))]
    assert not torch.equal(logp[0], logp[1])
    assert float((logp[0] - logp[1]).abs().max()) < 0.2
    assert float((logp[2] - logp[1]).abs().max()) < 0.2


def test_a_step_is_seen_at_once() -> None:
    model = coarse()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(4):
        loss = -response_logprobs(model, BATCH)[0].sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]


def test_held_weights_are_let_go() -> None:
    layer = linear()
    x = torch.ones(1, 8)
    before = layer(x)
    with torch.no_grad(), bfloat16_weights_cached(layer):
        layer.weight.zero_()
        assert torch.equal(layer(x), before)  # why nobody may change them inside
    assert not torch.equal(layer(x), before)
    with pytest.raises(ZeroDivisionError), bfloat16_weights_cached(layer):
        raise ZeroDivisionError
    layer.weight.data.fill_(1.0)
    assert layer(x).tolist() == [[9.0, 6.0, pytest.approx(8.3, abs=0.1)]]


def test_adapters_stand_on_them_and_are_folded_in(tmp_path) -> None:
    source = PretrainedSource(
        PretrainedConfig(path=str(tiny_models.llama()), lora_rank=4, linear_dtype=ModelLinearDtype.bfloat16), 0
    )
    adapted = source.adapt(source.load(tiny_models.llama()))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    logp, _ = response_logprobs(adapted, BATCH)
    logp.sum().backward()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in trained)
    merged = source.merge(adapted)
    assert float((response_logprobs(merged, BATCH)[0] - logp).detach().abs().max()) < 0.2
    merged.save_pretrained(tmp_path)
    assert torch.equal(load_causal(tmp_path).lm_head.weight, merged.lm_head.weight)


def test_models_without_such_layers_are_refused() -> None:
    with pytest.raises(ModelError, match="GPT2LMHeadModel has no layers of the kind torch calls Linear"):
        multiply_in_bfloat16(load_causal(tiny_models.gpt2()))
    with pytest.raises(ModelError, match=r"is for float32 weights; LlamaForCausalLM has torch\.bfloat16"):
        multiply_in_bfloat16(load_causal(tiny_models.llama(), dtype="bfloat16"))


def test_it_can_be_undone() -> None:
    model, plain = coarse(), load_causal(tiny_models.llama())
    multiply_in_float32(model, "x")
    assert linear_dtype_of(model) == torch.float32
    assert torch.equal(response_logprobs(model, BATCH)[0], response_logprobs(plain, BATCH)[0])
    with pytest.raises(ModelError, match=r"ppo_2\.linear_dtype=float32 is for float32 weights"):
        multiply_in_float32(load_causal(tiny_models.llama(), dtype="bfloat16"), "ppo_2.linear_dtype")


def wide(hidden_size: int) -> LlamaForCausalLM:
    """One layer of this hidden size."""
    sizes = {"hidden_size": hidden_size, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))


@pytest.mark.parametrize(
    ("avx512", "amx", "device", "open_model", "gains"),
    [
        (True, False, "cpu", lambda: load_causal(tiny_models.llama()), True),
        (True, False, "cpu", coarse, True),
        (False, True, "cpu", lambda: wide(256), True),
        (True, True, "cpu", lambda: wide(256), True),
        (True, True, "cpu", lambda: wide(192), False),
        (True, False, "cpu", lambda: wide(192), True),
        (False, False, "cpu", lambda: wide(256), False),
        (True, True, "cuda", lambda: wide(256), False),
        (True, False, "cpu", lambda: load_causal(tiny_models.gpt2()), False),
        (True, False, "cpu", lambda: load_causal(tiny_models.llama(), dtype="bfloat16"), False),
        (True, False, "cpu", lambda: coarse(Forward.general), False),
    ],
)
def test_where_it_pays(
    avx512: bool, amx: bool, device: str, open_model, gains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert faster_in_bfloat16(open_model(), device) is gains


def test_where_torch_has_no_word_for_it_nothing_is_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert not faster_in_bfloat16(load_causal(tiny_models.llama()), "cpu")
