"""Which rows are computed together: every row once, even shares, groups kept whole."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from alignpipe.training.ordering import by_length, shares

ROWS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3), st.booleans()), max_size=20)


@given(ROWS, st.integers(1, 5), st.booleans(), st.booleans())
def test_every_row_has_one_share_and_no_share_two_rows_more(
    table: list[tuple[int, int, bool]], count: int, grouped: bool, some: bool
) -> None:
    lengths, numbers = [length for length, _, _ in table], [group for _, group, _ in table]
    rows = [row for row, (_, _, chosen) in enumerate(table) if chosen or not some]
    parts = shares(lengths, count, rows=rows if some else None, groups=numbers if grouped else None)
    assert sorted(row for part in parts for row in part) == rows
    assert len(parts) == count
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1


def test_shares_are_of_like_length_and_one_share_keeps_the_order() -> None:
    lengths = [9, 2, 9, 2, 9, 2, 7, 7]
    assert shares(lengths, 2) == [[1, 5, 7, 2], [3, 6, 0, 4]]
    assert shares(lengths, 2, rows=[7, 0, 3]) == [[3, 0], [7]]
    assert shares(lengths, 2, groups=range(8)) == shares(lengths, 2)
    assert shares(lengths, 1, groups=[0, 1, 0, 1, 0, 1, 2, 2]) == [list(range(8))]
    assert shares(lengths, 1, rows=[7, 0, 3]) == [[7, 0, 3]]


def test_a_group_stays_together_as_far_as_shares_stay_even() -> None:
    lengths, groups = [9, 2, 9, 2, 9, 2, 7, 7], [0, 1, 0, 1, 0, 1, 2, 2]
    assert shares(lengths, 2, groups=groups) == [[0, 2, 4, 3], [6, 7, 1, 5]]  # 29 and 18 tokens
    one = [10, 20, 30, 40, 50, 60, 70, 80]
    assert [sum(one[row] for row in part) for part in shares(one, 2, groups=[0] * 8)] == [160, 200]
    four = [length for length in (10, 20, 30, 40) for _ in range(4)]
    parts = shares(four, 2, groups=[row // 4 for row in range(16)])
    assert [sum(four[row] for row in part) for part in parts] == [200, 200]
    assert [sorted({row // 4 for row in part}) for part in parts] == [[0, 3], [1, 2]]


def test_batches_go_from_short_to_long() -> None:
    lengths = [9, 1, 5, 2, 9, 4, 1]
    batches = list(by_length(lengths, 3))
    assert sorted(itertools.chain(*batches)) == list(range(7))
    assert [[lengths[row] for row in batch] for batch in batches] == [[1, 1, 2], [4, 5, 9], [9]]
    assert list(by_length(lengths, 2, rows=[0, 6, 2])) == [[6, 2], [0]]
    assert list(by_length([], 3)) == []


def test_rows_with_one_prompt_follow_each_other() -> None:
    lengths, groups = [9, 1, 5, 2, 9, 4], [0, 1, 0, 1, 4, 5]
    assert list(by_length(lengths, 2, groups=groups)) == [[1, 3], [5, 2], [0, 4]]
    assert list(by_length(lengths, 2, rows=[4, 2, 1, 0], groups=groups)) == [[1, 2], [0, 4]]
