"""From config values to files: globs, missing files, checks of the options, and the revision in the stage key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from alignpipe.errors import ConfigError, DataError
from alignpipe_plugins.files.config import FilesConfig
from alignpipe_plugins.files.reading import read_source
from alignpipe_plugins.files.sources import FileSource, HubSource, find_sources
from support.user_files import write_jsonl


def message(**options: Any) -> str:
    """The text of the error that finding the sources raises."""
    with pytest.raises((ConfigError, DataError)) as caught:
        find_sources(FilesConfig(**options))
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three files in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("pairs_b.jsonl", "pairs_a.jsonl.gz", "other.csv"):
        (tmp_path / name).write_text("x")
    return tmp_path


def test_relative_paths_globs_and_lists_in_order(folder: Path) -> None:
    found = find_sources(FilesConfig(preferences=["other.csv", "pairs_*"], prompts=str(folder / "other.csv")))
    assert [source.shown for source in found["preferences"]] == ["other.csv", "pairs_a.jsonl.gz", "pairs_b.jsonl"]
    formats = [source.format for source in found["preferences"] if isinstance(source, FileSource)]
    assert formats == ["csv", "jsonl", "jsonl"]
    assert list(found) == ["preferences", "prompts"]


def test_a_file_whose_name_looks_like_a_glob(folder: Path) -> None:
    (folder / "a[1].jsonl").write_text("x")
    (source,) = find_sources(FilesConfig(prompts="a[1].jsonl"))["prompts"]
    assert source.shown == "a[1].jsonl"


def test_a_missing_file_names_the_key_and_what_is_near(folder: Path) -> None:
    text = message(preferences="pair_b.jsonl")
    assert text.startswith("data.preferences=pair_b.jsonl: there is no such file")
    assert str(folder) in text
    assert "near it: pairs_b.jsonl" in text


def test_a_missing_folder_names_its_nearest_parent(folder: Path) -> None:
    (folder / "datasets").mkdir()
    assert "near it: datasets" in message(prompts="dataset/deep/x.jsonl")


def test_a_glob_without_a_match_lists_the_data_files_there(folder: Path) -> None:
    text = message(prompts="zzz*.parquet")
    assert "no file matches" in text
    assert "other.csv, pairs_a.jsonl.gz, pairs_b.jsonl" in text


def test_what_looks_like_a_hub_name_gets_the_hint(folder: Path) -> None:
    assert "data.prompts=hub:owner/name" in message(prompts="owner/name")


def test_hub_names_with_split_subset_and_revision(folder: Path) -> None:
    options = {"hub_subset": "main", "hub_revision": "abc", "hub_split": "validation"}
    sources = find_sources(FilesConfig(prompts=["hub:owner/name", "hub:owner/name:test[:10%]"], **options))["prompts"]
    assert sources == [
        HubSource("prompts", "owner/name", "main", "validation", "abc"),
        HubSource("prompts", "owner/name", "main", "test[:10%]", "abc"),
    ]
    assert sources[1].revision() == "hub:owner/name:main:test[:10%]:abc"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "data=files needs data.demonstrations, data.preferences or data.prompts"),
        ({"heldout_prompts": "other.csv"}, "data.heldout_prompts is set, but there is no data to train on"),
        ({"prompts": 3}, "data.prompts is 3; it must be a path"),
        ({"prompts": []}, r"data.prompts is []; it must be a path"),
        ({"prompts": ["other.csv", None]}, "it must be a path"),
        ({"prompts": "hub:"}, "data.prompts=hub: names no data set"),
        ({"prompts": ["other.csv", "*.csv"]}, "data.prompts names other.csv twice"),
        ({"prompts": "."}, "data.prompts=. is a folder; name its files, for instance ./*.jsonl"),
        ({"prompts": "notes.txt"}, "what notes.txt holds is not known by its ending"),
        ({"prompts": "other.csv", "heldout_share": 1.0}, "data.heldout_share is 1.0"),
        ({"prompts": "other.csv", "heldout_max": 0}, "data.heldout_max is 0"),
        ({"prompts": "other.csv", "max_prompt_tokens": -1}, "data.max_prompt_tokens is -1"),
        (
            {"prompts": "other.csv", "columns": {"question": "prompt"}},
            "chosen, rejected, text: write {prompt: question}, ours first",
        ),
        ({"prompts": "other.csv", "columns": {"prompt": "q", "messages": "q"}}, "uses the column 'q' twice"),
    ],
)
def test_values_that_cannot_be_right(folder: Path, options: dict[str, Any], text: str) -> None:
    (folder / "notes.txt").write_text("x")
    assert text in message(**options)


def test_a_file_that_cannot_be_read_is_named_with_its_key(folder: Path) -> None:
    (folder / "bad.csv").write_text("a,a\n1,2\n")
    (source,) = find_sources(FilesConfig(prompts="bad.csv"))["prompts"]
    with pytest.raises(DataError, match=r"^data\.prompts: bad\.csv has two columns named 'a'"):
        list(read_source(source))


def test_the_revision_follows_the_bytes_and_not_the_place(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "x"}])
    before = FilesConfig(prompts=first).revision()
    (tmp_path / "moved").mkdir()
    moved = str(tmp_path / "moved" / "b.jsonl")
    os.rename(first, moved)
    assert FilesConfig(prompts=moved).revision() == before
    assert list(before) == ["prompts[0]"]
    write_jsonl(Path(moved), [{"prompt": "y"}])
    assert FilesConfig(prompts=moved).revision() != before
    assert FilesConfig(heldout_prompts=moved, prompts=moved).revision().keys() == {"prompts[0]", "heldout_prompts[0]"}


def test_the_revision_of_a_local_builder_folder_follows_its_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "x"}])
    config = FilesConfig(prompts=f"hub:{tmp_path}")
    before = config.revision()
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "z"}])
    assert config.revision() != before
