"""Two processes that train together on this machine's CPU (gloo), for tests; what each returns comes back by rank."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignpipe.training import parallel, supervised
from alignpipe.training.models import load_causal
from alignpipe.training.parallel import Team, join
from support import token_rows
from support.context import FakeContext
from support.token_rows import ROWS, token_loss

OPTIONS = replace(token_rows.OPTIONS, max_steps=6, eval_every=3, save_every=4)


def together(name: str, root: Path, *arguments: Any, count: int = 2) -> list[Any]:
    """Call `<module>:<function>(root, rank, *arguments)` in `count` processes.

    Starting them takes seconds, so that one call should do all that a file of tests looks at.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    torch.multiprocessing.spawn(_enter, (count, port, name, root, arguments), nprocs=count)
    return [torch.load(root / f"result-{rank}.pt", weights_only=False) for rank in range(count)]


def _enter(rank: int, count: int, port: int, name: str, root: Path, arguments: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "OMP_NUM_THREADS": 1}
    os.environ.update({key: str(value) for key, value in here.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    module, _, function = name.partition(":")
    result = getattr(importlib.import_module(module), function)(root, rank, *arguments)
    torch.save(result, root / f"result-{rank}.pt")
    torch.distributed.destroy_process_group()


def context(root: Path, rank: int, **given: Any) -> FakeContext:
    """A context of this process in a folder that all share."""
    return FakeContext(root, stage="sft", rank=rank, world_size=int(os.environ.get("WORLD_SIZE", "1")), **given)


def learn(
    root: Path, rank: int, model_folder: Path, *, micro_batch_size: int = 2, stop: bool = False, shard: bool = False
) -> Any:
    """Train on `ROWS`; gives the weights, what was logged, and whether it was interrupted (`stop`: after 4 steps)."""
    ctx = context(root, rank, stop_after=3 if stop else None)
    team = join(ctx, shard=shard)
    model = load_causal(model_folder)
    if rank > 0:  # every process must end up with rank 0's
        nn.init.zeros_(model.get_input_embeddings().weight)

    def evaluate() -> dict[str, float]:
        return {"eval_loss": supervised.mean_over(ROWS, 2, token_loss, model, team)["loss"]}

    interrupted = False
    options = replace(OPTIONS, micro_batch_size=micro_batch_size)
    try:
        supervised.train(model, ROWS, token_loss, evaluate, options, ctx, ("loss",), team)
    except supervised.StageInterrupted:
        interrupted = True
    return {name: value.clone() for name, value in model.state_dict().items()}, ctx.logged, interrupted


class Halves(nn.Module):
    """Some of its weights are frozen, some never used, some used only by rows that one process has."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.often, self.once, self.never, self.frozen = (
            nn.Parameter(torch.randn(3, 2, generator=generator)) for _ in range(4)
        )
        self.frozen.requires_grad_(False)

    def forward(self, row: int) -> torch.Tensor:
        x = torch.tensor([1.0 + row, 2.0, -row])
        used = x @ self.often + x @ self.frozen
        return (used + x @ self.once if row == 2 else used).square().sum()


def gradients(root: Path, rank: int, rows: Sequence[int], micro: Sequence[int]) -> Any:
    """The summed gradients of `rows`, this process's share in micro-batches of `micro[rank]` rows."""
    team = join(context(root, rank))
    model = Halves()
    own = [rows[index] for index in team.share([1] * len(rows))]
    for start in range(0, len(own), micro[rank]):
        (sum(model(row) for row in own[start : start + micro[rank]]) / len(rows)).backward()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    team.sum_gradients(parameters)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def agree(root: Path, rank: int) -> Any:
    """What a team tells each other."""
    team: Team = join(context(root, rank))
    told = {
        "leads": team.leads,
        "gathered": team.gather({"rank": rank}),
        "any": [team.any(rank == 1), team.any(rank == 0), team.any(False)],
        "from_leader": team.from_leader(rank + 5),
        "sums": team.sum_figures({"a": 0.1} if rank == 0 else {"a": 0.2, "b": 1.0}),
        "sum": team.sum_tensor(torch.tensor([1.0, 10.0 * rank])).tolist(),
        "spread": team.spread([5, 2, 9], lambda rows: [f"{row} by {rank}" for row in rows]),
        "one": team.spread([5], lambda rows: [f"{row} by {rank}" for row in rows]),
    }
    if team.leads:
        (root / "written").write_text("by rank 0")
    team.wait()
    return told | {"read": (root / "written").read_text()}


def everything(
    root: Path, rank: int, model_folder: Path, cases: Sequence[tuple[list[int], list[int]]], way: str
) -> Any:
    """All that is looked at: agreement, gradients of `cases`, a training that one process stops, and its resumption."""
    if way == "gloo":
        parallel.connect_locally = lambda *_: None
    local = join(context(root, rank))._exchange is not None
    told = agree(root, rank)
    summed = [gradients(root, rank, rows, micro) for rows, micro in cases]
    before = learn(root / "run", rank, model_folder, stop=rank == 1)
    if rank == 0:
        shutil.copytree(root / "run" / "work", root / "copy" / "work")
    after = learn(root / "run", rank, model_folder)
    return {"local": local, "told": told, "summed": summed, "before": before, "after": after}
