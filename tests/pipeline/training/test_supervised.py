"""The supervised loop: the micro size changes nothing, resuming equals not stopping, every example once an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from alignpipe.errors import StageInterrupted, TrainingError
from alignpipe.training import supervised
from alignpipe.training.checkpoint import latest_step
from alignpipe.training.models import load_causal
from alignpipe.training.parallel import ALONE, join
from alignpipe.training.streams import batch_indices
from alignpipe.training.supervised import LossSums
from alignpipe.training.supervised_config import SupervisedConfig
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource
from support import tiny_models
from support.context import FakeContext
from support.token_rows import OPTIONS, ROWS, Row, token_loss


def train(
    root: Path,
    options: SupervisedConfig = OPTIONS,
    stop_after: int | None = None,
    rows: Sequence[Row] = ROWS,
    lanes: int = 1,
    model: nn.Module | None = None,
):
    """Train a fresh model under `root`; returns it with its context, also if it was interrupted."""
    model = model or load_causal(tiny_models.llama())
    ctx = FakeContext(root, stage="sft", stop_after=stop_after, lanes=lanes)
    team, interrupted = join(ctx), None
    try:
        supervised.train(model, rows, token_loss, lambda: {"eval_loss": 0.5}, options, ctx, ("loss", "eval_loss"), team)
    except StageInterrupted as error:
        interrupted = error
    return model, ctx, interrupted


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(value, copy) for (name, value), (other, copy) in pairs)


def gradients(monkeypatch: pytest.MonkeyPatch, root: Path, micro: int, lanes: int = 1) -> list[torch.Tensor]:
    """The gradients that the first optimiser step sees."""
    seen: list[torch.Tensor] = []

    def look(optimizer: torch.optim.Optimizer) -> None:
        seen.extend(parameter.grad.clone() for group in optimizer.param_groups for parameter in group["params"])

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", look)
        train(root, replace(OPTIONS, max_steps=1, micro_batch_size=micro, max_grad_norm=1e9), lanes=lanes)
    return seen


def test_micro_batches_and_lanes_change_no_gradient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = gradients(monkeypatch, tmp_path / "whole", 5)
    assert max(float(gradient.abs().max()) for gradient in whole) > 0.01
    for micro, lanes in ((1, 1), (2, 1), (4, 1), (5, 2), (2, 3)):
        parts = gradients(monkeypatch, tmp_path / f"{micro}-{lanes}", micro, lanes)
        assert all(torch.allclose(part, one, atol=1e-6) for part, one in zip(parts, whole, strict=True))


def test_the_gradient_is_that_of_the_token_mean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = gradients(monkeypatch, tmp_path, 2)
    model = load_causal(tiny_models.llama())
    chosen = [ROWS[index] for index in batch_indices(0, 5, len(ROWS), 0)]
    losses = []
    for row in chosen:
        logits = model(torch.tensor([row.prompt + row.response])).logits[0, len(row.prompt) - 1 : -1]
        losses.extend(nn.functional.cross_entropy(logits, torch.tensor(row.response), reduction="none"))
    torch.stack(losses).mean().backward()
    for gradient, parameter in zip(seen, model.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad, atol=1e-6)


@pytest.mark.parametrize("stop", [0, 2, 5])
def test_resuming_equals_not_stopping_to_the_bit(stop: int, tmp_path: Path) -> None:
    straight, whole, _ = train(tmp_path / "straight")
    _, first, error = train(tmp_path / "stopped", stop_after=stop)
    assert str(error) == f"sft stopped at step {stop + 1} of 7"
    assert latest_step(first.work) == stop + 1
    resumed, second, error = train(tmp_path / "stopped")
    assert error is None
    assert second.said == [f"resumed at step {stop + 1} of 7"]
    assert same_weights(resumed, straight)
    assert first.logged + second.logged == whole.logged


def with_dropout(share: float = 0.5) -> nn.Module:
    """A model with adapters, a share of whose inputs is dropped."""
    source = PretrainedSource(PretrainedConfig(path=str(tiny_models.llama()), lora_rank=4, lora_dropout=share), 0)
    return source.adapt(source.load(tiny_models.llama()))


def test_dropout_draws_what_seed_and_step_say(tmp_path: Path) -> None:
    """So a resumed run drops the same again, whatever has been drawn in the process meanwhile, and at any `lanes`."""
    straight, whole, _ = train(tmp_path / "straight", model=with_dropout())
    _, first, _ = train(tmp_path / "stopped", stop_after=2, model=with_dropout())
    torch.rand(7)
    before = torch.random.get_rng_state()
    resumed, second, _ = train(tmp_path / "stopped", lanes=2, model=with_dropout())
    assert same_weights(resumed, straight)
    assert first.logged + second.logged == whole.logged
    assert [line for line in second.said if "lane" in line] == [
        "dropout: one lane trains, since lanes would draw their masks in any order"
    ]
    assert torch.equal(torch.random.get_rng_state(), before)
    other, _, _ = train(tmp_path / "without", model=with_dropout(0.0))
    assert not same_weights(other, straight), "something was dropped"


def test_a_run_that_was_killed_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    straight, _, _ = train(tmp_path / "straight")
    options = replace(OPTIONS, save_every=3)
    train(tmp_path / "killed", options)  # its weights are lost with the process; step 6 was saved
    resumed, ctx, _ = train(tmp_path / "killed", options)
    assert [step for step, _ in ctx.logged] == [7]
    assert same_weights(resumed, straight)


def test_a_stop_at_the_last_step_is_no_interruption(tmp_path: Path) -> None:
    _, _, error = train(tmp_path, stop_after=6)
    assert error is None


def test_what_is_logged(tmp_path: Path) -> None:
    _, ctx, _ = train(tmp_path, replace(OPTIONS, log_every=2))
    assert [step for step, _ in ctx.logged] == [2, 4, 6, 7]
    assert [step for step, _ in ctx.timings] == [2, 4, 6, 7]
    assert set(ctx.logged[0][1]) == {"loss", "tokens", "grad_norm", "lr", "epoch", "eval_loss"}
    assert ctx.series("tokens") == [1.0] * 4  # sums of figures are divided by the batch's weight, here tokens
    assert ctx.series("lr")[0] == pytest.approx(0.01 * 2 / 3)
    assert ctx.series("epoch")[-1] == pytest.approx(35 / 9)
    assert [done for done, *_ in ctx.shown] == list(range(1, 8))
    assert ctx.shown[-1][2].keys() == {"loss", "eval_loss"}


def test_it_learns(tmp_path: Path) -> None:
    _, ctx, _ = train(tmp_path, replace(OPTIONS, max_steps=30, batch_size=9, micro_batch_size=9))
    losses = ctx.series("loss")
    assert losses[-1] < 0.5 * losses[0]


def test_gradients_are_clipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    norms = []

    def look(optimizer: torch.optim.Optimizer) -> None:
        grads = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
        norms.append(float(torch.stack([grad.norm() for grad in grads]).norm()))

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    _, ctx, _ = train(tmp_path, replace(OPTIONS, max_steps=1, max_grad_norm=0.25))
    assert norms == pytest.approx([0.25], rel=1e-4)
    assert ctx.metrics()["grad_norm"] > 1  # what is logged is the norm before clipping


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(bad: float, tmp_path: Path) -> None:
    model = load_causal(tiny_models.llama())
    before = load_causal(tiny_models.llama())
    ctx = FakeContext(tmp_path)

    def loss(network: nn.Module, batch: Sequence[Row]) -> LossSums:
        return LossSums(token_loss(network, batch).loss * bad)

    with pytest.raises(TrainingError, match=r"not finite at step 1: lower the learning rate \(0\.01\)"):
        supervised.train(model, ROWS, loss, dict, OPTIONS, ctx, (), ALONE)
    assert same_weights(model, before)
    assert latest_step(ctx.work) is None


def test_the_evaluation_is_the_token_mean_whatever_the_batch() -> None:
    model = load_causal(tiny_models.llama()).train()
    means = [supervised.mean_over(ROWS, size, token_loss, model, ALONE)["loss"] for size in (1, 4, 9)]
    tokens = sum(row.weight for row in ROWS)
    with torch.no_grad():
        alone = sum(float(token_loss(model, [row]).loss) for row in ROWS) / tokens
    assert means == pytest.approx([alone] * 3, abs=1e-5)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
