"""The steps with a backward pass of their own: PyTorch's gradients of the plain formulas, and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from alignpipe.training.packed.functions import norm, rotate, to_grid
from alignpipe.training.packed.layout import GridIndex, Layout, SharedPrefixes


def drawn(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()


def rms_norm(kind: type, size: int) -> torch.nn.Module:
    made = kind(size, eps=0.3).double()
    with torch.no_grad():
        made.weight.copy_(drawn(size, seed=1))
    return made


@pytest.mark.parametrize(("kind", "shape"), [(LlamaRMSNorm, (5, 6)), (Qwen3RMSNorm, (3, 2, 6))])
def test_the_norm_and_its_gradients(kind: type, shape: tuple[int, ...]) -> None:
    module, x = rms_norm(kind, 6), drawn(*shape)
    plain = module.weight * x / (x.square().mean(-1, keepdim=True) + 0.3).sqrt()
    assert torch.allclose(norm(module, x), plain, atol=1e-12)
    weights = drawn(*shape, seed=2).detach()
    mine, theirs = (
        torch.autograd.grad((made * weights).sum(), [x, module.weight]) for made in (norm(module, x), plain)
    )
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    assert torch.autograd.gradcheck(lambda given: norm(module, given), (x,))
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(norm(module, x).sum(), x, create_graph=True)


def test_the_norm_in_inference_mode_and_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x, calls, one_call = rms_norm(LlamaRMSNorm, 6), drawn(5, 6), [], functional.rms_norm
    made = norm(module, x)
    monkeypatch.setattr(functional, "rms_norm", lambda *given: calls.append(given) or one_call(*given))
    with torch.no_grad():
        assert torch.equal(norm(module, x), made)  # to the bit (D64)
    assert not calls
    with torch.inference_mode():
        assert torch.allclose(norm(module, x), made, atol=1e-12)
    assert len(calls) == 1


def test_a_norm_that_is_not_trained_gets_no_gradient() -> None:
    module, x = rms_norm(LlamaRMSNorm, 6).requires_grad_(False), drawn(5, 6)
    norm(module, x).sum().backward()
    assert module.weight.grad is None
    assert float(x.grad.abs().max()) > 0


@pytest.mark.parametrize("case", ["half precision", "mixed", "a hook", "another norm"])
def test_other_norms_are_left_to_themselves(case: str) -> None:
    module = torch.nn.LayerNorm(6) if case == "another norm" else LlamaRMSNorm(6)
    x = drawn(5, 6).detach().float()
    if case == "half precision":
        module, x = module.bfloat16(), x.bfloat16()
    elif case == "mixed":
        module = module.bfloat16()
    elif case == "a hook":
        module.register_forward_hook(lambda *_: torch.full((5, 6), 7.0))
    assert torch.equal(norm(module, x), module(x))
    if case != "a hook":
        norm(module, x.requires_grad_()).sum().backward()
    if case == "a hook":
        assert float(norm(module, x).min()) == 7.0


def test_rotation_and_its_gradient() -> None:
    x, angle = drawn(3, 2, 4), drawn(3, 2, seed=1).detach()
    cos, sin = (torch.cat((part, part), -1) for part in (angle.cos(), angle.sin()))
    low, high = sin.chunk(2, -1)
    angles = torch.stack((cos, torch.cat((-low, high), -1))).unsqueeze(2)
    first, second = x.detach().chunk(2, -1)
    near, far = angle.cos()[:, None], angle.sin()[:, None]
    by_hand = torch.cat((first * near - second * far, second * near + first * far), -1)
    made = rotate(x, angles)
    assert torch.allclose(made, by_hand, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(rotate(x, angles), made)
    assert torch.autograd.gradcheck(lambda given: rotate(given, angles), (x,))


def test_tokens_are_put_into_their_cells() -> None:
    """Token 1 is shared by the cells 0 and 2; the cells 1 and 5 are padding."""
    packed, weights = drawn(3, 2, 2), drawn(6, 2, 2, seed=1).detach()
    index = GridIndex(torch.tensor([4, 0, 3]), torch.tensor([1, 0, 1, 2, 0, 0]), torch.tensor([2]), torch.tensor([1]))
    grid = to_grid(packed, index, None, torch.float64)
    assert torch.equal(grid[[4, 0, 3, 2]], packed[[0, 1, 2, 1]])
    weights[[1, 5]] = 0  # what nobody looks at
    assert torch.autograd.gradcheck(lambda given: to_grid(given, index, None, torch.float64) * weights, (packed,))


def test_the_layout_of_the_example_in_its_module() -> None:
    """Rows `a b c` and `a d e f`, whose first token is computed once; wanted are the last tokens."""
    prefixes = SharedPrefixes(torch.tensor([0, 0]), torch.tensor([1, 1]))
    layout = Layout.of(torch.tensor([3, 4]), torch.tensor([2, 3]), lambda tokens: 0, prefixes)
    assert layout.grid.cells.tolist() == [0, 1, 2, 5, 6, 7]
    assert layout.grid.tokens.tolist() == [0, 1, 2, 0, 0, 3, 4, 5]
    assert (layout.grid.shared_cells.tolist(), layout.grid.shared_tokens.tolist()) == ([4], [0])
    assert (layout.queries.tolist(), layout.wanted) == ([2, 5], 2)
    assert layout.query_grid.cells.tolist() == [2, 7]
