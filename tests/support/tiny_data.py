"""A small dataset artifact that a tiny model can learn: good answers name the customer of the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignpipe.api import Artifact, BuildContext, Component, Split, StageContext, Table
from alignpipe.dataset import write_dataset

NAMES = ("Maria", "Peter", "Amina", "Jonas")


def _prompt(index: int) -> dict[str, Any]:
    return {"prompt": f"Customer: this is {NAMES[index % 4]}, case {index}.\nAgent:", "messages": [], "case": index}


def write(
    folder: Path, *, train: int = 24, heldout: int = 8, without: tuple[Table, ...] = (), **replaced: Any
) -> Artifact:
    """Write all three tables but `without`; `replaced` columns are put into every row of demonstrations and pairs."""
    tables: dict[Table, dict[Split, list[dict[str, Any]]]] = {"demonstrations": {}, "preferences": {}, "prompts": {}}
    sizes: dict[Split, range] = {"train": range(train), "heldout": range(1000, 1000 + heldout)}
    for split, numbers in sizes.items():
        for index in numbers:
            good, bad = f" Hello {NAMES[index % 4]}, thank you.", " What do you want?" + " Well." * (index % 3)
            tables["demonstrations"].setdefault(split, []).append({**_prompt(index), "completion": good, **replaced})
            tables["preferences"].setdefault(split, []).append(
                {**_prompt(index), "chosen": good, "rejected": bad, **replaced}
            )
            tables["prompts"].setdefault(split, []).append(_prompt(index))
    write_dataset(folder, {table: rows for table, rows in tables.items() if table not in without})
    return Artifact("dataset", "data", folder, "digest")


@dataclass(frozen=True)
class DataConfig:
    without: list[str] = field(default_factory=list)


class Data:
    """The dataset as a stage."""

    def __init__(self, config: DataConfig, context: BuildContext) -> None:
        self.config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        write(ctx.payload, without=tuple(self.config.without))


DATA = Component("data", "fake", DataConfig, "support.tiny_data:Data", "a dataset", makes="dataset")
