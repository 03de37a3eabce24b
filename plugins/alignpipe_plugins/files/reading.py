"""Raw rows out of files and hub data sets, each with its location; a row that cannot be read comes as a `Broken`."""

from __future__ import annotations

from alignpipe.errors import DataError
from alignpipe.rows import Found, checked, read_rows
from alignpipe_plugins.files.sources import HubSource, Source


def read_source(source: Source) -> Found:
    """Yield `(location, row)` for every row of the source, in its order.

    Raises `DataError` if the source as a whole cannot be read.
    """
    if isinstance(source, HubSource):
        yield from checked(_hub_rows(source))
        return
    try:
        yield from read_rows(source.path, source.shown)
    except DataError as error:
        raise DataError(f"data.{source.key}: {error}") from error


def _hub_rows(source: HubSource) -> Found:
    import datasets

    try:
        data = datasets.load_dataset(source.name, source.subset, split=source.split, revision=source.revision_wanted)
    # The library raises errors of many packages, even its own bugs' ones; all mean that there is no data.
    except Exception as error:
        subset = f", data.hub_subset={source.subset}" if source.subset else ""
        raise DataError(
            f"data.{source.key}={source.shown}{subset}: datasets.load_dataset failed: {type(error).__name__}: {error}"
        ) from error
    for number, row in enumerate(data, start=1):
        yield f"{source.shown} row {number}", dict(row)
