"""Loading, checking and saving models: what the `model` slot offers, and what every stage does with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from alignpipe.api import Artifact
from alignpipe.errors import ModelError, first_line
from alignpipe.ops.logprobs import widened
from alignpipe.training.tokens import check_tokenizer, end_of_turn

_LAYER = re.compile(r"\.(\d+)\.")
"""The number of a layer in a weight's name."""


class ModelSource(Protocol):
    """What a component of the `model` slot builds."""

    @property
    def shard(self) -> bool:
        """Whether several processes split what they train among them, in place of a copy each."""
        ...

    @property
    def trains_tokenizer(self) -> bool:
        """Whether the tokenizer is trained, so that it depends on the texts that it is made of."""
        ...

    def tokenizer(self, texts: Sequence[str]) -> PreTrainedTokenizerBase:
        """The base model's tokenizer; one that is trained is trained on `texts`."""
        ...

    def context_length(self) -> int | None:
        """The most tokens the model can read; None if it does not say."""
        ...

    def base(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
        """The base model."""
        ...

    def load(self, folder: Path) -> PreTrainedModel:
        """A causal language model from a checkpoint folder, in this slot's precision and attention."""
        ...

    def load_scorer(self, folder: Path) -> PreTrainedModel:
        """A sequence classifier with one output from a checkpoint folder; a missing head is made new."""
        ...

    def adapt(self, model: PreTrainedModel) -> nn.Module:
        """What is trained instead of the model: itself, or the model with adapters."""
        ...

    def merge(self, model: nn.Module) -> PreTrainedModel:
        """The ordinary model again, adapters folded in."""
        ...


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Policy:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a response: the tokenizer's EOS, and what else the model's generation config names."""
        others = _as_list(getattr(self.model, "generation_config", None))
        return tuple(dict.fromkeys([int(self.tokenizer.eos_token_id), *others]))


def open_policy(
    source: ModelSource, artifact: Artifact | None, texts: Callable[[], Sequence[str]], seed: int
) -> Policy:
    """Load a policy artifact, or build the base model where the port is fed by it.

    Raises `ModelError` for a folder that is no checkpoint, or a tokenizer that cannot end a response.
    """
    if artifact is None or artifact.stage == "base":
        tokenizer = source.tokenizer(texts())
        check_tokenizer(tokenizer, "the base model")
        model = source.base(tokenizer, seed)
    else:
        tokenizer = load_tokenizer(artifact.folder)
        model = source.load(artifact.folder)
    fit_tokenizer(model, tokenizer)
    return Policy(model, tokenizer)


def fit_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model an embedding row for every token (D01's new pad token may need one), and its pad and EOS ids.

    New rows are drawn near the mean of the old ones, always the same: every stage that opens the base model gets the
    very same weights, and so does a run that is resumed.
    """
    rows = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    if len(tokenizer) > rows:
        with torch.random.fork_rng(devices=[]), _quiet():
            torch.manual_seed(0)
            model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    generation = getattr(model, "generation_config", None)  # what transformers' generate goes by; classifiers have none
    if generation is not None:
        generation.pad_token_id = tokenizer.pad_token_id
        # A list was written by somebody; a single id may be the default of a config that knows no tokenizer.
        ends = _as_list(generation) if isinstance(generation.eos_token_id, list) else []
        if tokenizer.eos_token_id not in ends:
            ends.insert(0, int(tokenizer.eos_token_id))
        generation.eos_token_id = ends if len(ends) > 1 else ends[0]


def _as_list(generation: GenerationConfig | None) -> list[int]:
    """The ids that `generate` stops at."""
    ends = None if generation is None else generation.eos_token_id
    return [] if ends is None else list(ends) if isinstance(ends, list) else [int(ends)]


def load_tokenizer(
    name: str | Path, revision: str | None = None, chat_template: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a policy's checkpoint folder or hub name, checked (EOS there, pad distinct from it).

    `chat_template` replaces its own. Its EOS is the token that closes an assistant's message in the template, if that
    is one of those at which the model stops: many a tokenizer of a chat model names that of its base model.
    """
    tokenizer = load_plain_tokenizer(name, revision)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    if tokenizer.chat_template:
        end = end_of_turn(tokenizer, _published_ends(name, revision))
        if end is not None:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    check_tokenizer(tokenizer, str(name))
    return tokenizer


def _published_ends(name: str | Path, revision: str | None) -> list[int]:
    """The end tokens of a checkpoint's generation config; none if it has no such file."""
    try:
        with _quiet():
            return _as_list(GenerationConfig.from_pretrained(str(name), revision=revision or "main"))
    except OSError:
        return []


def load_plain_tokenizer(name: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer as it was published, for a model that writes nothing."""
    try:
        return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(str(name), revision=revision or "main"))
    except Exception as error:  # it reads config.json too (see `load_config`)
        none = Path(name).is_dir() and not any((Path(name) / file).is_file() for file in _TOKENIZER_FILES)
        why = f"it holds none of {', '.join(_TOKENIZER_FILES)}" if none else " ".join(str(error).split())
        raise ModelError(f"no tokenizer can be loaded from {name}: {why}") from error


def load_causal(name: str | Path, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """A causal language model with all dropout at 0 (D19); `options` go to `from_pretrained`.

    Raises `ModelError` if `name` is neither a checkpoint folder nor a loadable hub name.
    """
    model = _load(AutoModelForCausalLM, name, revision, options)
    _check_causal(model, name)
    return model


def _check_causal(model: PreTrainedModel, name: str | Path) -> None:
    """Raise `ModelError` for a model that sees the tokens it predicts, as an encoder loaded as a decoder does."""
    last = cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0] - 1
    rows = torch.tensor([[0, min(1, last), 0], [0, min(1, last), last]], device=model.device)
    was = model.training
    with torch.no_grad():
        one, other = model.train(False)(rows, use_cache=False).logits[:, 0].float()
    model.train(was)
    rounding = max(1e-4, 8 * torch.finfo(model.dtype).eps)
    if (one - other).abs().max() > rounding * one.abs().max():
        raise ModelError(
            f"{name} holds a {type(model).__name__} that is not causal: what it predicts depends on the tokens behind, "
            "so it cannot be a policy; of an encoder that can be a decoder set is_decoder in its config.json"
        )


def load_scorer(name: str | Path, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """A sequence classifier with one output and all dropout at 0 (D19); a head the checkpoint lacks is made new."""
    return _load(AutoModelForSequenceClassification, name, revision, {**options, "num_labels": 1}, new="score.")


def load_classifier(name: str | Path, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """A sequence classifier with the labels it was trained on and all dropout at 0.

    Raises `ModelError` if `name` is neither a checkpoint folder nor a loadable hub name, or has no trained head.
    """
    return _load(AutoModelForSequenceClassification, name, revision, options)


def load_config(name: str | Path, revision: str | None = None, **options: Any) -> PreTrainedConfig:
    """A model's config.

    Raises `ModelError` for one that transformers cannot use.
    """
    try:
        with _quiet():
            return cast(PreTrainedConfig, AutoConfig.from_pretrained(str(name), revision=revision or "main", **options))
    except Exception as error:  # of torch, huggingface_hub, or Python's own, by what is wrong with which field
        raise ModelError(f"the config.json of {name} cannot be used: {' '.join(str(error).split())}") from error


def _load(auto: Any, name: str | Path, revision: str | None, options: dict[str, Any], new: str = "") -> PreTrainedModel:
    """Load with `auto`; weights whose name begins with `new` may be missing from the checkpoint."""
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ModelError(f"{name} is no checkpoint folder: it has no config.json")
    labels = {"num_labels": options.pop("num_labels")} if "num_labels" in options else {}
    config = load_config(name, revision, **labels)
    if auto is AutoModelForSequenceClassification and type(config) not in auto._model_mapping:
        raise ModelError(
            f"{name}: transformers has no sequence classifier of this kind of model, which reward=bradley_terry and "
            "the critic of ppo=ppo are; take another reward (reward=rules ...) and ppo=grpo, rloo or reinforce_pp"
        )
    without_dropout(config)
    try:
        with _quiet():
            model, info = auto.from_pretrained(
                str(name),
                revision=revision or "main",
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told below; its own error only points to a log
                **options,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"no model can be loaded from {name}: {first_line(error)}") from error
    if other := [f"{key} is {list(is_)}, not {list(wanted)}" for key, is_, wanted in sorted(info["mismatched_keys"])]:
        raise ModelError(f"weights of the checkpoint {name} do not fit its config.json: {_some(other)}")
    missing = sorted(key for key in info["missing_keys"] if not (new and key.startswith(new)))
    if missing:
        raise ModelError(f"the checkpoint {name} lacks weights of a {type(model).__name__}: {_some(missing)}")
    if further := _further_layers(model, info["unexpected_keys"]):
        raise ModelError(f"the checkpoint {name} has more layers than its config.json says: {_some(further)}")
    return cast(PreTrainedModel, model)


def _further_layers(model: PreTrainedModel, left_out: Iterable[str]) -> list[str]:
    """Weights of layers that the config does not count, nor as layers for further tokens (DeepSeek, GLM)."""
    config = model.config.get_text_config()
    counted = getattr(config, "num_hidden_layers", None)
    if not isinstance(counted, int):
        return []
    counted += getattr(config, "num_nextn_predict_layers", None) or 0
    known = model.state_dict().keys()
    further = []
    for name in left_out:
        number = _LAYER.search(name)
        if number and int(number[1]) >= counted:
            first = _LAYER.sub(".0.", name, count=1)
            if first in known or f"{model.base_model_prefix}.{first}" in known:
                further.append(name)
    return sorted(further)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the screen: transformers' progress bar (stages have their own), remarks on what is done on purpose."""
    level = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def without_dropout(config: PreTrainedConfig) -> None:
    """Set every dropout probability of a model config to 0, in place (D19): otherwise the first ratio is not 1.

    Those of the configs in it (`text_config`) too.
    """
    for key, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            without_dropout(value)
        elif "drop" in key and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, key, type(value)(0))


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write an ordinary Hugging Face checkpoint: safetensors, config and tokenizer."""
    with _quiet():
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))


def context_length(model: PreTrainedModel) -> int | None:
    """The most tokens a loaded model can read, or None if its config does not say."""
    return config_context_length(model.config)


def config_context_length(config: PreTrainedConfig) -> int | None:
    """The same from a model's config alone."""
    for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def limit_length(wanted: int, model: PreTrainedModel) -> int:
    """The tokens a row may hold: what the config wants, or the model's context if that is less."""
    return min(wanted, context_length(model) or wanted)


class TokenScorer(nn.Module):
    """One float for every position: a sequence classifier read at each token, not only at the last (reward and critic).

    Raises `ModelError` for a classifier whose head is not called `score` (decoder models of transformers all are).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        if not isinstance(getattr(model, "score", None), nn.Module):
            raise ModelError(
                f"{type(model).__name__} has no head called 'score'; use a decoder model as reward and critic"
            )
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Scores [B, L] of the right-padded `input_ids` [B, L]; without a mask, causality keeps pads out."""
        backbone = getattr(self.model, self.model.base_model_prefix)
        options = {"attention_mask": attention_mask, "position_ids": position_ids}
        given = {key: value for key, value in options.items() if value is not None}
        hidden = backbone(input_ids, use_cache=False, **given).last_hidden_state
        return widened(cast(nn.Linear, self.model.score)(hidden).squeeze(-1).clone())  # FSDP warns of views


def new_score_head(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Draw the scalar head anew from N(0, 1/(d+1)), bias 0 (D10: standard deviation 1/sqrt(d+1))."""
    head = cast(nn.Linear, model.score)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) / (head.in_features + 1) ** 0.5)
        if head.bias is not None:
            head.bias.zero_()
