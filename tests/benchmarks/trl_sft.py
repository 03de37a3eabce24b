"""Driver: SFTTrainer on the exported demonstrations, loss on the completion only, from the exported base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trl import SFTConfig, SFTTrainer
from trl_common import Stopwatch, causal, common, read_spec, rows, tokenizer_of, write_result


def main() -> None:
    """Train, save, measure the held-out loss as alignpipe does: over all completion tokens."""
    spec = read_spec()
    model, watch = causal(spec["model"]), Stopwatch()
    args = SFTConfig(
        **common(spec, spec["sft_steps"]),
        per_device_train_batch_size=spec["sft_batch"],
        learning_rate=spec["sft_lr"],
        lr_scheduler_type="cosine",
        warmup_steps=spec["sft_warmup"],
        adam_epsilon=spec["sft_adam_eps"],
        completion_only_loss=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=rows(spec, "demonstrations-train"),
        processing_class=tokenizer_of(spec, "right"),
        callbacks=[watch],
    )
    watch.start()
    trainer.train()
    result = watch.figures()
    trainer.save_model(str(Path(spec["out"]) / "model"))
    if spec["judge"]:
        result["loss"] = heldout_loss(model, rows(spec, "demonstrations-heldout"))
    write_result(spec, result)


@torch.no_grad()
def heldout_loss(model: Any, data: Any) -> float:
    """Mean negative log-likelihood of completion tokens."""
    model.eval()
    total, count = 0.0, 0
    for row in data:
        ids, kept = torch.tensor([row["input_ids"]]), torch.tensor(row["completion_mask"][1:], dtype=torch.bool)
        logp = model(ids).logits[0, :-1].float().log_softmax(-1)
        taken = logp.gather(1, ids[0, 1:, None])[:, 0][kept]
        total, count = total - float(taken.sum()), count + len(taken)
    return total / count


if __name__ == "__main__":
    main()
