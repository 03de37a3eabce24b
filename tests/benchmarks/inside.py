"""Run alignpipe in this process, then write what it used: `python inside.py <report> <override> ...`.

Process 0, or the only one, writes `<report>-0.json`. The matrix-product peak is measured after the run, in the same
process with the same threads; the memory before that.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from flops import matmul_peak

from alignpipe.cli.main import main as alignpipe
from alignpipe.processes import this_process


def main(report: Path, overrides: list[str]) -> int:
    """Run, measure, write; returns alignpipe's status."""
    status = alignpipe(overrides)
    if status == 0:
        unit = 1 if sys.platform == "darwin" else 1024
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        began = time.perf_counter()
        used = {"peak_mb": memory}
        if this_process().rank == 0:
            used |= {"matmul_gflops": matmul_peak(), "after_seconds": time.perf_counter() - began}
        Path(f"{report}-{this_process().rank}.json").write_text(json.dumps(used) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
