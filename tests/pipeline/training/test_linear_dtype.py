"""A stage's `linear_dtype`: what each value makes of a model, alike in all processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from alignpipe.errors import ModelError
from alignpipe.options import LinearDtype, ModelLinearDtype
from alignpipe.training.linear_dtype import apply_linear_dtype
from alignpipe.training.linears import linear_dtype_of
from alignpipe.training.models import load_causal
from alignpipe.training.parallel import ALONE, Team
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource
from support import tiny_models
from support.context import FakeContext


def model(linear_dtype: ModelLinearDtype | None = None) -> PreTrainedModel:
    folder = str(tiny_models.llama())
    return PretrainedSource(PretrainedConfig(path=folder, linear_dtype=linear_dtype), 0).base(None, 0)


def processor(monkeypatch: pytest.MonkeyPatch, *, able: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.mark.parametrize(
    ("wanted", "of_the_model", "able", "dtype"),
    [
        ("model", None, True, torch.float32),
        ("model", ModelLinearDtype.bfloat16, False, torch.bfloat16),
        ("float32", ModelLinearDtype.bfloat16, True, torch.float32),
        ("bfloat16", None, False, torch.bfloat16),
        ("auto", None, True, torch.bfloat16),
        ("auto", None, False, torch.float32),
        ("auto", ModelLinearDtype.bfloat16, False, torch.bfloat16),
    ],
)
def test_what_each_value_chooses(
    wanted: str,
    of_the_model: ModelLinearDtype | None,
    able: bool,
    dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor(monkeypatch, able=able)
    ctx, chosen = FakeContext(tmp_path, stage="sft_2"), model(of_the_model)
    apply_linear_dtype(chosen, LinearDtype(wanted), ctx, ALONE)
    assert linear_dtype_of(chosen) == dtype
    assert ctx.said == ([f"linear layers multiply in {str(dtype)[6:]}"] if wanted == "auto" else [])
    quiet = FakeContext(tmp_path / "quiet", stage="sft_2")
    apply_linear_dtype(model(of_the_model), LinearDtype(wanted), quiet, ALONE, tell=False)
    assert quiet.said == []


def test_processes_on_unlike_machines_multiply_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, able=True)
    monkeypatch.setattr(Team, "any", lambda self, flag: True)  # another process that would not gain
    chosen = model()
    apply_linear_dtype(chosen, LinearDtype.auto, FakeContext(tmp_path, stage="sft"), ALONE)
    assert linear_dtype_of(chosen) == torch.float32


@pytest.mark.parametrize(
    ("wanted", "other", "message"),
    [
        (LinearDtype.bfloat16, {"name": tiny_models.gpt2()}, r"^sft_2\.linear_dtype=bfloat16: GPT2\w+ has no layers"),
        (
            LinearDtype.float32,
            {"name": tiny_models.llama(), "dtype": "bfloat16"},
            r"^sft_2\.linear_dtype=float32 is for",
        ),
    ],
)
def test_a_model_that_cannot_is_named_with_the_stages_key(
    wanted: LinearDtype, other: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        apply_linear_dtype(load_causal(**other), wanted, FakeContext(tmp_path, stage="sft_2"), ALONE)
