"""The compiled kernels: torch's operations in float64 as their oracle, and what happens where they cannot be had."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from alignpipe.config.model import Kernels, RunSettings
from alignpipe.runner.devices import prepare_device
from alignpipe.training.batches import pad_rows, response_logprobs
from alignpipe.training.linears import multiply_in_bfloat16
from alignpipe.training.packed import compiled, compiled_functions
from alignpipe.training.packed.compiled_functions import Where
from alignpipe.training.packed.functions import from_grid, norm, to_grid
from alignpipe.training.packed.layout import GridIndex, Layout, SharedPrefixes
from alignpipe.training.parallel import join
from support.context import FakeContext

TYPES = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
"""Types of linear layers, and how far a value of about 1 may be off."""
both_types = pytest.mark.parametrize("dtype", TYPES, ids=["float32", "bfloat16"])
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler here"
)


@pytest.fixture
def begun_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As in a new process, with an empty cache in the folder that is returned."""
    for name, value in {"wanted": True, "kernels": None, "why_not": None}.items():
        monkeypatch.setattr(compiled._State, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alignpipe"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random).to(dtype).requires_grad_()


def check(mine: Tensor, plain: Tensor, inputs: list[Tensor], wide: list[Tensor], far: float) -> None:
    """Values and gradients of `mine`, made of `inputs`, are those of `plain`, made of `wide` in float64."""
    weights = drawn(*mine.shape, seed=9).detach().to(mine.dtype)
    ours = torch.autograd.grad((mine * weights).sum(), inputs, retain_graph=True)
    theirs = torch.autograd.grad((plain * weights.double()).sum(), wide)
    for one, other in zip((mine, *ours), (plain, *theirs), strict=True):
        assert one.dtype in TYPES
        assert float((one - other).detach().abs().max()) <= far * max(1.0, float(other.detach().abs().max()))
    with pytest.raises(RuntimeError, match="create_graph=True"):  # and not a wrong gradient of the gradient
        torch.autograd.grad((mine * weights).sum(), inputs, create_graph=True)


def widened(*tensors: Tensor) -> list[Tensor]:
    return [each.detach().double().requires_grad_() for each in tensors]


@needs_compiler
@both_types
@pytest.mark.parametrize("shape", [(7, 33), (5, 2, 16)])
def test_the_norm(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    module, x = LlamaRMSNorm(shape[-1], eps=0.3), drawn(*shape)
    with torch.no_grad():
        module.weight.copy_(drawn(shape[-1], seed=1))
    wide, weight = widened(x, module.weight)
    made = norm(module, x, dtype)

    assert type(made.grad_fn).__name__ == "_RMSNormBackward"
    plain = wide / (wide.square().mean(-1, keepdim=True) + 0.3).sqrt() * weight
    check(made, plain, [x, module.weight], [wide, weight], TYPES[dtype])
    with torch.no_grad():
        assert torch.equal(norm(module, x, dtype), made)  # to the bit (D64)
        assert torch.equal(norm(module, x[:2], dtype), made[:2])  # whatever the other rows


@needs_compiler
@both_types
@pytest.mark.parametrize("turned", [True, False])
def test_tokens_into_the_grid_and_out(dtype: torch.dtype, turned: bool) -> None:
    """Token 1 is shared by the cells 0 and 2; the cells 1 and 5 are padding, which nobody looks at."""
    index = GridIndex(torch.tensor([4, 0, 3]), torch.tensor([1, 0, 1, 2, 0, 0]), torch.tensor([2]), torch.tensor([1]))
    x, angles = drawn(3, 2, 8, dtype=dtype), drawn(2, 3, 1, 8, seed=1).detach()
    (wide,) = widened(x)
    cos, sin = angles.double()
    rotated = wide * cos + wide.roll(4, -1) * sin if turned else wide
    seen = torch.tensor([4, 0, 3, 2])
    grid = to_grid(x, index, angles if turned else None, torch.float32)

    assert type(grid.grad_fn).__name__ == "_PlaceBackward"
    check(grid[seen], rotated[[0, 1, 2, 1]], [x], [wide], TYPES[dtype])

    grid = drawn(6, 2, 8)
    (wide,) = widened(grid)
    made = from_grid(grid, index.cells, dtype)
    assert type(made.grad_fn).__name__ == "_TakeBackward"
    check(made, wide[index.cells].flatten(1), [grid], [wide], TYPES[dtype])


def turned(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = angles.double()
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def angles_of(x: Tensor) -> Tensor:
    """Cosines and signed sines [2, n, 1, 2 * m] of [n, m]."""
    cos, sin = x.cos(), x.sin()
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))).unsqueeze(2)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, where: Where, angles: compiled_functions.Angles) -> Tensor:
    """Query by query and head by head, in float64."""
    q, k = turned(q, angles[0]), turned(k, angles[1])
    group, made = q.shape[1] // k.shape[1], []
    for query, cell in zip(q, where.cells.tolist(), strict=True):
        seen = where.tokens[cell - cell % where.width : cell + 1]
        for head, values in enumerate(query):
            weights = (k[seen, head // group] @ values * SCALE).softmax(0)
            made.append(weights @ v[seen, head // group])
    return torch.stack(made).view(len(q), -1)


SCALE = 0.4
LENGTHS = [3, 20, 1, 17]
PREFIXES = SharedPrefixes(torch.tensor([0, 1, 2, 1]), torch.tensor([3, 20, 1, 9]))


@needs_compiler
@both_types
@pytest.mark.parametrize("prefixes", [None, PREFIXES], ids=["own rows", "shared prefixes"])
@pytest.mark.parametrize("last", [False, True], ids=["all queries", "wanted queries"])
@pytest.mark.parametrize(("heads", "key_heads", "d"), [(2, 2, 8), (4, 2, 32), (3, 1, 18)])
def test_attention(
    dtype: torch.dtype, prefixes: SharedPrefixes | None, last: bool, heads: int, key_heads: int, d: int
) -> None:
    first = torch.tensor([1, 9, 0, 15])
    layout = Layout.of(torch.tensor(LENGTHS), first, lambda tokens: -tokens % 8, prefixes)
    n, index = len(layout.grid.cells), layout.query_grid if last else layout.grid
    where = Where(index.cells, layout.grid.tokens, layout.width)
    q = drawn(len(where.cells), heads, d, dtype=dtype)
    k, v = (drawn(n, key_heads, d, dtype=dtype, seed=seed) for seed in (1, 2))
    of_keys = angles_of(drawn(n, d // 2, seed=3).detach())
    angles = (of_keys[:, layout.queries].contiguous() if last else of_keys, of_keys)
    made = compiled_functions.attention(q, k, v, where, angles, SCALE)

    wide = widened(q, k, v)
    check(made, plain_attention(wide[0], wide[1], wide[2], where, angles), [q, k, v], wide, 2 * TYPES[dtype])
    with torch.no_grad():
        assert torch.equal(compiled_functions.attention(q, k, v, where, angles, SCALE), made)  # to the bit (D64)
        for some in (slice(0, 3), slice(2, 9), slice(5, None)):  # whatever the other queries
            fewer = Where(where.cells[some], where.tokens, where.width)
            of_some = (angles[0][:, some].contiguous(), angles[1])
            assert torch.equal(compiled_functions.attention(q[some], k, v, fewer, of_some, SCALE), made[some])


@needs_compiler
def test_attention_to_one_of_many_and_to_numbers_that_are_none() -> None:
    """Scores in the thousands; and what comes later in a row, or in another row, is not seen even if it is infinite."""
    layout = Layout.of(torch.tensor([3, 2]), torch.tensor([0, 0]), lambda _: 0)
    where = Where(layout.grid.cells, layout.grid.tokens, layout.width)
    still = torch.stack((torch.ones(5, 1, 2), torch.zeros(5, 1, 2)))
    q, v = torch.full((5, 1, 2), 100.0), torch.arange(10.0).view(5, 1, 2)
    k = torch.tensor([50.0, -50.0, 40.0, -50.0, 50.0]).view(5, 1, 1).expand(5, 1, 2).contiguous()
    made = compiled_functions.attention(q, k, v, where, (still, still), 1.0)
    assert torch.equal(made, v.flatten(1)[[0, 0, 0, 3, 4]])

    k[4] = math.inf
    broken = compiled_functions.attention(q, k, v, where, (still, still), 1.0)
    assert torch.equal(broken[:4], made[:4])
    assert not broken[4].isfinite().any()


def test_where_attention_has_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_functions, "kernels", dict)
    queries = torch.zeros(3, 2, 4)
    assert [compiled_functions.compiled_attention(queries, width) for width in (1, 512, 513)] == [True, True, False]
    assert not compiled_functions.compiled_attention(queries.double(), 8)
    torch.set_num_threads(2)
    assert [compiled_functions.compiled_attention(queries, width) for width in (256, 257)] == [True, False]


@needs_compiler
@both_types
def test_swiglu(dtype: torch.dtype) -> None:
    gate, up = drawn(9, 37, dtype=dtype), drawn(9, 37, dtype=dtype, seed=1)
    wide = widened(gate, up)
    made = compiled_functions.swiglu(gate, up)

    check(made, functional.silu(wide[0]) * wide[1], [gate, up], wide, TYPES[dtype])


@needs_compiler
@both_types
@pytest.mark.parametrize(
    ("config", "head_norms"), [(LlamaConfig, 0), (MistralConfig, 0), (Qwen2Config, 0), (Qwen3Config, 2)]
)
def test_models_of_every_family_run_on_all_kernels(
    config: type[PreTrainedConfig], head_norms: int, dtype: torch.dtype
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2}
    layers = 2
    chosen = config(vocab_size=9, num_hidden_layers=layers, head_dim=8, use_sliding_window=False, **sizes)
    model = AutoModelForCausalLM.from_config(chosen)
    if dtype is torch.bfloat16:
        multiply_in_bfloat16(model)
    made, _ = response_logprobs(model, pad_rows([[1, 2], [3]], [[4], [5, 6]], 0, "cpu"))

    assert made_by(made) == {
        "_RMSNormBackward": (2 + head_norms) * layers + 1,
        "_AttentionBackward": layers,
        "_SwiGLUBackward": layers,
    }


def made_by(made: Tensor) -> Counter[str]:
    """How often the compiled functions are part of what `made` came from."""
    nodes, waiting = set(), [made.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting.extend(before for before, _ in node.next_functions)
    kinds = (type(node) for node in nodes)
    return Counter(
        kind.__name__
        for kind in kinds
        if getattr(kind, "_forward_cls", Tensor).__module__ == compiled_functions.__name__
    )


@needs_compiler
def test_extreme_numbers_are_as_torch_has_them() -> None:
    gate = torch.tensor([-1e30, -200.0, -88.0, 0.0, 88.0, 1e30, math.inf, math.nan, 20.0, -20.0])
    made = compiled_functions.swiglu(gate, torch.ones_like(gate))

    plain = functional.silu(gate)
    assert torch.allclose(made, plain, rtol=1e-6, atol=1e-8, equal_nan=True)
    assert math.isnan(made[7])


@needs_compiler
def test_what_was_compiled_is_kept_for_the_next_process(begun_anew: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.kernels() is not None
    (library,) = begun_anew.iterdir()
    made = library.stat().st_mtime_ns
    monkeypatch.setattr(compiled._State, "kernels", None)

    assert compiled.kernels() is not None
    assert library.stat().st_mtime_ns == made
    assert list(begun_anew.iterdir()) == [library]


@needs_compiler
def test_without_a_folder_to_keep_it_in(begun_anew: Path) -> None:
    begun_anew.parent.mkdir()
    begun_anew.write_text("no folder")

    assert compiled.kernels() is not None
    assert compiled.why_no_kernels() is None


@pytest.mark.parametrize(
    ("compiler", "told"),
    [
        ("no-such-compiler", "there is no C compiler (no-such-compiler)"),
        ("false", "false failed"),
        ("cc '", "CC=cc ' cannot be read: No closing quotation"),
    ],
)
def test_without_a_compiler(
    begun_anew: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, told: str
) -> None:
    monkeypatch.setenv("CC", compiler)

    assert compiled.kernels() is None
    assert told in str(compiled.why_no_kernels())
    ctx = FakeContext(tmp_path)
    join(ctx)
    assert any(told in line for line in ctx.said)  # a training says so
    assert not compiled_functions.compiled(torch.zeros(3))
    assert not begun_anew.exists() or not list(begun_anew.iterdir())


def test_where_they_are_not_wanted(begun_anew: Path) -> None:
    prepare_device(RunSettings(device="cpu", kernels=Kernels.torch))

    assert compiled.kernels() is None
    assert compiled.why_no_kernels() is None
    assert not begun_anew.exists()
