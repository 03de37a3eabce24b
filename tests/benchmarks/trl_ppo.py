"""Driver: PPOTrainer of TRL 1.12.0 (trl.experimental.ppo), the last with one, on the exported prompts."""

from __future__ import annotations

from pathlib import Path

import torch
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer
from trl_common import Stopwatch, causal, classifier, common, read_spec, rows, tokenizer_of, write_result


def main() -> None:
    """Train for `updates` updates; with `save_every`, keep the policy's checkpoints on the way."""
    spec = read_spec()
    policy, value, watch = causal(spec["model"]), classifier(spec["reward_model"]), Stopwatch()
    # Two rates need an optimiser of our own; it is the one the trainer would make (fused AdamW), the schedule too.
    groups = [
        {"params": policy.parameters(), "lr": spec["lr"]},
        {"params": value.parameters(), "lr": spec["critic_lr"]},
    ]
    optimizer = torch.optim.AdamW(groups, eps=spec["adam_eps"], weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1 - update / spec["updates"])
    saving = {"save_strategy": "steps", "save_steps": spec["save_every"], "save_only_model": True}
    settings = common(spec, -1) | (saving if spec["save_every"] else {})
    del settings["max_grad_norm"]  # this trainer never clips
    args = PPOConfig(
        **settings,
        total_episodes=spec["updates"] * spec["episodes"],
        # One micro-batch a minibatch, so that every minibatch makes its step: with gradient_accumulation_steps above 1
        # the optimiser would step once in so many minibatches.
        per_device_train_batch_size=spec["episodes"],
        gradient_accumulation_steps=1,
        num_mini_batches=spec["minibatches"],
        num_ppo_epochs=spec["epochs"],
        local_rollout_forward_batch_size=spec["episodes"],
        response_length=spec["response"],
        temperature=spec["temperature"],
        stop_token="eos",
        kl_coef=spec["kl_coef"],
        cliprange=spec["clip"],
        cliprange_value=spec["clip"],
        vf_coef=1.0,  # the networks share nothing, and Adam divides any factor out
        gamma=spec["gamma"],
        lam=spec["lam"],
        num_sample_generations=0,
    )
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer_of(spec, "left"),
        model=policy,
        ref_model=causal(spec["model"]),
        reward_model=classifier(spec["reward_model"]),
        value_model=value,
        train_dataset=rows(spec, "prompts-train").select_columns(["input_ids"]),
        optimizers=(optimizer, schedule),
        callbacks=[watch],
    )
    lengths = count_tokens()
    watch.start()
    trainer.train()
    result = watch.figures()
    trainer.save_model(str(Path(spec["out"]) / "model"))
    last = [line for line in trainer.state.log_history if "objective/kl" in line][-1]
    write_result(
        spec,
        {
            **result,
            "score": last["objective/scores"],
            "kl": last["objective/kl"],
            "tokens": sum(lengths) / len(lengths),
        },
    )


def count_tokens() -> list[float]:
    """Mean response tokens of every update to come, end included: the trainer does not log them."""
    lengths: list[float] = []
    truncate = ppo_trainer.truncate_response

    def counted(stop: int, pad: int, responses: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = truncate(stop, pad, responses)
        lengths.append(float((kept != pad).sum(1).float().mean()))
        return kept

    ppo_trainer.truncate_response = counted
    return lengths


if __name__ == "__main__":
    main()
