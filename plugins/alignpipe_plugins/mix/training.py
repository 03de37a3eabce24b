"""Training the members of a mix in one stage, and measuring the scale of their scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, pstdev

from alignpipe.api import Artifact, Reward, Sample, StageContext, Table, TrainableReward
from alignpipe.dataset import Dataset
from alignpipe.errors import DataError, RewardError
from alignpipe.rewarding.judge import Judge
from alignpipe.syncing import sync, sync_tree
from alignpipe_plugins.mix.config import Normalise
from alignpipe_plugins.mix.context import Log, MemberContext

_TRAINED = "trained"
_LAST_STEP = "last_step.json"


def train_members(members: Mapping[str, Reward], inputs: Mapping[str, Artifact], ctx: StageContext) -> int:
    """Train the members that can be trained, in their order, each with a seed, a work folder and metrics of its own.

    Gives the step at which the stage goes on logging.

    A member that has finished is kept in `ctx.work`, so that an interrupted stage goes on with the next one, and scores
    with what is kept there.
    """
    log = Log(ctx)
    for name, member in members.items():
        if not isinstance(member, TrainableReward):
            continue
        work = ctx.work / "members" / name
        done = work / _TRAINED
        if (done / _LAST_STEP).is_file():
            member.load(done)
            log.skip(json.loads((done / _LAST_STEP).read_text()))
            continue
        ctx.say(f"training member {name}")
        member.fit(inputs, MemberContext(ctx, name, work / "state", log))
        _keep(member, done, log.last, ctx)
        # As after a kill, and as in later stages: a model read from files may compute otherwise (`model.forward`).
        member.load(done)
        log.next_member()
    log.settle()
    return log.first


def _keep(member: TrainableReward, done: Path, last_step: int, ctx: StageContext) -> None:
    """Write the trained member into a folder that is complete or absent, also after a power cut."""
    partial = done.with_name(f"{_TRAINED}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    member.save(partial)
    (partial / _LAST_STEP).write_text(json.dumps(last_step))
    sync_tree(partial)
    ctx.sync_log()
    partial.rename(done)
    sync(done.parent)


def require_texts(wanted: Iterable[Normalise], inputs: Mapping[str, Artifact]) -> None:
    """Raise `DataError` for texts to measure on that the data does not have."""
    for texts in wanted:
        if texts is not Normalise.none:
            Dataset(inputs["dataset"].folder).require(_table(texts), "train")


def measure(
    name: str, member: Reward, texts: Normalise, most: int, inputs: Mapping[str, Artifact], ctx: StageContext
) -> tuple[float, float]:
    """Mean and standard deviation of a member's scores on the first training texts.

    Raises `DataError` if there are no such texts, `RewardError` if all of them score the same or too many fail.
    """
    samples = _samples(Dataset(inputs["dataset"].folder), texts, most)
    judge = Judge(member, f"member {name} of the mix", ctx.scoring)
    judge.check_columns([sample.row for sample in samples], texts.name, f"leave normalise.{name} out")
    scored = judge.score(samples)
    scores = [scored.total[index] for index in scored.kept]
    mean, deviation = fmean(scores), pstdev(scores)
    if not deviation > 0:
        raise RewardError(
            f"normalise.{name}={texts.name}: member {name} scores all {len(scores)} texts {mean:g}, so there is no "
            f"scale to measure; leave normalise.{name} out, or take other texts"
        )
    return mean, deviation


def _table(texts: Normalise) -> Table:
    return "demonstrations" if texts is Normalise.demonstrations else "preferences"


def _samples(data: Dataset, texts: Normalise, most: int) -> list[Sample]:
    table = _table(texts)
    columns = ("completion",) if table == "demonstrations" else ("chosen", "rejected")
    rows = data.rows(table, "train")
    samples = [Dataset.sample(row, column) for row in rows[:most] for column in columns][:most]
    if len(samples) < 2:
        raise DataError(f"reward.normalise: the data has {len(samples)} texts among its {table}; two are the least")
    return samples
