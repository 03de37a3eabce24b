"""What config dataclasses share: the choices several components offer, and checks that name the field."""

from __future__ import annotations

import math
from enum import Enum
from urllib.parse import urlsplit


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


class LinearType(Enum):
    """The type in which linear layers multiply, if not that of their weights."""

    bfloat16 = "bfloat16"


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
