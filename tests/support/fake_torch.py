"""A torch that only says what devices and threads there are."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from alignpipe.runner import devices


def use_fake_torch(monkeypatch: Any, *, gpus: int = 0, own_threads: int = 4) -> list[int]:
    """Put it in torch's place; the list gets every number of threads that is set."""
    threads: list[int] = []
    cuda = SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=threads.append, cuda=cuda))
    monkeypatch.setattr(devices, "_own_choice", lambda: own_threads)
    return threads
