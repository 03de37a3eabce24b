"""What this plugin offers; light to import."""

from __future__ import annotations

from collections.abc import Iterable

from alignpipe.api import Component, hookimpl
from alignpipe_plugins.files.config import FilesConfig


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """Offer `data=files`."""
    yield Component(
        group="data",
        name="files",
        config=FilesConfig,
        factory="alignpipe_plugins.files.stage:build",
        summary="your own JSONL, JSON, CSV or Parquet files, or a hub data set, in TRL's columns or as transcripts",
        makes="dataset",
        uses=("model",),
    )
