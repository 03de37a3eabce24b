"""Where a run computes: the device string and the number of threads."""

from __future__ import annotations

import os
import re

from alignpipe.config.model import RunSettings
from alignpipe.errors import ConfigError

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def check_machine_settings(settings: RunSettings) -> None:
    """Raise `ConfigError` for a device or a number of threads that cannot be meant; imports nothing."""
    if not _DEVICE.fullmatch(settings.device):
        raise ConfigError(f"device={settings.device}: allowed are auto, cpu, cuda, cuda:<n> and mps")
    if settings.threads is not None and settings.threads < 1:
        raise ConfigError(f"threads={settings.threads}: at least 1 is needed (or leave it unset)")


def prepare_device(settings: RunSettings) -> str:
    """The torch device string to use, with torch's threads set; imports torch unless the device is plain `cpu`.

    Raises `ConfigError` if the device is not there.
    """
    _share_cores()
    if settings.device == "cpu" and settings.threads is None:
        return "cpu"
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = settings.device.partition(":")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= count:
        raise ConfigError(f"device={settings.device}: torch sees {count} CUDA devices; device=cpu works anywhere")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device=mps: torch sees no such device; device=cpu works anywhere")
    return settings.device


def _share_cores() -> None:
    """Let OpenMP threads (GNU's, which torch brings on Linux) spin only briefly while they wait for each other.

    At their usual patience a job all but stops as soon as anything else wants its cores, a sweep's next job for one
    (tests/benchmarks/shared_cores.py). Read when torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
