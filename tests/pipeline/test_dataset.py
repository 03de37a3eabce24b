"""The dataset artifact: what may be written, and what is read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignpipe.dataset import Dataset, write_dataset
from alignpipe.errors import DataError

ROW = {"prompt": "Hi", "messages": [], "completion": "Hello"}


def test_rows_come_back_with_their_own_columns(tmp_path: Path) -> None:
    told = [{"role": "user", "content": "Hi"}]
    rows = [{**ROW, "messages": told, "case": 3}, ROW]
    write_dataset(tmp_path, {"demonstrations": {"train": rows}})
    data = Dataset(tmp_path)
    assert data.rows("demonstrations", "train") == [rows[0], {**ROW, "case": None}]
    assert (data.count("demonstrations", "heldout"), data.count("prompts", "train")) == (0, 0)


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({"preference": {}}, "table 'preference' is not known; there are demonstrations, preferences, prompts"),
        ({"prompts": {"validation": []}}, "split 'validation' is not known; there are train, heldout"),
        ({"prompts": {"train": [{"prompt": "Hi"}]}}, "row 0 of prompts/train lacks messages"),
        ({"demonstrations": {"train": [ROW, {**ROW, "completion": None}]}}, "row 1 .* has None in completion, where"),
        ({"demonstrations": {"heldout": [{**ROW, "prompt": 3}]}}, "row 0 of demonstrations/heldout has 3 in prompt"),
        ({"prompts": {"train": [{"prompt": "Hi", "messages": None}]}}, "has None in messages, where a list of"),
        (
            {"prompts": {"train": [{"prompt": "Hi", "messages": [{"role": "user", "text": "Hi"}]}]}},
            "'text': 'Hi'.* in messages, where a list of {'role': <text>, 'content': <text>} is wanted",
        ),
    ],
)
def test_what_nothing_could_be_trained_on_is_not_written(tables: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        write_dataset(tmp_path, tables)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_description_that_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json is no description of a dataset: "):
        Dataset(tmp_path)
