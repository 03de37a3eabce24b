"""The stage store: immutable results under their digests, an index from keys, work folders, locks, run records."""

from alignpipe.store.runs import RunRecords
from alignpipe.store.store import Made, Store, WorkFolder

__all__ = ["Made", "RunRecords", "Store", "WorkFolder"]
