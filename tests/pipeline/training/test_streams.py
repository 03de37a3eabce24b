"""Random streams: the same again for the same name, and nothing in common with any other."""

from __future__ import annotations

import itertools

import pytest
import torch

from alignpipe.training.streams import batch_indices, episode_uniforms, global_stream, stream


def draw(*name: int | str) -> torch.Tensor:
    seed, purpose, *numbers = name
    return torch.rand(64, generator=stream(int(seed), str(purpose), *map(int, numbers)))


def test_a_stream_is_a_function_of_its_name():
    assert torch.equal(draw(3, "episodes", 7), draw(3, "episodes", 7))


def test_purposes_numbers_and_seeds_share_no_stream():
    names = [
        (seed, purpose, *numbers)
        for seed in (0, 1, 7919, 1_000_003)
        for purpose in ("order", "minibatches", "episodes")
        for numbers in ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (7919,), (1_000_003,), (-1,))
    ]
    drawn = [draw(*name) for name in names]
    for (one, first), (other, second) in itertools.combinations(zip(names, drawn, strict=True), 2):
        assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.7, (one, other)


def test_it_does_not_touch_the_global_generator():
    before = torch.random.get_rng_state()
    draw(0, "episodes", 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_global_stream_lasts_for_its_block():
    before = torch.random.get_rng_state()
    drawn = []
    for step in (0, 1, 0):
        with global_stream("cpu", 0, "dropout", step):
            drawn.append(torch.rand(8))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_every_episode_has_its_own_row():
    first = episode_uniforms(stream(0, "episodes", 3), 8, 5)
    assert first.dtype == torch.float64
    assert bool(((first >= 0) & (first < 1)).all())
    assert len({tuple(row) for row in first.tolist()}) == 8
    # Indexed by episode: sampling fewer of them leaves the others as they were.
    assert torch.equal(episode_uniforms(stream(0, "episodes", 3), 4, 5), first[:4])


@pytest.mark.parametrize(("size", "count"), [(4, 12), (5, 12), (12, 5), (1, 3)])
def test_every_example_comes_once_in_every_epoch(size: int, count: int) -> None:
    drawn = list(itertools.chain(*(batch_indices(step, size, count, 0) for step in range(3 * count))))
    epochs = [drawn[start : start + count] for start in range(0, 3 * count * size, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 5:
        assert epochs[0] != epochs[1]


def test_the_order_is_the_seeds() -> None:
    assert batch_indices(3, 4, 40, 1) == batch_indices(3, 4, 40, 1)
    assert batch_indices(3, 4, 40, 1) != batch_indices(3, 4, 40, 2)
