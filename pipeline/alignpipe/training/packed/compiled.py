"""The kernels of `kernels.c`: compiled where they are used, and kept for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_SOURCES = ("kernels.c", "queries.h", "operations.h", "attention.h")
_FLAGS = (
    *("-O3", "-march=native", "-std=c11", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"),
    "-ffp-contract=fast",
)
"""Vector instructions, also those that multiply and add, but no arithmetic in another order than written
(`-ffast-math`), which would lose NaN too."""
_POINTER, _SIZE, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "rms_norm": (_POINTER, _POINTER, _FLOAT, _POINTER, _POINTER, _SIZE, _SIZE),
    "rms_norm_backward": (*[_POINTER] * 6, _SIZE, _SIZE),
    "place": (*[_POINTER] * 5, _SIZE, _SIZE, _SIZE),
    "place_backward": (*[_POINTER] * 4, _SIZE, *[_POINTER] * 3, _SIZE, _SIZE, _SIZE),
    "take": (*[_POINTER] * 3, _SIZE, _SIZE),
    "take_backward": (*[_POINTER] * 3, _SIZE, _SIZE, _SIZE),
    "attention": (*[_POINTER] * 7, _FLOAT, *[_POINTER] * 3, *[_SIZE] * 6),
    "attention_backward": (*[_POINTER] * 8, _FLOAT, *[_POINTER] * 5, *[_SIZE] * 6),
    "swiglu": (*[_POINTER] * 3, _SIZE),
    "swiglu_backward": (*[_POINTER] * 5, _SIZE),
}
_TYPES = ("float32", "bfloat16")


class NotCompiled(Exception):
    """Why there are no kernels."""


Kernels = Mapping[str, Callable[..., Any]]
"""Kernels by name, `rms_norm_float32` and so on; while one runs, other threads may run Python."""


class _State:
    """What this process uses: decided once."""

    lock = threading.Lock()  # lanes ask at the same time
    wanted = True
    kernels: Kernels | None = None
    why_not: str | None = None


def want_kernels(wanted: bool) -> None:
    """Whether this process is to use kernels where it can; by default it is."""
    _State.wanted = wanted


def kernels() -> Kernels | None:
    """The kernels, compiled if no process has done so yet; None if they are not wanted or cannot be had."""
    if not _State.wanted:
        return None
    if _State.kernels is None and _State.why_not is None:
        with _State.lock:
            if _State.kernels is None and _State.why_not is None:
                try:
                    _State.kernels = _loaded()
                except (NotCompiled, OSError, subprocess.SubprocessError) as error:
                    _State.why_not = str(error)
    return _State.kernels


def why_no_kernels() -> str | None:
    """Why kernels that are wanted cannot be had; None if they can."""
    return None if kernels() is not None or not _State.wanted else _State.why_not


def _loaded() -> Kernels:
    """Take the library from the user's cache, where it is named by all that it was made from, or compile it there."""
    compiler = _compiler()
    sources = b"".join((_HERE / name).read_bytes() for name in _SOURCES)
    # The processor's instructions are among the macros: a home folder may be shared by machines of several kinds.
    macros = _output([*compiler, *_FLAGS, "-dM", "-E", "-x", "c", os.devnull])
    version = _output([*compiler, "--version"])
    made_from = [repr((compiler, _FLAGS)).encode(), sources, macros, version]
    name = f"kernels-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:32]}.so"
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignpipe"
        if not (folder / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, folder / name)
        return _opened(folder / name)
    except (OSError, RuntimeError):  # no home folder, or none to write to or to load code from
        with tempfile.TemporaryDirectory(prefix="alignpipe-") as scratch:
            _compile(compiler, Path(scratch) / name)
            return _opened(Path(scratch) / name)


def _opened(library: Path) -> Kernels:
    loaded, found = ctypes.CDLL(str(library)), {}
    for name in (f"{kernel}_{dtype}" for kernel in _ARGUMENTS for dtype in _TYPES):
        found[name] = getattr(loaded, name)
        found[name].argtypes, found[name].restype = _ARGUMENTS[name.rpartition("_")[0]], None
    room = found["attention_room"] = loaded.attention_room
    room.argtypes, room.restype = (_SIZE, _SIZE), _SIZE
    return found


def _compile(compiler: Sequence[str], target: Path) -> None:
    """Compile beside `target`, then move: no process ever sees half a library."""
    handle, draft = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        _output([*compiler, *_FLAGS, "-shared", "-fPIC", str(_HERE / _SOURCES[0]), "-o", draft, "-lm"])
        os.replace(draft, target)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _compiler() -> list[str]:
    """`CC`, or `cc` on the path, as words."""
    try:
        words = shlex.split(os.environ.get("CC", "")) or ["cc"]
    except ValueError as error:
        raise NotCompiled(f"CC={os.environ['CC']} cannot be read: {error}") from error
    if shutil.which(words[0]) is None:
        raise NotCompiled(f"there is no C compiler ({words[0]})")
    return words


def _output(command: Sequence[str]) -> bytes:
    """What the compiler prints; raises `NotCompiled` with its last line if it fails."""
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise NotCompiled(f"{command[0]} failed: {lines[-1]}")
    return done.stdout
