"""What two processes do with a model that they have split between them; called by `teams.together`."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignpipe.errors import ProcessError
from alignpipe.training.batches import last_token_scores, pad_rows
from alignpipe.training.models import load_causal
from alignpipe.training.parallel import Team, join
from alignpipe.training.sharding import copies_of
from alignpipe.training.supervised import LossSums
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.source import PretrainedSource
from support import ppo, tiny_models
from support.teams import context, learn
from support.token_rows import ROWS, Row, token_loss

CLIP = 0.5


def score_loss(scorer: Any, batch: Sequence[Row]) -> LossSums:
    """The squared scores at the ends of the rows."""
    tokens = pad_rows([row.prompt for row in batch], [row.response for row in batch], 0, "cpu")
    return LossSums(last_token_scores(scorer, tokens).square().sum())


def networks() -> dict[str, tuple[nn.Module, Any]]:
    """A causal model, whose embedding is its head, one with adapters, and a scorer, whose head has one row."""
    adapters = PretrainedSource(PretrainedConfig(path="unused", lora_rank=3), seed=0)
    return {
        "policy": (load_causal(tiny_models.llama()), token_loss),
        "adapted": (adapters.adapt(load_causal(tiny_models.llama())), token_loss),
        "scorer": (ppo.scorer(), score_loss),
    }


def parts(team: Team) -> dict[str, Any]:
    """What this process has of each network while it trains, its gradients from `ROWS`, and what is put together."""
    found = {}
    for name, (network, loss) in networks().items():
        copies = copies_of(network, team)
        copies.train()
        held = sum(parameter.to_local().numel() for parameter in copies.trained)
        left = sum(parameter.numel() for parameter in network.parameters())
        own = ROWS[team.rank :: team.size]
        needs_empty_pass = copies.needs_empty_pass(len(ROWS), 1)

        def backward(
            lane: int, loss: Any = loss, own: Any = own, copies: Any = copies, needs_empty_pass: bool = needs_empty_pass
        ) -> None:
            for row in own:
                loss(copies[lane], [row]).loss.backward()
            if needs_empty_pass:
                (loss(copies[lane], ROWS[:1]).loss / math.inf).backward()

        copies.map(backward)
        team.sum_gradients(copies.trained)
        gradients = [parameter.grad.full_tensor() for parameter in copies.trained]
        norm = copies.clip(CLIP)
        clipped = [parameter.grad.full_tensor() for parameter in copies.trained]
        copies.gather()
        found[name] = {
            "held": held,
            "left": left,
            "needs_empty_pass": needs_empty_pass,
            "gradients": gradients,
            "norm": norm,
            "clipped": clipped,
            "weights": {key: value.clone() for key, value in network.state_dict().items()},
        }
    return found


def trained(root: Path, rank: int, team: Team, *, stop_after: int | None = None) -> Any:
    """PPO with policy and critic split; gives their weights and what was logged."""
    players = replace(ppo.make_players(), team=team)
    validation = ppo.make_validation()
    sizes = {"max_steps": 3, "episodes": 15, "minibatches": 3, "micro_batch_size": 2}
    players, ctx, _ = ppo.train(root, players, validation, stop_after, save_every=1, eval_every=3, **sizes)
    assert players.critic is not None
    return {**ppo.weights(players.network), **ppo.weights(players.critic)}, ctx.logged


def deserted(team: Team, told: dict[str, Any], results: Path) -> str:
    """What rank 0 is told when rank 1, having left its results, ends between a forward and a backward pass."""
    copies = copies_of(load_causal(tiny_models.llama()), team)
    copies.train()

    def backward(lane: int) -> None:
        loss = token_loss(copies[lane], ROWS[:1]).loss
        if team.rank == 1:
            torch.save(told, results)
            os._exit(0)
        loss.backward()

    try:
        copies.map(backward)
    except ProcessError as error:
        return str(error)
    return "nothing"


def everything(root: Path, rank: int, model_folder: Path) -> Any:
    """All that is looked at: the parts; a training that one process stops, its resumption, one undisturbed; PPO."""
    tiny_models.llama()  # made before the processes meet: afterwards transformers has rank 0 alone write
    team = join(context(root, rank), shard=True)
    before = learn(root / "run", rank, model_folder, stop=rank == 1, shard=True)
    if rank == 0:
        shutil.copytree(root / "run" / "work", root / "copy" / "work")
    told = {
        "parts": parts(team),
        "before": before,
        "after": learn(root / "run", rank, model_folder, shard=True),
        "undisturbed": learn(root / "straight", rank, model_folder, shard=True),
        "ppo": trained(root / "ppo", rank, team),
        "ppo before": trained(root / "ppo again", rank, team, stop_after=1 - rank),
        "ppo after": trained(root / "ppo again", rank, team),
    }
    return {**told, "deserted": deserted(team, told, root / f"result-{rank}.pt")}
