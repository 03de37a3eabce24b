"""Options of reward=mix."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from alignpipe.api import Selected
from alignpipe.options import check_at_least

CONTRIBUTION, CLIPPED = "contribution", "clipped"
"""Under these names the mix says what members came to, so no member can be called so."""


class Combine(Enum):
    """How the members' scores become one."""

    sum = "sum"
    """Each times its weight, added up."""
    min = "min"
    """The lowest."""
    mean_minus_spread = "mean_minus_spread"
    """Their mean minus `spread_coef` times their standard deviation."""


class Normalise(Enum):
    """On which training texts a member's scores are to have mean 0 and standard deviation 1."""

    none = "none"
    """Its scores are left as they are."""
    demonstrations = "demonstrations"
    preferences = "preferences"
    """Both answers of each pair."""


@dataclass(frozen=True)
class MixConfig:
    """Which rewards, and how they become one; everything but `members` may be left out, for one member or all."""

    members: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "the rewards, by names of yours: +reward@reward.members.<name>=<option>; the part <name> is what "
            "it said, the parts contribution/<name> add up to the total"
        },
    )
    combine: Combine = field(
        default=Combine.sum, metadata={"help": "sum (weighted), min, or mean_minus_spread over an ensemble"}
    )
    weights: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "combine=sum: member -> its weight (1 where not given; 0: a curve only)"},
    )
    spread_coef: float = field(
        default=1.0, metadata={"help": "combine=mean_minus_spread: how many standard deviations are taken off the mean"}
    )
    normalise: dict[str, Normalise] = field(
        default_factory=dict,
        metadata={"help": "member -> demonstrations or preferences: texts on which it gets mean 0 and deviation 1"},
    )
    normalise_samples: int = field(default=256, metadata={"help": "most texts the normalisation is measured on"})
    clip: dict[str, list[float]] = field(
        default_factory=dict,
        metadata={"help": "member -> [lowest,highest] that it may contribute, after normalisation, before its weight"},
    )

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError(
                "members is empty: add rewards with +reward@reward.members.<name>=<option>, for example "
                "+reward@reward.members.short=rules reward.members.short.max_words=30"
            )
        for name, member in self.members.items():
            _check_member(name, member)
        for key in ("weights", "normalise", "clip"):
            for name in getattr(self, key):
                if name not in self.members:
                    raise ValueError(f"{key}.{name}: there is no such member; there are {', '.join(self.members)}")
        self._check_combine()
        for name, limits in self.clip.items():
            if len(limits) != 2 or not limits[0] < limits[1]:
                raise ValueError(f"clip.{name} must be [lowest,highest], got {list(limits)}")
        check_at_least(self, 2, "normalise_samples")

    def chosen(self) -> dict[str, Selected]:
        """The members as selections, also where they were read from an artifact."""
        return {
            name: member if isinstance(member, Selected) else Selected(**member)
            for name, member in self.members.items()
        }

    def _check_combine(self) -> None:
        if self.combine is not Combine.sum:
            if self.weights:
                raise ValueError(f"weights are for combine=sum, but combine={self.combine.name}")
            if len(self.members) < 2:
                raise ValueError(f"combine={self.combine.name} needs at least two members, there is one")
        if self.combine is not Combine.mean_minus_spread and self.spread_coef != 1.0:
            raise ValueError(f"spread_coef is for combine=mean_minus_spread, but combine={self.combine.name}")
        check_at_least(self, 0, "spread_coef")
        for name, weight in self.weights.items():
            if not math.isfinite(weight):
                raise ValueError(f"weights.{name} must be a finite number, got {weight}")
        if not any(self.weights.get(name, 1.0) for name in self.members):
            raise ValueError("weights are all 0: every answer would score the same")


def _check_member(name: str, member: Any) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"members.{name}: a member's name is made of letters, digits, - and _")
    if name in (CONTRIBUTION, CLIPPED):
        raise ValueError(f"members.{name}: the mix names parts of its own so; call the member something else")
    plain = isinstance(member, Mapping) and member.keys() == {"group", "name", "config"}
    if not isinstance(member, Selected) and not plain:
        raise ValueError(
            f"members.{name}={member!r:.60} is no reward; choose one with +reward@reward.members.{name}=<option>"
        )
    group = member.group if isinstance(member, Selected) else member["group"]
    if group != "reward":
        raise ValueError(f"members.{name} is an option of {group}, but members of a mix are rewards")
