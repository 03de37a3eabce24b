"""A small dataset artifact that a tiny model can learn: good answers name the customer of the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignpipe.api import Artifact
from alignpipe.dataset import Split, Table, write_dataset

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
