"""Which rows of a batch are computed together: shares of like work, and groups of like length.

A row is an index; row r has `lengths[r]` tokens, and only those in `rows` count where that is given. With `groups` the
rows of one number `groups[r]` begin with the same prompt; they are kept together, since a prompt is read once for all
rows of a forward pass (`packed`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence


def by_length(
    lengths: Sequence[int], size: int, *, rows: Sequence[int] | None = None, groups: Sequence[int] | None = None
) -> Iterator[list[int]]:
    """The rows from short to long, at most `size` at a time, so that little padding is computed."""
    order = [row for cluster in _clusters(lengths, rows, groups) for row in cluster]
    for start in range(0, len(order), size):
        yield order[start : start + size]


def shares(
    lengths: Sequence[int], count: int, *, rows: Sequence[int] | None = None, groups: Sequence[int] | None = None
) -> list[list[int]]:
    """The rows in `count` shares of like length, whose numbers of rows differ by one at most, the first the largest.

    A group is split only if its share would become too large. One share has the rows in the order given.
    """
    if count == 1:
        return [list(range(len(lengths)) if rows is None else rows)]
    clusters = _clusters(lengths, rows, groups)
    if all(len(cluster) == 1 for cluster in clusters):
        return [[row for (row,) in clusters[start::count]] for start in range(count)]
    return _dealt(clusters, lengths, count)


def _clusters(lengths: Sequence[int], rows: Sequence[int] | None, groups: Sequence[int] | None) -> list[list[int]]:
    """The rows of each group, from short to long; so are the groups, by their mean. Without groups each row is one."""
    found: dict[int, list[int]] = {}
    for row in sorted(range(len(lengths)) if rows is None else rows, key=lambda row: lengths[row]):
        found.setdefault(row if groups is None else groups[row], []).append(row)
    return sorted(found.values(), key=lambda cluster: _tokens(cluster, lengths) / len(cluster))


def _dealt(clusters: Sequence[Sequence[int]], lengths: Sequence[int], count: int) -> list[list[int]]:
    """The clusters with most tokens first, each to the share with the fewest tokens among those with room for it.

    A cluster that fits nowhere is cut into interleaved parts.
    """
    total = sum(len(cluster) for cluster in clusters)
    room = [len(range(start, total, count)) for start in range(count)]
    dealt: list[list[int]] = [[] for _ in room]
    left = deque(sorted(clusters, key=lambda cluster: _tokens(cluster, lengths), reverse=True))
    while left:
        cluster = left.popleft()
        fitting = [share for share, limit in zip(dealt, room, strict=True) if len(share) + len(cluster) <= limit]
        if fitting:
            min(fitting, key=lambda share: _tokens(share, lengths)).extend(cluster)
        else:
            parts = min(count, len(cluster))
            left.extend(cluster[start::parts] for start in range(parts))
    return dealt


def _tokens(rows: Sequence[int], lengths: Sequence[int]) -> int:
    return sum(lengths[row] for row in rows)
