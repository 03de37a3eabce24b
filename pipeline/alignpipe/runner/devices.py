"""Where a run computes: the device string and the number of threads."""

from __future__ import annotations

import os
import sys
from functools import cache

from alignpipe.config.model import Kernels, RunSettings
from alignpipe.errors import ConfigError
from alignpipe.importing import uncollected
from alignpipe.processes import ALONE, Process
from alignpipe.training.packed.compiled import want_kernels


def prepare_device(settings: RunSettings, process: Process = ALONE, at_work: int = 1) -> str:
    """The torch device string to use, with torch's threads set; imports torch unless the device is plain `cpu`.

    Of several processes each gets the GPU of its local rank, and while `at_work` of those that the run has started
    itself share a stage, its share of the cores.

    Raises `ConfigError` if the device is not there, or is one for all of several processes.
    """
    share_cores()
    want_kernels(settings.kernels is Kernels.auto)
    if settings.device == "cpu" and settings.threads is None and "torch" not in sys.modules and at_work == 1:
        return "cpu"
    with uncollected():
        import torch

    own = _own_choice()  # asked before any are set
    sharing = at_work if settings.processes > 1 else 1
    torch.set_num_threads(settings.threads or max(1, own // sharing))
    count = torch.cuda.device_count()
    if process.world_size > 1:
        return _own_gpu(settings.device, process, count)
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = settings.device.partition(":")
    if kind == "cuda" and int(number or 0) >= count:
        raise ConfigError(f"device={settings.device}: torch sees {count} CUDA devices; device=cpu works anywhere")
    return settings.device


@cache
def _own_choice() -> int:
    """How many threads torch takes by itself: one for each core, or what `OMP_NUM_THREADS` says."""
    import torch

    return torch.get_num_threads()


def _own_gpu(device: str, process: Process, count: int) -> str:
    """The GPU of one of several processes; `count` are on this machine."""
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"device={device} with {process.world_size} processes: allowed are auto, cpu and cuda; each process takes "
            "the GPU of its local rank"
        )
    if device == "cpu" or (device == "auto" and count == 0):
        return "cpu"
    if count < process.local_world_size:
        raise ConfigError(
            f"device={device}: {process.local_world_size} processes on this machine, torch sees {count} CUDA devices; "
            "start as many processes as there are GPUs, or use device=cpu"
        )
    return f"cuda:{process.local_rank}"


def share_cores() -> None:
    """Let OpenMP threads (GNU's, which torch brings on Linux) spin only briefly while they wait for each other.

    At their usual patience a job all but stops as soon as anything else wants its cores, a sweep's next job for one
    (tests/benchmarks/shared_cores.py). Read when torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
