"""Driver: RewardTrainer on the exported pairs, from a causal checkpoint with a new head."""

from __future__ import annotations

from typing import Any

import torch
from trl import RewardConfig, RewardTrainer
from trl_common import classifier, train_supervised


@torch.no_grad()
def heldout_figures(model: Any, data: Any) -> dict[str, float]:
    """Mean Bradley-Terry loss and accuracy."""
    model.eval()
    scores = [[model(torch.tensor([row[key]])).logits[0, 0] for key in ("chosen_ids", "rejected_ids")] for row in data]
    margin = torch.tensor([chosen - rejected for chosen, rejected in scores])
    return {
        "loss": float(-torch.nn.functional.logsigmoid(margin).mean()),
        "accuracy": float((margin > 0).float().mean()),
    }


if __name__ == "__main__":
    train_supervised("reward", classifier, RewardTrainer, RewardConfig, "preferences", heldout_figures)
