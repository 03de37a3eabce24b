"""Options of model=pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from alignpipe.options import Forward, ModelLinearDtype, Precision, check_at_least, check_positive


@dataclass(frozen=True)
class PretrainedConfig:
    """Which model to start from, in which precision, and whether to train all of it or adapters."""

    # Neither where a model lies nor what its revision is called is in the stage key: `revision` says what it holds.
    path: str = field(
        default="???",
        metadata={
            "help": "a checkpoint folder (relative to where the command is given), or a hub name: Qwen/Qwen3-0.6B",
            "fingerprint": False,
        },
    )
    hub_revision: str | None = field(
        default=None, metadata={"help": "hub names: commit, tag or branch; unset: main", "fingerprint": False}
    )
    dtype: Precision = field(
        default=Precision.float32,
        metadata={"help": "type of the policy's weights: auto (the checkpoint's), float32, bfloat16, float16"},
    )
    attention: str | None = field(
        default=None,
        metadata={"help": "transformers' attn_implementation: eager, sdpa, flash_attention_2 ...; unset: its choice"},
    )
    forward: Forward = field(
        default=Forward.auto,
        metadata={"help": "auto (without padding where the family is known) or general (transformers' own forward)"},
    )
    linear_dtype: ModelLinearDtype | None = field(
        default=None,
        metadata={
            "help": "bfloat16: linear layers multiply in it, weights and all else stay float32; unset: as weights"
        },
    )
    gradient_checkpointing: bool = field(
        default=False,
        metadata={"help": "training computes the blocks' activations twice in place of keeping them: less memory"},
    )
    shard: bool = field(
        default=False,
        metadata={
            "help": "several processes split what they train (FSDP2): weights, gradients and optimiser states",
            "fingerprint": False,
        },
    )
    chat_template: str | None = field(
        default=None,
        metadata={"help": "a Jinja file in place of the tokenizer's own chat template", "fingerprint": False},
    )
    lora_rank: int = field(default=0, metadata={"help": "rank of LoRA adapters; 0: all weights are trained"})
    lora_alpha: float = field(default=32.0, metadata={"help": "LoRA: adapters are scaled by lora_alpha / lora_rank"})
    lora_dropout: float = field(
        default=0.0,
        metadata={
            "help": "LoRA: dropout in front of the adapters in sft and the reward model; ppo switches it off (D19)"
        },
    )
    lora_targets: list[str] = field(
        default_factory=list, metadata={"help": "LoRA: names of the layers to adapt; empty: every linear layer"}
    )

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError("path is empty; give a checkpoint folder or a hub name")
        check_at_least(self, 0, "lora_rank")
        check_positive(self, "lora_alpha")
        if self.linear_dtype is not None and self.dtype is not Precision.float32:
            raise ValueError(
                f"linear_dtype={self.linear_dtype.value} is for float32 weights, but dtype={self.dtype.value}: "
                "set dtype=float32, or leave linear_dtype unset"
            )
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must lie in [0, 1), got {self.lora_dropout}")

    def revision(self) -> Mapping[str, str]:
        """What the model is, for the stage key: a digest of a folder's files, or a hub name with its commit.

        Raises `ModelError` for a folder that is no checkpoint and a hub name that cannot be reached, `ConfigError` for
        a chat template that is not there.
        """
        from alignpipe.training.location import resolve_model
        from alignpipe_plugins.model_pretrained.template import template_text, text_digest

        found = {"model": resolve_model(self.path, self.hub_revision).fingerprint()}
        if self.chat_template is not None:
            found["chat_template"] = text_digest(template_text(self.chat_template))
        return found
