"""Learning-rate schedules as a factor of the step."""

from __future__ import annotations

import math

from alignpipe.options import Schedule


def rate(step: int, total: int, warmup: int, schedule: Schedule) -> float:
    """The factor in [0, 1] for 0-based `step` of `total`: linear warm-up, then down to 0 at `total` (or constant)."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (total - step) / max(1, total - warmup)
    if schedule is Schedule.linear:
        return left
    if schedule is Schedule.cosine:
        return 0.5 * (1 - math.cos(math.pi * left))
    return 1.0
