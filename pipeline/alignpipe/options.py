"""What config dataclasses share: the choices several components offer, and checks that name the field."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

PATTERN_SECONDS = 1.0
"""How long one regular expression may search one text; some need longer than the universe has been there."""


class Schedule(Enum):
    """How the learning rate falls after the warm-up."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class Forward(Enum):
    """How a model is run in training and sampling."""

    auto = "auto"
    """Without padding where alignpipe knows the family (Llama, Mistral, Qwen2, Qwen3), else as `general`."""
    general = "general"
    """By the model's own forward pass."""


class ModelLinearDtype(Enum):
    """The type in which linear layers multiply, if not that of their weights."""

    bfloat16 = "bfloat16"


class LinearDtype(Enum):
    """The type in which the linear layers of models that learn together multiply."""

    model = "model"
    """As the model slot says: `model.linear_dtype`, or the type of the weights."""
    auto = "auto"
    """bfloat16 on a CPU with instructions that make the model faster, where weights are float32; else as `model`."""
    float32 = "float32"
    bfloat16 = "bfloat16"


class Precision(Enum):
    """The type in which a pretrained model's weights are loaded, and trained and saved if they are."""

    auto = "auto"
    """Whatever the checkpoint holds."""
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(frozen=True)
class RequestOptions:
    """How a service is asked over HTTP: to be inherited by a component's config; none of it changes a result."""

    concurrency: int = field(default=8, metadata={"help": "requests at the same time", "fingerprint": False})
    timeout: float = field(default=60.0, metadata={"help": "seconds one request may take", "fingerprint": False})
    retries: int = field(
        default=3, metadata={"help": "how often a request that failed is sent again", "fingerprint": False}
    )
    backoff: float = field(
        default=1.0, metadata={"help": "seconds before the first retry; twice as long each time", "fingerprint": False}
    )
    longest_wait: float = field(
        default=60.0,
        metadata={"help": "most seconds to wait before a retry, Retry-After included", "fingerprint": False},
    )

    def __post_init__(self) -> None:
        check_at_least(self, 1, "concurrency")
        check_at_least(self, 0, "retries")
        check_positive(self, "timeout", "backoff", "longest_wait")


def check_at_least(config: object, least: float, *names: str) -> None:
    """Raise `ValueError` naming the first of the fields that is below `least`."""
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} must be at least {least:g}, got {getattr(config, name)}")


def check_positive(config: object, *names: str) -> None:
    """Raise `ValueError` naming the first of the fields that is not a positive finite number."""
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be a positive number, got {value}")


def check_share(config: object, *names: str) -> None:
    """Raise `ValueError` naming the first of the fields that does not lie in [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(config, name)}")


def check_pattern(name: str, pattern: str) -> None:
    """Raise `ValueError` naming the field if the text is no regular expression (of `regex`, which has a time limit)."""
    import regex  # here, since --help and TAB import this module

    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{name} is no regular expression: {error}; got {pattern!r}") from error


def check_url(config: object, *names: str) -> None:
    """Raise `ValueError` naming the first of the fields that is no http(s) address, or that holds a password."""
    for name in names:
        value = getattr(config, name)
        parts = urlsplit(value)
        if value == "???":  # not set, which is reported elsewhere
            continue
        if "@" in parts.netloc:
            raise ValueError(f"{name} must not hold a user or a password; name an environment variable instead")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{name} must be an address like https://host/path, got {value!r}")
