"""Checkpoints: complete or absent, newest only, everything back."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from alignpipe.training.checkpoint import Checkpoints, latest_step
from alignpipe.training.models import load_causal
from alignpipe.training.parallel import ALONE
from support import tiny_models


def stepped(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small net after one step of AdamW, so that the optimiser has a state."""
    torch.manual_seed(seed)
    net = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1 * (seed + 1))
    net(torch.ones(3)).sum().backward()
    optimizer.step()
    return net, optimizer


def test_weights_optimiser_and_extras_come_back(tmp_path: Path) -> None:
    net, optimizer = stepped(0)
    best = torch.tensor([1.5, 2.5])
    Checkpoints(tmp_path, ALONE).save(7, {"policy": net}, {"policy": optimizer}, {"kl_coef": 0.125, "best": best})
    other, other_optimizer = stepped(1)
    step, extra = Checkpoints(tmp_path, ALONE).load({"policy": other}, {"policy": other_optimizer})
    assert (step, extra["kl_coef"]) == (7, 0.125)
    assert torch.equal(extra["best"], best)
    for each, optim in ((net, optimizer), (other, other_optimizer)):  # the next step is the same, moments included
        optim.zero_grad()
        each(torch.tensor([1.0, -2.0, 3.0])).square().sum().backward()
        optim.step()
    assert torch.equal(net.weight, other.weight)
    assert torch.equal(net.bias, other.bias)


def test_what_a_checkpoint_refers_to_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def note(name: str) -> None:
        assert latest_step(tmp_path) is None, name
        synced.append(name)

    def fsync(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.name != "checkpoints":
            note(str(path.relative_to(tmp_path)))

    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "step-1").write_text("weights")
    (tmp_path / "rollouts.jsonl").write_text("{}")
    monkeypatch.setattr(os, "fsync", fsync)
    Checkpoints(tmp_path, ALONE, lambda: note("log")).save(7, {"policy": stepped(0)[0]}, {}, {})
    draft = "checkpoints/draft"
    assert set(synced) == {
        ".", "best", "best/step-1", "rollouts.jsonl", "log", draft, f"{draft}/policy.safetensors", f"{draft}/state.pt",
    }  # fmt: skip
    assert latest_step(tmp_path) == 7


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = load_causal(tiny_models.llama())
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    Checkpoints(tmp_path, ALONE).save(1, {"model": model}, {}, {})
    other = load_causal(tiny_models.llama())
    Checkpoints(tmp_path, ALONE).load({"model": other}, {})
    assert other.lm_head.weight is other.get_input_embeddings().weight
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_a_full_disk_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's writer raises a RuntimeError, whatever the reason."""
    net, optimizer = stepped(0)

    def fail(*_: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="iostream"):
        Checkpoints(tmp_path, ALONE).save(1, {"net": net}, {"net": optimizer}, {})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    with pytest.raises(OSError, match=r"state\.pt") as raised:
        Checkpoints(tmp_path, ALONE).save(1, {"net": net}, {"net": optimizer}, {})
    assert raised.value.errno == errno.ENOSPC
    assert latest_step(tmp_path) is None


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    net, optimizer = stepped(0)
    for step in (5, 10, 100):
        Checkpoints(tmp_path, ALONE).save(step, {"net": net}, {"net": optimizer}, {})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000100"]
    assert latest_step(tmp_path) == Checkpoints(tmp_path, ALONE).latest() == 100


def test_a_checkpoint_that_was_cut_off_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, optimizer = stepped(0)
    Checkpoints(tmp_path, ALONE).save(5, {"net": net}, {}, {})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="No space left"):
            Checkpoints(tmp_path, ALONE).save(10, {"net": net}, {}, {})
    assert latest_step(tmp_path) == 5
    assert Checkpoints(tmp_path, ALONE).load({"net": net}, {})[0] == 5
    Checkpoints(tmp_path, ALONE).save(10, {"net": net}, {"net": optimizer}, {})  # in spite of what was left
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]


def test_nothing_to_load(tmp_path: Path) -> None:
    assert latest_step(tmp_path) is None
    net = nn.Linear(2, 2)
    before = net.weight.detach().clone()
    assert Checkpoints(tmp_path, ALONE).load({"net": net}, {}) == (0, {})
    assert torch.equal(net.weight, before)
