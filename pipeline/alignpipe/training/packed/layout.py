"""Where packed tokens stand: rows that begin with the same prompt share its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stand:
    """Where n tokens stand among P places, rows of a grid one after the other.

    `places` [n], each another one; `source` [P] the token that stands at each place, any where none does. Tokens that
    stand at more places than one also stand at `lent` [E], where `lenders` [E] are those tokens; None if none does.
    """

    places: Tensor
    source: Tensor
    lent: Tensor | None = None
    lenders: Tensor | None = None

    @staticmethod
    def of(places: Tensor, size: int) -> Stand:
        """Tokens that stand at one of `size` places each."""
        return Stand(places, _numbers(places, size))


@dataclass(frozen=True)
class Layout:
    """B right-padded rows of W places, and the N tokens that stand there.

    The first `wanted` of `asked` [M] index those of the N tokens that the caller wants to know about, in order;
    `askers` is where these M stand.
    """

    rows: int
    width: int
    tokens: Stand
    asked: Tensor
    askers: Stand
    wanted: int

    @staticmethod
    def of(lengths: Tensor, first: Tensor, multiple: int, twins: Tensor | None = None) -> Layout:
        """Rows of `lengths` [B] tokens, of which those from place `first` [B] on are wanted.

        `twins` [2, B] says of each row with which row before it (or itself) it shares how many first tokens: those that
        are not wanted are computed once. N and M are rounded up to `multiple` as far as possible: by pads, which no
        token sees, and by asking for more.
        """
        width, size = int(lengths.max()), len(lengths) * int(lengths.max())
        steps = torch.arange(width, device=lengths.device)
        real = steps < lengths[:, None]
        own = real if twins is None else real & (steps >= _shared(twins, first)[:, None])
        places = _filled_up(own.flatten(), ~real.flatten(), multiple)
        wanted = (real & (steps >= first[:, None])).flatten()[places]
        asked = _filled_up(wanted, ~wanted, multiple)
        tokens = Stand.of(places, size)
        if twins is not None:
            lent = (real & ~own).flatten().nonzero().squeeze(1)
            lenders = tokens.source[twins[0][lent // width] * width + lent % width]
            tokens = Stand(places, tokens.source.index_copy(0, lent, lenders), lent, lenders)
        return Layout(len(lengths), width, tokens, asked, Stand.of(places[asked], size), int(wanted.sum()))


def _shared(twins: Tensor, first: Tensor) -> Tensor:
    """[B] how many of a row's first tokens another row computes."""
    leaders, alike = twins
    return torch.where(leaders == torch.arange(len(first), device=first.device), 0, torch.minimum(alike, first))


def _numbers(places: Tensor, size: int) -> Tensor:
    """[size] the number of the token at each place, 0 where none is."""
    return places.new_zeros(size).index_copy_(0, places, torch.arange(len(places), device=places.device))


def _filled_up(chosen: Tensor, others: Tensor, multiple: int) -> Tensor:
    """Where `chosen` [n] is true; behind that as many of the `others` [n] as a multiple needs, if there are as many."""
    inside, rest = chosen.nonzero().squeeze(1), others.nonzero().squeeze(1)
    return torch.cat((inside, rest[: -len(inside) % multiple]))
