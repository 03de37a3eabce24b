"""Hub data sets, through `datasets.load_dataset` on a local folder: no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignpipe.errors import DataError
from support.user_files import both, run_files, write_jsonl


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `load_dataset` opens, with a train and a test split; its cache lies in tmp_path."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "builder"
    folder.mkdir()
    write_jsonl(
        folder / "train.jsonl", [{"prompt": f"Q{n}", "chosen": "yes", "rejected": "no", "n": n} for n in range(6)]
    )
    write_jsonl(
        folder / "test.jsonl", [{"prompt": f"T{n}", "chosen": "yes", "rejected": "no", "n": n} for n in range(2)]
    )
    return folder


def test_a_split_for_training_and_one_held_out(tmp_path: Path, builder: Path) -> None:
    _, data = run_files(tmp_path, preferences=f"hub:{builder}", heldout_preferences=f"hub:{builder}:test")
    assert [row["prompt"] for row in data.rows("preferences", "train")] == [f"Q{n}" for n in range(6)]
    assert data.rows("prompts", "heldout")[1] == {"prompt": "T1", "messages": [], "n": 1}


def test_a_slice_of_a_split_and_malformed_rows_with_their_place(tmp_path: Path, builder: Path) -> None:
    _, data = run_files(tmp_path, prompts=f"hub:{builder}:train[2:4]")
    assert sorted(row["prompt"] for row in both(data, "prompts")) == ["Q2", "Q3"]
    with pytest.raises(DataError, match=rf"hub:{builder}:train row 1: needs 'prompt' and 'completion'"):
        run_files(tmp_path, demonstrations=f"hub:{builder}")


def test_a_split_or_a_data_set_that_is_not_there(tmp_path: Path, builder: Path) -> None:
    with pytest.raises(DataError, match=r"data\.prompts=hub:.*:nope: datasets\.load_dataset failed: ValueError.*nope"):
        run_files(tmp_path, prompts=f"hub:{builder}:nope")


def test_name_subset_split_and_revision_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load_dataset(*names: Any, **options: Any) -> list[dict[str, str]]:
        asked.append((names, options))
        return [{"prompt": "Q"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    run_files(tmp_path, prompts="hub:owner/name", hub_subset="main", hub_split="validation", hub_revision="abc123")
    assert asked == [(("owner/name", "main"), {"split": "validation", "revision": "abc123"})]


def test_offering_the_component_and_its_revision_import_nothing_heavy(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "q.jsonl", [{"prompt": "Q"}])
    code = (
        "import sys\n"
        "from alignpipe_plugins.files.plugin import alignpipe_components\n"
        "(component,) = alignpipe_components()\n"
        f"assert component.config(prompts={path!r}).revision()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
