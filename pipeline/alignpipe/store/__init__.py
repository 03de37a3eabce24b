"""The stage store: immutable results under their digests, an index from keys, work folders, locks, run records."""

from alignpipe.store.runs import RunRecords
from alignpipe.store.store import Fingerprint, Store
from alignpipe.store.work import WorkFolder

__all__ = ["Fingerprint", "RunRecords", "Store", "WorkFolder"]
