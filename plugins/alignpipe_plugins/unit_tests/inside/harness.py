"""Process 1 of the sandbox: runs a response's code once per case, each in a process of its own, and reports.

Given to an interpreter as text. It reads a job (JSON) from its standard input and writes one JSON object per line:
`{"ready": true}`, then one per case (`passed`, `timeout`, `output`, `cut`, `detail`, `stated`), or `{"broken": why}`
if the sandbox itself failed. The tested code never holds the channel these lines go through and cannot trace or kill
this process. That a test passed is said by returning a random token, which waits in a pipe until the test's last
statement, and with it the values that the test hands out by calling `__alignpipe_state__`, which are judged outside.
"""

from __future__ import annotations

import base64
import builtins
import ctypes
import errno
import fcntl
import json
import numbers
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import types
from collections.abc import Set
from typing import Any, NoReturn

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
"""The number of the system call, per machine."""
_DETAIL_BYTES = 1000
"""How much of the end of the standard error is reported."""
_CHILD_FDS = 5
"""Standard input, output and error, then the pipe with the token and the pipe for the verdict."""


class Broken(Exception):
    """The sandbox failed, not the code in it."""


class Stream:
    """What came through a pipe, up to a limit; the rest is read and thrown away."""

    def __init__(self, fd: int, most: int, *, keep_end: bool = False) -> None:
        self.fd = fd
        self.data = b""
        self.cut = False
        self._most, self._keep_end = most, keep_end
        os.set_blocking(fd, False)

    def read(self) -> bool:
        """Take what is there; whether more may come."""
        try:
            new = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return True
        data = self.data + new
        self.cut = self.cut or len(data) > self._most
        self.data = data[-self._most :] if self._keep_end else data[: self._most]
        return bool(new)


def _prctl(option: int, value: int, extra: Any = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, extra, 0, 0) != 0:
        raise Broken(f"prctl {option}: {os.strerror(ctypes.get_errno())}")


def _forget_keys() -> None:
    """Leave the keyring of the session alignpipe runs in, which a user namespace does not take away."""
    join_session_keyring = 1
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_KEYCTL[os.uname().machine], join_session_keyring, None) < 0:
        number = ctypes.get_errno()
        if number != errno.ENOSYS:  # a kernel without keyrings has none to leave
            raise Broken(f"a keyring of its own: {os.strerror(number)}")


def _limit(job: dict[str, Any]) -> None:
    """The limits of one process; what it starts inherits them."""
    seconds = int(job["test_timeout"]) + 2
    for what, value in (
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, job["file_bytes"]),
        (resource.RLIMIT_NPROC, job["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(what, (value, value))


def _filter_calls(code: bytes) -> None:
    """Load a seccomp filter, given as BPF instructions."""
    instructions = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    given = Program(len(code) // 8, ctypes.cast(instructions, ctypes.c_void_p))
    _prctl(_PR_SET_SECCOMP, 2, ctypes.byref(given))


def _settle(job: dict[str, Any], fds: list[int], folder: str) -> None:
    """Make this forked process one that only holds what the tested code may hold."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in fds]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number < 3)
    os.closerange(_CHILD_FDS, 1024)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    sys.argv[:] = ["response.py"]
    sys.orig_argv[:] = []
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _limit(job)
    for code in job["filters"]:
        _filter_calls(base64.b64decode(code))


def _compiled(job: dict[str, Any]) -> types.CodeType:
    """The code before the response, and the response; white space in front of it goes if it is in the way.

    Responses often begin with a space, which would be a wrong indentation; the body of a function needs it.
    """
    setup, code = job["setup"], job["code"]
    try:
        return compile(setup + code, "response.py", "exec")
    except IndentationError:
        return compile(setup + code.lstrip(), "response.py", "exec")


def _plain(value: Any) -> Any:
    """A value in terms of JSON; `_value` in withholding.py reads it.

    Raises `TypeError` for what no constant equals.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    for name, kind in (("tuple", tuple), ("set", Set)):
        if isinstance(value, kind):
            return {name: [_plain(entry) for entry in value]}
    if isinstance(value, dict):
        return {"dict": [[_plain(key), _plain(entry)] for key, entry in value.items()]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, numbers.Number) and hasattr(value, "as_integer_ratio"):
        return {"ratio": [int(part) for part in value.as_integer_ratio()]}
    if getattr(value, "shape", None) == ():  # a number of numpy
        return _plain(value.item())
    raise TypeError(f"a {type(value).__name__} is no plain value")


def _run_assertions(job: dict[str, Any], test: str) -> bytes:
    """Run the response, then the test, in one namespace; the values handed out. Raises what they raise."""
    stated: list[str] = []
    module = types.ModuleType("response")
    sys.modules["__main__"] = sys.modules["response"] = module
    # The response cannot make the test empty by putting other functions in the place of these.
    run, own, real = exec, builtins, dict(vars(builtins))
    names = module.__dict__
    tested, checks = _compiled(job), compile(test, "test.py", "exec")
    run(tested, names)
    vars(own).update(real)
    names["__builtins__"] = own
    names["__alignpipe_state__"] = lambda value: stated.append(json.dumps(_plain(value)))
    run(checks, names)
    return f"[{','.join(stated)}]".encode()


def _run_program(job: dict[str, Any]) -> None:
    """Run the response as a program; a clean end is an exit status of 0."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        exec(_compiled(job), module.__dict__)
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
    sys.stdout.flush()


def _child(job: dict[str, Any], case: dict[str, Any], fds: list[int], folder: str) -> NoReturn:
    """One case, in its own process; "+" says that its locks hold, the token that it passed."""
    read, write, leave, token, verdict = os.read, os.write, os._exit, 3, 4
    try:
        _settle(job, fds, folder)
    except BaseException as error:
        write(fds[4], f"!{type(error).__name__}: {error}".encode())
        leave(1)
    write(verdict, b"+")
    try:
        stated = b""
        if case["input"] is None:
            stated = _run_assertions(job, case["test"])
        else:
            _run_program(job)
        said = read(token, 64) + stated
        while said:
            said = said[write(verdict, said) :]
        leave(0)
    except BaseException:
        traceback.print_exc()
    leave(1)


def _run(job: dict[str, Any], case: dict[str, Any], number: int, ends: float) -> dict[str, Any]:
    """Run a case and say how it went."""
    until = min(ends, time.monotonic() + job["test_timeout"])
    if until <= time.monotonic():
        return {"passed": False, "timeout": True, "output": "", "cut": False, "detail": "no time left for this test"}
    try:
        folder, given = _fresh_folder(number, case["input"] or "")
    except OSError as error:
        if number == 0:
            raise
        # An earlier case of this response filled or locked its own disk; that is no failure of the sandbox.
        detail = f"no folder left for this test: {error}"
        return {"passed": False, "timeout": False, "output": "", "cut": False, "detail": detail}
    (out, out_end), (err, err_end), (ask, token_end), (heard, verdict_end) = (os.pipe() for _ in range(4))
    theirs = [given, out_end, err_end, ask, verdict_end]
    child = os.fork()
    if child == 0:
        _child(job, case, theirs, folder)
    token = os.urandom(16)  # not before the fork: what a response runs in must not hold it
    os.write(token_end, token)  # with its reading end still open: a response that does not compile may be over by now
    for fd in theirs:
        os.close(fd)
    streams = [
        Stream(out, job["output_bytes"]),
        Stream(err, _DETAIL_BYTES, keep_end=True),
        Stream(heard, _DETAIL_BYTES + case["stated_bytes"]),
    ]
    late = _follow(child, streams, until)
    _kill_all()
    status = os.waitpid(child, 0)[1]
    for stream in streams:
        while stream.read() and select.select([stream.fd], [], [], 0)[0]:
            pass
    for fd in (out, err, heard, token_end):
        os.close(fd)
    return _verdict(streams, token, status, late=late)


def _fresh_folder(number: int, text: str) -> tuple[str, int]:
    """An empty folder, and a file without a name that holds the case's standard input."""
    folder, path = f"/tmp/{number}", f"/tmp/input{number}"
    os.chmod("/tmp", 0o700)
    for name in os.listdir("/tmp"):
        _remove(f"/tmp/{name}")
    os.mkdir(folder)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    given = os.open(path, os.O_RDONLY)
    os.remove(path)
    return folder, given


def _verdict(streams: list[Stream], token: bytes, status: int, *, late: bool) -> dict[str, Any]:
    output, errors, verdict = streams
    if verdict.data[:1] == b"!":
        raise Broken(verdict.data[1:].decode("utf-8", "replace"))
    signed = b"+" + token
    late = late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU)
    return {
        "passed": verdict.data.startswith(signed) and status == 0 and not late and not verdict.cut,
        "timeout": late,
        "output": output.data.decode("utf-8", "replace"),
        "cut": output.cut,
        "detail": errors.data.decode("utf-8", "replace"),
        "stated": verdict.data[len(signed) :].decode("utf-8", "replace"),
    }


def _follow(child: int, streams: list[Stream], until: float) -> bool:
    """Read what a process says until it ends; whether its time was over first."""
    ended = os.pidfd_open(child)
    open_streams = {stream.fd: stream for stream in streams}
    try:
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return True
            ready = select.select([ended, *open_streams], [], [], left)[0]
            for fd in ready:
                if fd in open_streams and not open_streams[fd].read():
                    del open_streams[fd]
            if ended in ready:
                return False
    finally:
        os.close(ended)


def _kill_all() -> None:
    """End every other process in here; as process 1 this one inherits and buries what a case left behind."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return


def _bury() -> None:
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.remove(path)


def _read_all(fd: int) -> bytes:
    pieces = []
    while piece := os.read(fd, 1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def main() -> None:
    """Read the job, run its cases, report."""
    report = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 100)

    def say(line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(report, data) :]

    try:
        job = json.loads(_read_all(0))
        nothing = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(nothing, fd)
        _prctl(_PR_SET_DUMPABLE, 0)  # so that no process of the same user may trace this one or read its memory
        _forget_keys()
        if os.getpid() != 1:
            raise Broken(f"the harness is process {os.getpid()} of the sandbox, not 1")
        ends = time.monotonic() + job["timeout"]
        say({"ready": True})
        for number, case in enumerate(job["cases"]):
            say(_run(job, case, number, ends))
            _bury()
    except (Broken, OSError, KeyError) as error:
        say({"broken": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if entry]
    main()
