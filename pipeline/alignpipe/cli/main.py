"""The console script: subcommand or Hydra application, and the boundary where errors become messages.

Little but the standard library is imported at the top: Hydra takes a third of a second, and Ctrl-C may come in it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from alignpipe.processes import this_process

_FULL_ERROR = "HYDRA_FULL_ERROR"
_OURS = "ALIGNPIPE_SET_HYDRA_FULL_ERROR"
"""Tells the processes that this one starts that it set the other variable, not the user."""
_AFTER_RANK_0 = 3.0
"""Seconds that rank 0 has to report an error that all processes of a launch meet; the launcher then ends the others."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 is success, 1 a reported error, 130, 143 and 129 an interruption. Anything else that goes wrong is a bug and is
    raised. With `HYDRA_FULL_ERROR=1` every error is raised.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if this_process().follows:  # rank 0 talks to the user
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return _guarded(arguments)
    return _guarded(arguments)


def _guarded(arguments: list[str]) -> int:
    """Run the command behind the boundary where errors become messages."""
    wants_traceback = os.environ.get(_FULL_ERROR) == "1" and _OURS not in os.environ
    # Hydra then raises instead of printing: there is one place that prints errors
    os.environ.update({_FULL_ERROR: "1"} if wants_traceback else {_FULL_ERROR: "1", _OURS: "1"})
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("alignpipe: interrupted\n")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; Python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SystemExit:
        raise
    except BaseException as failure:  # `RunFailed` is one, and cannot be named before Hydra is imported
        return _report(failure, wants_traceback)
    finally:
        if not wants_traceback:
            for name in (_FULL_ERROR, _OURS):
                os.environ.pop(name, None)


def _report(failure: BaseException, wants_traceback: bool) -> int:
    """Report an error in one message; raise what is a bug, or everything if the user wants to see it."""
    from alignpipe.cli.report import RunFailed, message_of, report

    error = failure.error if isinstance(failure, RunFailed) else failure
    if wants_traceback or message_of(error) is None:
        raise error
    if this_process().follows:
        time.sleep(_AFTER_RANK_0)
    report(error)
    return 1


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["--version"]:
        import alignpipe

        sys.stdout.write(f"alignpipe {alignpipe.__version__}\n")
        return 0
    if _completes(argv):
        from alignpipe.cli.completion import complete

        return complete(argv)
    from alignpipe.cli.commands import COMMANDS, is_override

    first = argv[0] if argv else ""
    if first in COMMANDS:
        return COMMANDS[first].run(argv[1:])
    if first and not is_override(first):
        from alignpipe.errors import ConfigError, did_you_mean

        raise ConfigError(
            f"{first!r} is no command{did_you_mean(first, COMMANDS)}; commands: {', '.join(COMMANDS)}; "
            "an override is written key=value"
        )
    from alignpipe.cli.app import run

    return run(argv)


def _completes(argv: list[str]) -> bool:
    """Whether a shell asks for the words that may come next, as Hydra's functions for it do, or for such a function."""
    flags = ("-sc", "--shell_completion", "--shell-completion")
    return any(word in flags for word in argv) and any(word.startswith(("query=", "install=bash")) for word in argv)
