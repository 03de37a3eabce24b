"""Whether a sandbox holds: tried from inside, with the host looked at from outside."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from alignpipe_plugins.unit_tests.cases import Case

if TYPE_CHECKING:
    from alignpipe_plugins.unit_tests.sandbox import Result

PROBE_LIMITS: dict[str, Any] = {"timeout": 60.0, "test_timeout": 10.0}
"""Time enough on a busy machine: the probe asks what holds, not how fast."""
PROBE_MEMORY = 32 << 20
"""A limit above what an idle sandbox holds and below what the probe's test holds."""
TOO_HEAVY = "the sandbox was ended: its processes together held more than total_memory_mb"

_ATTEMPTS = {
    "running Python": "assert 1 + 1 == 2",
    "the host's files": """
import os
assert not os.path.exists({secret!r}) and not os.path.exists('/etc/passwd') and not os.path.exists('/proc/1')
for place in ('/', '/usr', os.path.dirname(os.__file__)):
    try:
        open(place + '/alignpipe-probe', 'w')
    except OSError:
        continue
    raise AssertionError('can write to ' + place)
open('own', 'w').write('x')
""",
    "the network": """
import socket
for family, address in ((socket.AF_INET, ('127.0.0.1', {port})), (socket.AF_UNIX, chr(0) + {name!r})):
    try:
        socket.socket(family).connect(address)
    except OSError:
        continue
    raise AssertionError('reached ' + repr(address))
for family in range(2, 46):
    try:
        socket.socket(family, socket.SOCK_STREAM)
    except PermissionError:
        continue
    raise AssertionError('may open sockets of family ' + str(family))
""",
    "the host's processes": "import os; assert os.getppid() == 1 and os.getpid() < 100",
    "root and its rights": """
import ctypes, os
assert 0 not in (*os.getresuid(), *os.getresgid(), *os.getgroups())
assert ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) == 1
try:
    os.chroot('/')
except OSError:
    pass
else:
    raise AssertionError('may chroot')
""",
    "further namespaces and memory without a process": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, arguments in (
    ('unshare', (0x10000000,)), ('setns', (0, 0)), ('memfd_create', (b'x', 0)), ('shmget', (0, 4096, 0o600)),
    ('msgget', (0, 0o600)), ('semget', (0, 1, 0o600)),
):
    assert getattr(libc, name)(*arguments) == -1 and ctypes.get_errno() == 1, name
""",
    "the environment": "import os; assert not os.environ",
    "the memory limit": """
try:
    bytearray({memory})
except MemoryError:
    pass
else:
    raise AssertionError('got it all')
""",
    "the limit of processes": """
import os, time
try:
    for number in range({processes} + 1):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
except OSError:
    pass
else:
    raise AssertionError('got more')
""",
}
_HEAVY = f"""
import time
held = b'x' * {PROBE_MEMORY}
time.sleep(60)
"""
_FILTERED = """
import ctypes, os
assert ctypes.CDLL(None).process_vm_readv(os.getpid(), None, 0, None, 0, 0) == -1
"""


def probe(attempt: Callable[..., list[Result]], memory: int, processes: int, *, filtered: bool) -> str | None:
    """What a sandbox does not keep away from the code in it; None if it keeps everything away.

    `attempt` takes cases and, as keywords, other limits. Raises what `attempt` raises when there is no sandbox at all.
    """
    name = f"alignpipe-probe-{os.getpid()}-{os.urandom(4).hex()}"
    with (
        tempfile.NamedTemporaryFile() as secret,
        socket.create_server(("127.0.0.1", 0)) as inet,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(f"\0{name}")
        unix.listen()
        known = {
            "secret": os.path.realpath(secret.name), "port": inet.getsockname()[1], "name": name, "memory": memory,
            "processes": processes,
        }  # fmt: skip
        attempts = {what: test.format_map(known) for what, test in _ATTEMPTS.items()}
        if filtered:
            attempts["the longer filter of system calls"] = _FILTERED
        results = attempt([Case(test=test) for test in attempts.values()])
    lacking = [
        f"{what} ({(result.detail.strip().splitlines() or ['no reason given'])[-1]})"
        for what, result in zip(attempts, results, strict=True)
        if not result.passed
    ]
    if not lacking and attempt([Case(test=_HEAVY)], total_memory_bytes=PROBE_MEMORY)[0].detail != TOO_HEAVY:
        lacking = ["the limit of memory in all (its processes cannot be seen in /proc)"]
    return f"it does not keep what it should: {', '.join(lacking)}" if lacking else None
