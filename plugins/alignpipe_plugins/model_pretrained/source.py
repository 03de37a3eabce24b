"""The pretrained model: transformers' auto classes, and peft's adapters around them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from jinja2 import Environment, TemplateSyntaxError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from alignpipe.api import BuildContext
from alignpipe.errors import ConfigError, ModelError
from alignpipe.options import Forward
from alignpipe.training.location import Location, resolve_model
from alignpipe.training.models import config_context_length, load_causal, load_config, load_scorer, load_tokenizer
from alignpipe.training.packed.models import set_forward
from alignpipe_plugins.model_pretrained.config import PretrainedConfig
from alignpipe_plugins.model_pretrained.template import template_text


class PretrainedSource:
    """Loads a model somebody else has trained, and every checkpoint made from it, in one precision."""

    trains_tokenizer = False

    def __init__(self, config: PretrainedConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self.shard = config.shard

    def tokenizer(self, texts: Sequence[str]) -> PreTrainedTokenizerBase:
        """The model's own tokenizer, with `chat_template` in place of its own if that is set.

        Raises `ModelError` if it cannot be loaded or has no end-of-sequence token, `ConfigError` for a template that
        is no Jinja.
        """
        where = self._locate()
        template = None if self._config.chat_template is None else _template(self._config.chat_template)
        with self._named():
            return load_tokenizer(where.name, where.commit, template)

    def context_length(self) -> int | None:
        """The most tokens the model can read, from its config alone."""
        where = self._locate()
        with self._named():
            return config_context_length(load_config(where.name, where.commit))

    def base(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
        """The model as it was published."""
        where = self._locate()
        with self._named():
            return self._ready(load_causal(where.name, where.commit, **self._options()))

    def load(self, folder: Path) -> PreTrainedModel:
        """A checkpoint of an earlier stage, in this precision and attention."""
        return self._ready(load_causal(folder, **self._options()))

    def load_scorer(self, folder: Path) -> PreTrainedModel:
        """The same as a classifier with one output, in float32 whatever `dtype` says.

        Reward model and critic are trained whole; at their learning rates every update would round to nothing in
        bfloat16.
        """
        return self._to_train(self._ready(load_scorer(folder, **{**self._options(), "dtype": "float32"})))

    def adapt(self, model: PreTrainedModel) -> nn.Module:
        """The model itself, or with `lora_rank` the model with adapters, which alone are trained.

        The adapters are drawn from the run's seed, so that an interrupted run starts from the very same ones. The model
        is changed in place.

        Raises `ConfigError` if peft is not installed or the model has no such layers.
        """
        self._to_train(model)
        if self._config.lora_rank == 0:
            return model
        peft = _peft()
        lora = peft.LoraConfig(
            r=self._config.lora_rank,
            lora_alpha=self._config.lora_alpha,
            lora_dropout=self._config.lora_dropout,
            target_modules=list(self._config.lora_targets) or "all-linear",
            # GPT-2 keeps its weights the other way round; peft would find out, with a warning.
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # peft's
            torch.manual_seed(self._seed)
            try:
                adapted = cast(nn.Module, peft.get_peft_model(model, lora))
            except ValueError as error:
                targets = list(self._config.lora_targets)
                key = f"model.lora_targets={targets}" if targets else f"model.lora_rank={self._config.lora_rank}"
                more = "" if targets else "; name the layers for adapters with model.lora_targets=[...]"
                raise ConfigError(f"{key}: {error}{more}") from error
        _check_untied(adapted, model)
        return adapted

    def merge(self, model: nn.Module) -> PreTrainedModel:
        """The ordinary model, adapters folded into its weights; `model` cannot be trained on afterwards."""
        if isinstance(model, PreTrainedModel):
            return model
        merged = cast(Any, model).merge_and_unload()
        return cast(PreTrainedModel, merged.requires_grad_(True))

    def _ready(self, model: PreTrainedModel) -> PreTrainedModel:
        # What trains with checkpointing cannot be run without padding. Nor is what it is compared with (a reference):
        # in bfloat16 the two ways round differently enough to look like a KL.
        forward = Forward.general if self._config.gradient_checkpointing else self._config.forward
        return set_forward(model, forward, self._config.linear_dtype)

    def _to_train(self, model: PreTrainedModel) -> PreTrainedModel:
        if self._config.gradient_checkpointing:
            # Its older name warns where the newer one is there.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            try:
                enable({"use_reentrant": False})
            except ValueError as error:
                raise ConfigError(f"model.gradient_checkpointing=true: {error}") from error
        return model

    def _locate(self) -> Location:
        return resolve_model(self._config.path, self._config.hub_revision)

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"dtype": self._config.dtype.value}
        if self._config.attention is not None:
            options["attn_implementation"] = self._config.attention
        return options

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say in every error which key named the model."""
        try:
            yield
        except ModelError as error:
            raise ModelError(f"model.path={self._config.path}: {error}") from error


def _check_untied(adapted: nn.Module, model: PreTrainedModel) -> None:
    """Raise `ConfigError` for an adapter on weights that two layers share.

    Folded into them it would change the other layer too, which it did not in training.
    """
    owners: dict[int, set[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(weight), set()).add(name.replace(".base_layer", ""))
    for name, module in adapted.named_modules():
        base = getattr(module, "base_layer", None)
        if base is not None and len(owners.get(id(base.weight), ())) > 1:
            raise ConfigError(
                f"model.lora_targets: {name.removeprefix('base_model.model.')} shares its weights with another layer "
                "(tie_word_embeddings), which an adapter would change too when it is folded in; leave it out"
            )


def _template(path: str) -> str:
    text = template_text(path)
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"model.chat_template={path}, line {error.lineno}: {error.message}") from error
    return text


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            f"model.lora_rank needs peft, which cannot be imported ({error}): pip install 'alignpipe[lora]', "
            "or leave model.lora_rank at 0"
        ) from error
    return peft


def build(config: PretrainedConfig, context: BuildContext) -> PretrainedSource:
    """The component's factory."""
    return PretrainedSource(config, context.seed)
