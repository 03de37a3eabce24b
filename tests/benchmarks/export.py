"""What TRL's drivers read: token ids as JSON lines, and the base model as an ordinary checkpoint.

TRL gets token ids and not text, so that both sides see exactly the same tokens and TRL need not tokenise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workloads import Size


def export(data: Path, checkpoint: Path, size: Size, seed: int, folder: Path) -> None:
    """Write `folder`: `<table>-<split>.jsonl`, and `base/`, the model that sft started from.

    `data` is the data stage's payload; `checkpoint` is any checkpoint with the run's tokenizer.
    """
    from alignpipe.dataset import Dataset
    from alignpipe.training.models import fit_tokenizer, load_tokenizer, save_checkpoint
    from alignpipe.training.tokens import encode_prompt, response_ids
    from alignpipe_plugins.model_tiny.config import TinyConfig
    from alignpipe_plugins.model_tiny.source import TinySource

    dataset, tokenizer = Dataset(data), load_tokenizer(checkpoint)

    def ids(row: Mapping[str, Any], column: str) -> tuple[list[int], list[int]]:
        return encode_prompt(tokenizer, row["prompt"], row["messages"]), response_ids(tokenizer, [row[column]])[0]

    for split in ("train", "heldout"):
        sides = [ids(row, "completion") for row in dataset.rows("demonstrations", split)]
        write(
            folder / f"demonstrations-{split}.jsonl",
            ({"input_ids": p + r, "completion_mask": [0] * len(p) + [1] * len(r)} for p, r in sides),
        )
        pairs = dataset.rows("preferences", split)
        both = [(ids(row, "chosen"), ids(row, "rejected")) for row in pairs]
        write(
            folder / f"preferences-{split}.jsonl",
            (
                {"chosen_ids": chosen[0] + chosen[1], "rejected_ids": rejected[0] + rejected[1]}
                for chosen, rejected in both
            ),
        )
        prompts = dataset.rows("prompts", split)
        write(
            folder / f"prompts-{split}.jsonl",
            ({"prompt": row["prompt"], "input_ids": encode_prompt(tokenizer, row["prompt"])} for row in prompts),
        )
    config = TinyConfig(
        hidden_size=size.hidden, layers=size.layers, heads=size.heads, intermediate_size=size.intermediate
    )
    model = TinySource(config).base(tokenizer, seed)
    fit_tokenizer(model, tokenizer)
    save_checkpoint(model, tokenizer, folder / "base")


def write(path: Path, rows: Iterable[Mapping[str, Sequence[int] | str]]) -> None:
    """One JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
