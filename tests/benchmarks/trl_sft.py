"""Driver: SFTTrainer on the exported demonstrations, loss on the completion only, from the exported base model."""

from __future__ import annotations

from typing import Any

import torch
from trl import SFTConfig, SFTTrainer
from trl_common import causal, train_supervised


@torch.no_grad()
def heldout_loss(model: Any, data: Any) -> dict[str, float]:
    """Mean negative log-likelihood of completion tokens, as alignpipe measures it: over all of them."""
    model.eval()
    total, count = 0.0, 0
    for row in data:
        ids, kept = torch.tensor([row["input_ids"]]), torch.tensor(row["completion_mask"][1:], dtype=torch.bool)
        logp = model(ids).logits[0, :-1].float().log_softmax(-1)
        taken = logp.gather(1, ids[0, 1:, None])[:, 0][kept]
        total, count = total - float(taken.sum()), count + len(taken)
    return {"loss": total / count}


if __name__ == "__main__":
    train_supervised("sft", causal, SFTTrainer, SFTConfig, "demonstrations", heldout_loss, completion_only_loss=True)
