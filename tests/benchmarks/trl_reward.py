"""Driver: RewardTrainer on the exported pairs, from a causal checkpoint with a new head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trl import RewardConfig, RewardTrainer
from trl_common import Stopwatch, classifier, common, read_spec, rows, tokenizer_of, write_result


def main() -> None:
    """Train, save, measure loss and accuracy on the held-out pairs."""
    spec = read_spec()
    model, watch = classifier(spec["model"]), Stopwatch()
    args = RewardConfig(
        **common(spec, spec["reward_steps"]),
        per_device_train_batch_size=spec["reward_batch"],
        learning_rate=spec["reward_lr"],
        lr_scheduler_type="cosine",
        warmup_steps=spec["reward_warmup"],
        adam_epsilon=spec["reward_adam_eps"],
    )
    trainer = RewardTrainer(
        model=model,
        args=args,
        train_dataset=rows(spec, "preferences-train"),
        processing_class=tokenizer_of(spec, "right"),
        callbacks=[watch],
    )
    watch.start()
    trainer.train()
    result = watch.figures()
    trainer.save_model(str(Path(spec["out"]) / "model"))
    if spec["judge"]:
        result |= heldout_figures(model, rows(spec, "preferences-heldout"))
    write_result(spec, result)


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
    main()
