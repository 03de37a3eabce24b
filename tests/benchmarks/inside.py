"""Run alignpipe in this process, then write what it used: `python inside.py <report> <override> ...`.

The matrix-product peak is measured after the run, in the same process, with the threads of all its processes; the
memory before that.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from flops import matmul_peak

from alignpipe.cli.main import main as alignpipe


def main(report: Path, overrides: list[str]) -> int:
    """Run, measure, write; returns alignpipe's status."""
    status = alignpipe(overrides)
    if status == 0:
        processes = int(next((word for word in overrides if word.startswith("processes=")), "=1").partition("=")[2])
        memory = peak_mb(resource.RUSAGE_SELF)
        if processes > 1:  # of those that this one has started, the largest stands for each
            memory += (processes - 1) * peak_mb(resource.RUSAGE_CHILDREN)
        import torch  # not above: the run decides when

        began = time.perf_counter()
        torch.set_num_threads(torch.get_num_threads() * processes)
        used = {"peak_mb": memory, "matmul_gflops": matmul_peak()}
        report.write_text(json.dumps(used | {"after_seconds": time.perf_counter() - began}) + "\n")
    return status


def peak_mb(who: int) -> float:
    """The largest resident memory of this process or of those it started."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(who).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
