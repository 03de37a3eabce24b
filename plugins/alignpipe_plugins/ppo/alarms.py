"""Alarms: signs that a training has gone wrong, looked for in every update's figures (D66).

Pure: figures in, alarms out. The state is plain data and belongs into the checkpoint, so that a resumed training raises
the alarms that an uninterrupted one would. Each alarm is raised once, and again only after the trouble was gone for
`PATIENCE` updates; figures that are not finite are no question of patience, either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PATIENCE = 5
"""Updates in a row that must be bad for an alarm, and good for its end: one unlucky batch is no trouble."""
NEGATIVE_KL = -0.1
"""Nats per sequence. KL is not negative, its estimate from few samples may be: with 16 episodes one update falls below
this by chance in 4 of 100 at most, five in a row in one of ten million."""
ENTROPY_SHARE = 0.03
"""Of the first update's entropy. Sound trainings of small models were seen to fall to a tenth of it."""
LENGTH_SHARE = 0.25
"""Of the first update's mean length: more than learning to be brief."""
SAMPLING_Z = 5.0
"""Standard errors. By chance one update in two million is beyond it."""


@dataclass(frozen=True)
class Alarm:
    """One alarm: a title for lists, and what was seen and what to do."""

    title: str
    text: str


@dataclass(frozen=True)
class _Rule:
    """When a figure is bad, given its value in the first update."""

    title: str
    figure: str
    bad: Callable[[float, float], bool]
    text: str


_RULES = (
    _Rule(
        "negative KL",
        "objective/kl",
        lambda now, first: now < NEGATIVE_KL,
        f"the KL to the reference was below {NEGATIVE_KL:g} nats per sequence in {PATIENCE} updates in a row (now "
        "{now:.3g}). That is not noise: the tokens were not drawn from the distribution they are scored under, and the "
        "penalty pays for it. Look for a sampler with a filter or another temperature, and for a model that is run "
        "differently in rollout and scoring",
    ),
    _Rule(
        "entropy collapse",
        "policy/entropy_avg",
        lambda now, first: now < ENTROPY_SHARE * first,
        f"the policy's entropy was below {ENTROPY_SHARE:.0%} of the first update's in {PATIENCE} updates in a row (now "
        "{now:.3g} nats per token, then {first:.3g}). It gives one answer whatever chance says, and learns no more. "
        "Raise kl_coef or set kl_target, lower lr, and read samples: the reward may be fooled",
    ),
    _Rule(
        "length collapse",
        "response_length/mean",
        lambda now, first: now < LENGTH_SHARE * first,
        f"responses were shorter than {LENGTH_SHARE:.0%} of the first update's in {PATIENCE} updates in a row (now "
        "{now:.3g} tokens, then {first:.3g}). The reward may pay for saying nothing: read samples, raise kl_coef or "
        "set kl_target",
    ),
    _Rule(
        "sampler and policy differ",
        "val/sampling_z",
        lambda now, first: abs(now) > SAMPLING_Z,
        f"the sampled tokens were further than {SAMPLING_Z:g} standard errors from what the policy would give in "
        f"{PATIENCE} updates in a row (now "
        "{now:.3g}; below 0: likelier). The rollout slot samples with older weights, a filter or another temperature",
    ),
    _Rule(
        "no answer ends",
        "val/missing_eos_frac",
        lambda now, first: now == 1,
        f"not one response ended by itself in {PATIENCE} updates in a row (the share that did not is now "
        "{now:.3g}), so missing_eos_score is the score of all, and there is nothing to learn. Raise "
        "max_response_tokens, or fine-tune first (sft). If samples look whole, the model ends them with a token other "
        "than its tokenizer's eos_token: list both in its generation_config.json (eos_token_id)",
    ),
    _Rule(
        "not ending pays",
        "val/missing_eos_gain",
        lambda now, first: now > 0,
        f"missing_eos_score was above the mean score of the responses that ended in {PATIENCE} updates in a row "
        "(the difference is now {now:.3g}), so the policy learns not to end. Set missing_eos_score below the reward's "
        "usual scores, or to null, which leaves the reward's own",
    ),
)
_NOT_FINITE = "figures that are not finite"


class Watch:
    """Looks at the figures of one update after the other."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}
        self._streaks: dict[str, int] = {}  # updates in a row that speak for the other state, by title
        self._on: set[str] = set()

    @property
    def on(self) -> int:
        """How many alarms are on."""
        return len(self._on)

    @property
    def uneasy(self) -> bool:
        """Whether an alarm is on, or on its way."""
        return bool(self._on) or any(self._streaks.values())

    def look(self, figures: Mapping[str, float]) -> list[Alarm]:
        """Take in the figures of the next update; gives the alarms that it raises."""
        raised = []
        for rule in _RULES:
            if rule.figure not in figures:
                continue  # not defined in this update, which says neither
            now = figures[rule.figure]
            first = self._first.setdefault(rule.figure, now)
            if self._turned_on(rule.title, rule.bad(now, first), PATIENCE):
                raised.append(Alarm(rule.title, rule.text.format(now=now, first=first)))
        broken = [f"{name} ({value})" for name, value in figures.items() if not math.isfinite(value)]
        if self._turned_on(_NOT_FINITE, bool(broken), 1):
            text = f"{', '.join(broken)}: lower lr, and see that rewards and log-probabilities are bounded"
            raised.append(Alarm(_NOT_FINITE, text))
        return raised

    def state(self) -> dict[str, Any]:
        """What a checkpoint must remember."""
        return {"first": dict(self._first), "streaks": dict(self._streaks), "on": sorted(self._on)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._first, self._streaks, self._on = dict(state["first"]), dict(state["streaks"]), set(state["on"])

    def _turned_on(self, title: str, bad: bool, patience: int) -> bool:
        """Count the update, turn the alarm on or off where it is due; whether it was turned on."""
        was_on = title in self._on
        self._streaks[title] = self._streaks.get(title, 0) + 1 if bad != was_on else 0
        if self._streaks[title] < patience:
            return False
        self._streaks[title] = 0
        self._on ^= {title}
        return not was_on
