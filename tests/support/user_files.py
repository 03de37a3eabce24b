"""Helpers for the tests of data=files: write small files, run the stage with a model that counts words."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alignpipe.api import Selected
from alignpipe.dataset import Dataset
from alignpipe_plugins.files.config import FilesConfig
from alignpipe_plugins.files.stage import build
from support.context import FakeContext


class WordTokenizer:
    """One token per word; nothing else of a tokenizer is needed to count."""

    chat_template: str | None = None
    eos_token_id = 0

    def __call__(self, texts: list[str], **_options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * len(text.split()) for text in texts]}


class WordModel:
    """A model source with a word tokenizer and a context of `context` tokens; remembers the texts it was given."""

    def __init__(self, context: int | None = None, tokenizer: Any = None) -> None:
        self.context = context
        self.texts: list[str] = []
        self.made = tokenizer or WordTokenizer()

    def tokenizer(self, texts: Iterable[str]) -> Any:
        self.texts = list(texts)
        return self.made

    def context_length(self) -> int | None:
        return self.context


def write_jsonl(path: Path, rows: Iterable[Any]) -> str:
    """Write rows (dicts, or raw lines given as text), gzipped if the name says so; returns the path as text."""
    lines = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    data = lines.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def run_files(
    folder: Path, *, model: WordModel | None = None, stop_after: int | None = None, **options: Any
) -> tuple[FakeContext, Dataset]:
    """Run the stage with `options`; returns its context and the dataset it wrote."""
    ctx = FakeContext(
        folder / f"run{len(list(folder.glob('run*')))}",
        stage="data",
        slots={"model": Selected("model", "words", None)},
        builders={"model/words": lambda _: model or WordModel()},
        stop_after=stop_after,
    )
    build(FilesConfig(**options), ctx).run({}, ctx)
    return ctx, Dataset(ctx.payload)


def both(data: Dataset, table: Any) -> list[dict[str, Any]]:
    """The rows of both splits."""
    return [row for split in ("train", "heldout") if data.count(table, split) for row in data.rows(table, split)]
