"""Driver: GRPOTrainer of the current TRL on the exported prompts, scored by the reward model."""

from __future__ import annotations

from typing import Any

import torch
from trl import GRPOConfig, GRPOTrainer
from trl_common import Stopwatch, causal, classifier, common, read_spec, rows, tokenizer_of, write_result


def main() -> None:
    """Train for `updates` generations of `episodes` responses, each used in epochs x minibatches optimiser steps."""
    spec = read_spec()
    watch, steps = Stopwatch(), spec["epochs"] * spec["minibatches"]
    minibatch = spec["episodes"] // spec["minibatches"]
    args = GRPOConfig(
        **common(spec, spec["updates"] * steps) | {"logging_steps": steps},
        per_device_train_batch_size=minibatch,
        gradient_accumulation_steps=1,
        steps_per_generation=spec["minibatches"],
        num_iterations=spec["epochs"],
        num_generations=spec["group_size"],
        max_completion_length=spec["response"],
        temperature=spec["temperature"],
        learning_rate=spec["lr"],
        lr_scheduler_type="linear",
        warmup_steps=0,
        adam_epsilon=spec["adam_eps"],
        beta=spec["kl_coef"],
        epsilon=spec["clip"],
        loss_type="bnpo",  # the mean over the tokens of a minibatch, which is one local batch here
        scale_rewards="group",
    )
    trainer = GRPOTrainer(
        model=causal(spec["model"]),
        reward_funcs=scorer(spec),
        args=args,
        train_dataset=rows(spec, "prompts-train"),
        processing_class=tokenizer_of(spec, "left"),
        callbacks=[watch],
    )
    watch.start()
    trainer.train()
    result = watch.figures()
    result["steps"] = [sum(result["steps"][first : first + steps]) for first in range(0, len(result["steps"]), steps)]
    last = [line for line in trainer.state.log_history if "reward" in line][-1]
    lengths = [line["completions/mean_length"] for line in trainer.state.log_history if "reward" in line]
    write_result(spec, {**result, "score": last["reward"], "tokens": sum(lengths) / len(lengths)})


def scorer(spec: dict[str, Any]) -> Any:
    """The reward model on token ids: given the model itself, the trainer would score texts that lack their end."""
    model = classifier(spec["reward_model"]).eval()
    pad = model.config.pad_token_id

    @torch.no_grad()
    def reward_model(completion_ids: list[list[int]], input_ids: list[list[int]], **_: Any) -> list[float]:
        rows = [torch.tensor([*prompt, *answer]) for prompt, answer in zip(input_ids, completion_ids, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        scores: list[float] = model(ids, attention_mask=ids != pad).logits[:, 0].tolist()
        return scores

    return reward_model


if __name__ == "__main__":
    main()
