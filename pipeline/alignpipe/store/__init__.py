"""The stage store: immutable results under their digests, an index from keys, work folders, locks, run records."""

from alignpipe.store.runs import RunRecords
from alignpipe.store.store import Provenance, Store, WorkFolder

__all__ = ["Provenance", "RunRecords", "Store", "WorkFolder"]
