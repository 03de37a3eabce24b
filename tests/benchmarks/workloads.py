"""What is measured: model sizes and one recipe, the single home of the hyperparameters of both sides.

`Recipe.overrides` gives them to alignpipe, `Recipe.spec` to the drivers of TRL (`trl_*.py`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flops import Shape


@dataclass(frozen=True)
class Size:
    """A model of model=tiny."""

    hidden: int
    layers: int
    heads: int
    intermediate: int

    def overrides(self) -> list[str]:
        """As alignpipe's options."""
        return [
            f"model.hidden_size={self.hidden}",
            f"model.layers={self.layers}",
            f"model.heads={self.heads}",
            f"model.intermediate_size={self.intermediate}",
        ]

    def shape(self, vocabulary: int) -> Shape:
        """What its operations are counted from."""
        return Shape(self.hidden, self.layers, self.intermediate, vocabulary)


SIZES = {"tiny": Size(128, 4, 4, 512), "small": Size(384, 6, 6, 1024)}
"""1.13 M and 10.9 M parameters with the tokenizer of data=support."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters; the policy options serve PPO and GRPO."""

    seed: int = 0
    sft_steps: int = 400
    sft_batch: int = 16
    sft_lr: float = 2e-3
    sft_warmup_share: float = 0.05
    sft_adam_eps: float = 1e-8
    reward_steps: int = 320
    reward_batch: int = 16
    reward_lr: float = 5e-4
    reward_warmup_share: float = 0.03
    reward_adam_eps: float = 1e-5
    max_grad_norm: float = 1.0
    updates: int = 6
    episodes: int = 64
    epochs: int = 2
    minibatches: int = 2
    response: int = 48
    temperature: float = 0.7
    lr: float = 3e-4
    critic_lr: float = 5e-4
    adam_eps: float = 1e-5
    kl_coef: float = 0.2
    clip: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    group_size: int = 8

    def spec(self) -> dict[str, Any]:
        """As the drivers of TRL read it."""
        warmup = {
            "sft_warmup": round(self.sft_warmup_share * self.sft_steps),
            "reward_warmup": round(self.reward_warmup_share * self.reward_steps),
        }
        return asdict(self) | warmup

    def overrides(self, ppo: str = "ppo") -> list[str]:
        """As alignpipe's options: no normalised reward and no score for a missing end, which TRL has not alike.

        Checkpoints and held-out evaluations are put off to the end; TRL's drivers make none on the way either.
        """
        sft: dict[str, object] = {
            "max_steps": self.sft_steps,
            "batch_size": self.sft_batch,
            "micro_batch_size": self.sft_batch,
        }
        sft |= {"lr": self.sft_lr, "warmup_share": self.sft_warmup_share, "adam_eps": self.sft_adam_eps}
        reward: dict[str, object] = {
            "max_steps": self.reward_steps,
            "batch_size": self.reward_batch,
            "lr": self.reward_lr,
        }
        reward |= {"micro_batch_size": self.reward_batch, "warmup_share": self.reward_warmup_share}
        reward |= {"adam_eps": self.reward_adam_eps, "normalise": "none"}
        both: dict[str, object] = {
            "log_every": 1,
            "eval_every": 100_000,
            "save_every": 100_000,
            "max_grad_norm": self.max_grad_norm,
            "linear_dtype": "model",
        }
        loop: dict[str, object] = {"max_steps": self.updates, "episodes": self.episodes, "epochs": self.epochs}
        loop |= {"minibatches": self.minibatches, "micro_batch_size": self.episodes // self.minibatches}
        loop |= {"max_response_tokens": self.response, "temperature": self.temperature, "lr": self.lr}
        loop |= {"adam_eps": self.adam_eps, "kl_coef": self.kl_coef, "clip_range": self.clip}
        loop |= {"max_grad_norm": self.max_grad_norm, "missing_eos_score": "null", "schedule": "linear"}
        loop |= {"eval_every": 100_000, "save_every": 100_000, "linear_dtype": "model"}
        if ppo == "ppo":
            loop |= {"critic_lr": self.critic_lr, "gamma": self.gamma, "lam": self.lam, "clip_range_value": self.clip}
        else:
            loop |= {"group_size": self.group_size}
        slots = {"sft": sft | both, "reward": reward | both, "ppo": loop}
        keys = [f"{slot}.{key}={value}" for slot, options in slots.items() for key, value in options.items()]
        return [f"seed={self.seed}", f"ppo={ppo}", *keys]
