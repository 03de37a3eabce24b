"""The stage store: immutable results under their digests, an index from keys, work folders, locks, run records."""

from alignpipe.store.runs import RunRecords
from alignpipe.store.store import Explained, Store
from alignpipe.store.work import WorkFolder

__all__ = ["Explained", "RunRecords", "Store", "WorkFolder"]
