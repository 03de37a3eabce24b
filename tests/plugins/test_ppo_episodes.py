"""The episodes of an update: complete, of one shape, laid out row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from support import ppo


def test_a_batch_holds_the_rows_asked_for() -> None:
    episodes = ppo.make_episodes(ppo.make_players())
    batch = episodes.batch([4, 0], pad_id=99)
    for place, row in enumerate((4, 0)):
        prompt, response = episodes.prompts.ids[row], episodes.responses[row].ids
        ids = batch.input_ids[place].tolist()
        assert ids[: len(prompt) + len(response)] == prompt + response
        assert set(ids[len(prompt) + len(response) :]) <= {99}
        assert int(batch.response_mask[place].sum()) == len(response)
        assert episodes.lengths[row] == len(prompt) + len(response)


def test_prompts_are_selected_with_their_rows() -> None:
    chosen = ppo.make_prompts(5).select([3, 3, 0])
    assert [row["case"] for row in chosen.rows] == [3, 3, 0]
    assert list(chosen.ids) == [ppo.make_prompts(5).ids[row] for row in (3, 3, 0)]


@pytest.mark.parametrize("name", ["logprobs", "values", "mask"])
def test_a_table_of_another_shape_is_refused(name: str) -> None:
    episodes = ppo.make_episodes(ppo.make_players())
    with pytest.raises(ValueError, match=f"{name} has shape"):
        replace(episodes, **{name: getattr(episodes, name)[:, :-1]})


def test_a_mask_of_numbers_is_refused() -> None:
    episodes = ppo.make_episodes(ppo.make_players())
    with pytest.raises(ValueError, match=r"must be boolean, not torch\.float32"):
        replace(episodes, mask=episodes.mask.float())


def test_scores_are_one_per_episode() -> None:
    episodes = ppo.make_episodes(ppo.make_players())
    with pytest.raises(ValueError, match="scores has shape"):
        replace(episodes, scores=torch.zeros(3))
