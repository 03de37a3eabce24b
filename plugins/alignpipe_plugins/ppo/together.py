"""Scoring by several processes: each asks the reward about its share, and all get every score."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from alignpipe.api import Sample
from alignpipe.rewarding.judge import Judge, Scored
from alignpipe.training.parallel import Team


def score_together(team: Team, judge: Judge, samples: Sequence[Sample], spared: Collection[int] = ()) -> Scored:
    """What the judge says of `samples`, as if one process had asked it; to fail on those `spared` costs nothing.

    Raises what `Judge.score` raises.
    """
    if team.size == 1:
        return judge.score(samples, spared)
    rows = team.share([len(sample.response_ids or ()) for sample in samples])
    own = Scored([])
    if rows:
        own_spared = [index for index, row in enumerate(rows) if row in spared]
        own = judge.score_share([samples[row] for row in rows], len(samples), own_spared)
    shares = team.gather((rows, own))
    names = list(dict.fromkeys(name for _, share in shares for name in share.parts))
    total = [math.nan] * len(samples)
    parts = {name: [math.nan] * len(samples) for name in names}
    per_token: list[list[float]] = [[] for _ in samples]
    for rows, share in shares:
        for index, row in enumerate(rows):
            total[row] = share.total[index]
            for name, column in share.parts.items():
                parts[name][row] = column[index]
            if share.per_token is not None:
                per_token[row] = share.per_token[index]
    failures = {rows[index]: failure for rows, share in shares for index, failure in share.failures.items()}
    judge.check_failures(failures, samples, spared)
    split = any(share.per_token is not None for _, share in shares)
    return Scored(total, parts, per_token if split else None, dict(sorted(failures.items())))
