"""Which tokens of a padded batch are computed, and where they belong: padding never, a shared prompt prefix once.

A batch of B right-padded rows of W tokens is a grid of B * W cells, counted row by row. The tokens that are computed
lie behind each other in one packed sequence. Two rows with the same first token `a`, which is computed once:

    grid            cells           packed sequence
    a b c -         0 1 2 3         a b c d e f
    a d e f         4 5 6 7         from the cells 0 1 2 5 6 7
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Padding = Callable[[int], int]
"""For a number of tokens: how many to compute beside them."""


@dataclass(frozen=True)
class GridIndex:
    """The way from a packed sequence of n tokens to the grid of B * W cells, and back; numbers from the example above.

    `cells` [n]: each token's own cell, no cell twice: 0 1 2 5 6 7.
    `tokens` [B * W]: the token to put into each cell, any one into padding: 0 1 2 0 0 3 4 5.
    `shared_cells` [E], `shared_tokens` [E]: further cells of tokens that other rows share: cell 4, token 0. None where
    nothing is shared.
    """

    cells: Tensor
    tokens: Tensor
    shared_cells: Tensor | None = None
    shared_tokens: Tensor | None = None

    @staticmethod
    def of(cells: Tensor, size: int) -> GridIndex:
        """Tokens with one cell each, in a grid of `size` cells."""
        numbers = torch.arange(len(cells), device=cells.device)
        return GridIndex(cells, cells.new_zeros(size).index_copy_(0, cells, numbers))


class SharedPrefixes(NamedTuple):
    """For each row [B]: the prefix owner, a row not behind it (often itself), and how many first tokens they share."""

    owners: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Layout:
    """B right-padded rows of W tokens as a packed sequence of N tokens.

    The last layer has a query for M of them only, `queries` [M]; the first `wanted` of these are what the caller asked
    for, row by row.
    """

    rows: int
    width: int
    grid: GridIndex
    queries: Tensor
    query_grid: GridIndex
    wanted: int

    @staticmethod
    def of(lengths: Tensor, first: Tensor, padding: Padding, prefixes: SharedPrefixes | None = None) -> Layout:
        """Rows of `lengths` [B] tokens, of which those from position `first` [B] on are wanted.

        Tokens of a shared prefix are computed in its owner's row only, unless they are wanted. N and M grow by what
        `padding` says, as far as there are cells for it: by padding, which no token sees, and by further queries.
        """
        width, size = int(lengths.max()), len(lengths) * int(lengths.max())
        positions = torch.arange(width, device=lengths.device)
        real = positions < lengths[:, None]
        own = real if prefixes is None else real & (positions >= _tokens_of_owner(prefixes, first)[:, None])
        cells = _rounded_up(own.flatten(), ~real.flatten(), padding)
        wanted = (real & (positions >= first[:, None])).flatten()[cells]
        queries = _rounded_up(wanted, ~wanted, padding)
        grid = GridIndex.of(cells, size)
        if prefixes is not None:
            shared_cells = (real & ~own).flatten().nonzero().squeeze(1)
            owner_cells = prefixes.owners[shared_cells // width] * width + shared_cells % width
            shared_tokens = grid.tokens[owner_cells]
            tokens = grid.tokens.index_copy(0, shared_cells, shared_tokens)
            grid = GridIndex(cells, tokens, shared_cells, shared_tokens)
        return Layout(len(lengths), width, grid, queries, GridIndex.of(cells[queries], size), int(wanted.sum()))


def _tokens_of_owner(prefixes: SharedPrefixes, first: Tensor) -> Tensor:
    """[B] how many of a row's first tokens are computed in another row."""
    owners, lengths = prefixes
    owns = owners == torch.arange(len(first), device=first.device)
    return torch.where(owns, 0, torch.minimum(lengths, first))


def _rounded_up(chosen: Tensor, others: Tensor, padding: Padding) -> Tensor:
    """The indices where `chosen` [n] is true, then those of as many `others` [n] as `padding` says and there are."""
    inside, rest = chosen.nonzero().squeeze(1), others.nonzero().squeeze(1)
    return torch.cat((inside, rest[: padding(len(inside))]))
