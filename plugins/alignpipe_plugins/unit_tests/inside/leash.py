"""Becomes another program, one that is killed when the process that started this one ends.

Given to an interpreter as text, with that process's id and the other program's command line as arguments.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import NoReturn

_PR_SET_PDEATHSIG = 1


def main() -> NoReturn:
    """Ask the kernel for the signal, then change the program; the request outlives the change."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG")
        if os.getppid() != parent:  # it ended before the request
            os._exit(1)
        os.execv(command[0], command)
    except OSError as error:
        os.write(1, json.dumps({"refused": f"{command[0]} cannot be started: {error}"}).encode() + b"\n")
        os._exit(1)


if __name__ == "__main__":
    main()
