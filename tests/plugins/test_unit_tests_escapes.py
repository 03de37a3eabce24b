"""reward=unit_tests: code that tries to get out, and the host afterwards; in every isolation there is here."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from alignpipe_plugins.unit_tests.cases import Case
from alignpipe_plugins.unit_tests.config import Isolation
from alignpipe_plugins.unit_tests.exchange import Unwanted
from alignpipe_plugins.unit_tests.isolation import BUILDERS
from alignpipe_plugins.unit_tests.sandbox import Limits, Refused, Result, Sandbox
from alignpipe_plugins.unit_tests.seccomp import MACHINES
from support.host import gone, marked, processes
from support.sandboxes import OWN_SANDBOX, need

LIMITS = Limits(
    timeout=6.0, test_timeout=2.0, memory_bytes=256 << 20, total_memory_bytes=320 << 20, processes=8,
    file_bytes=1 << 20, disk_bytes=4 << 20, output_bytes=16 << 10,
)  # fmt: skip


@pytest.fixture(scope="module", params=list(BUILDERS), ids=lambda kind: kind.name)
def sandbox(request) -> Sandbox:
    made = Sandbox(LIMITS, request.param, False, None)  # without the filter: what it denies must be out of reach anyway
    need(made, request.param)
    return made


def run(sandbox: Sandbox, code: str, *tests: str) -> list[Result]:
    return sandbox.run(textwrap.dedent(code), [Case(test=textwrap.dedent(test)) for test in tests or ("",)])


def test_there_is_a_sandbox_here_or_the_refusal_says_why() -> None:
    try:
        said = Sandbox(LIMITS, Isolation.auto, None, None).way()
    except Refused as error:
        said = str(error)
    assert said.startswith(tuple(kind.name for kind in BUILDERS)) or "namespaces: " in said


def test_wrong_and_right_code(sandbox) -> None:
    right, wrong = run(sandbox, "def double(x):\n    return 2 * x", "assert double(2) == 4", "assert double(2) == 5")
    assert right.passed
    assert not wrong.passed
    assert "AssertionError" in wrong.detail


@pytest.mark.slow
def test_an_endless_loop_ends_in_time(sandbox) -> None:
    before, began = processes(), time.monotonic()
    (result,) = run(sandbox, "while True: pass")
    assert (result.passed, result.timeout) == (False, True)
    assert time.monotonic() - began < LIMITS.test_timeout + 5
    assert gone(before)


@pytest.mark.slow
def test_a_fork_bomb_stays_within_its_limit_and_dies(sandbox) -> None:
    before = processes()
    bomb = """
        import os, time
        count = 0
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(60)
            except OSError:
                break
            count += 1
        assert count < 8, count
    """
    (result,) = run(sandbox, bomb)
    assert result.passed, result.detail
    (result,) = run(sandbox, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
    assert result.timeout
    assert gone(before)


def test_a_memory_bomb_gets_a_memory_error(sandbox) -> None:
    (result, after) = run(sandbox, "", "held = [bytearray(1 << 24) for _ in range(1000)]", "assert True")
    assert not result.passed
    assert "MemoryError" in result.detail
    assert after.passed


def test_a_memory_bomb_in_several_processes_ends_the_sandbox(sandbox) -> None:
    """None of them is above its own limit, and each has left its parent; two together are within what is allowed."""
    before, began = processes(), time.monotonic()
    bomb = """
        import os, time
        for number in range({count}):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    held = b'x' * (90 << 20)
                    time.sleep({seconds})
                os._exit(0)
            os.wait()
        time.sleep({seconds})
    """
    first, second, third = run(
        sandbox, "", bomb.format(count=2, seconds=0.5), bomb.format(count=4, seconds=60), "assert True"
    )
    assert first.passed, first.detail
    for result in (second, third):
        assert (result.passed, result.timeout) == (False, False)
        assert result.detail.endswith("held more than total_memory_mb")
    assert time.monotonic() - began < LIMITS.test_timeout
    assert gone(before)


@pytest.mark.slow
def test_huge_output_is_cut(sandbox) -> None:
    (result,) = run(sandbox, "for _ in range(2000): print('x' * 1000)")
    assert result.passed
    assert result.cut
    assert len(result.output) == LIMITS.output_bytes
    (endless,) = run(sandbox, "while True: print('x' * 1000)")
    assert endless.timeout
    assert len(endless.output) == LIMITS.output_bytes


def test_huge_files_do_not_fill_the_disk(sandbox) -> None:
    free = os.statvfs(tempfile.gettempdir()).f_bavail
    one = """
        import signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        open('one', 'wb').write(bytes(2 << 20))
    """
    many = "for number in range(100): open(str(number), 'wb').write(bytes(1 << 19))"
    first, second, third = run(sandbox, "", one, many, "assert open('own', 'w').write('x') == 1")
    assert not first.passed
    assert "File too large" in first.detail
    assert "No space left" in second.detail
    assert third.passed, "the next test has an empty folder"
    frames = os.statvfs(tempfile.gettempdir()).f_frsize
    assert (free - os.statvfs(tempfile.gettempdir()).f_bavail) * frames < 1 << 30


def test_the_environment_is_empty(sandbox, monkeypatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    code = """
        import ctypes, os
        assert dict(os.environ) == {}
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_char_p
        assert libc.getenv(b'SECRET_KEY') is None
        assert os.getenv('HOME') is None
    """
    assert run(sandbox, code)[0].passed


def test_the_hosts_files_are_not_there(sandbox, tmp_path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("s3cret")
    places = [str(secret), str(Path.home() / ".ssh"), str(Path.home() / ".bashrc"), __file__]
    places += ["/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/self/environ", "/proc/1", "/sys", "/var", "/run"]
    code = f"""
        import os
        seen = [place for place in {places!r} if os.path.exists(place)]
        assert not seen, seen
        assert os.listdir('.') == []
    """
    (result,) = run(sandbox, code)
    assert result.passed, result.detail


def test_nothing_outside_can_be_written(sandbox, tmp_path) -> None:
    victims = [str(tmp_path / "new"), str(Path.home() / "new"), os.__file__]
    victims += ["/etc/new", "/usr/lib/new", "/new", "/dev/new"]
    code = f"""
        for place in {victims!r}:
            try:
                open(place, 'a').write('x')
            except OSError:
                continue
            raise AssertionError(place)
    """
    size = Path(os.__file__).stat().st_size
    (result,) = run(sandbox, code)
    assert result.passed, result.detail
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(victim).exists() for victim in victims if victim != os.__file__)
    assert Path(os.__file__).stat().st_size == size


@pytest.mark.skipif(
    os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="mounting needs root",
)
def test_mounts_below_the_interpreter_cannot_be_written(sandbox) -> None:
    place = str(Path(os.__file__).parent / "wsgiref")
    program = f"""
{OWN_SANDBOX.format(path=sys.path, kind=sandbox.way())}
(result,) = sandbox.run("open({place!r} + '/new', 'w')", [Case(test="")])
print(result.detail)
"""
    mount = 'mount -t tmpfs -o mode=1777 none "$0" && "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, place, sys.executable, "-c", program], capture_output=True, text=True
    )
    assert "Read-only file system" in done.stdout, done.stdout + done.stderr


def test_no_socket_reaches_the_host(sandbox) -> None:
    name = f"alignpipe-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as inet, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{name}")
        unix.listen()
        inet.settimeout(0.2)
        code = f"""
            import socket
            targets = [(socket.AF_INET, ('127.0.0.1', {inet.getsockname()[1]})), (socket.AF_INET, ('8.8.8.8', 53)),
                       (socket.AF_UNIX, chr(0) + {name!r})]
            for family, address in targets:
                try:
                    socket.socket(family).connect(address)
                except OSError:
                    continue
                raise AssertionError(address)
        """
        (result,) = run(sandbox, code)
        assert result.passed, result.detail
        with pytest.raises(TimeoutError):
            inet.accept()


def test_no_kind_of_socket_but_local_ones(sandbox) -> None:
    """Sockets of virtual machines (40) and of the kernel's cryptography (38) know no network namespaces."""
    code = """
        import socket
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_PACKET, socket.AF_NETLINK, 38, 40):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                try:
                    socket.socket(family, kind)
                except PermissionError:
                    continue
                raise AssertionError((family, kind))
        one, other = socket.socketpair()
        one.send(b'x')
        assert other.recv(1) == b'x'
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.syscall(425, 1, None) == -1 and ctypes.get_errno() == 1, 'io_uring'
    """
    (result,) = run(sandbox, code)
    assert result.passed, result.detail


def test_no_further_namespaces_and_no_memory_without_a_process(sandbox) -> None:
    """What these calls make can be left behind by a process: neither its limits nor the watcher's sum would hold it."""
    numbers = MACHINES[os.uname().machine][1]
    code = f"""
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        numbers = {numbers!r}
        calls = {{'shmget': (0, 4096, 0o600), 'msgget': (0, 0o600), 'semget': (0, 1, 0o600), 'memfd_create': (b'x', 0),
                  'memfd_secret': (0,), 'unshare': (0x10000000,), 'setns': (0, 0)}}
        calls['clone'] = (0x10000000 | 17, 0, 0, 0, 0)
        for name, arguments in calls.items():
            assert libc.syscall(numbers[name], *arguments) == -1 and ctypes.get_errno() == 1, name
        assert libc.syscall(numbers['clone3'], 0, 0) == -1 and ctypes.get_errno() == 38
        assert libc.syscall(numbers['shmget'] | 0x40000000, 0, 4096, 0o600) == -1 and ctypes.get_errno() == 1, 'x32'
        import concurrent.futures, subprocess, sys
        assert list(concurrent.futures.ThreadPoolExecutor(2).map(abs, [-1])) == [1]
        assert subprocess.run([sys.executable, '-c', 'print(1)'], capture_output=True).stdout == b'1\\n'
    """
    (result,) = run(sandbox, code)
    assert result.passed, result.detail


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of keyctl is that of x86_64")
def test_the_keys_of_the_session_are_out_of_reach(sandbox) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    own, add_key = libc.syscall(250, 0, -3, 0), 248
    secret = libc.syscall(add_key, b"user", b"alignpipe-test", b"s3cret", 6, -3)
    if own < 0 or secret < 0:
        pytest.skip("this kernel, or this session, has no keyring")
    code = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        session = libc.syscall(250, 0, -3, 0)
        assert session != {own}, session
        buffer = ctypes.create_string_buffer(64)
        for key in ({secret}, libc.syscall(250, 10, -3, b'user', b'alignpipe-test', 0)):
            assert key < 0 or libc.syscall(250, 11, key, buffer, 64) < 0, buffer.value
    """
    (result,) = run(sandbox, code)
    libc.syscall(250, 21, secret)
    assert result.passed, result.detail


def test_the_parent_cannot_be_killed_or_traced(sandbox) -> None:
    kill = f"""
        import os, signal
        for process in (1, os.getppid(), {os.getpid()}, -1):
            for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
                try:
                    os.kill(process, number)
                except OSError:
                    pass
    """
    trace = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.ptrace(16, 1, 0, 0) == -1
        buffer = ctypes.create_string_buffer(8)
        class Vector(ctypes.Structure):
            _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
        own = Vector(ctypes.addressof(buffer), 8)
        other = Vector(0x400000, 8)
        assert libc.process_vm_readv(1, ctypes.byref(own), 1, ctypes.byref(other), 1, 0) == -1
        assert ctypes.get_errno() == 1, ctypes.get_errno()
    """
    killer, tracer, after = run(sandbox, "", kill, trace, "assert True")
    assert tracer.passed, tracer.detail
    assert after.passed, "the harness is alive after the attempt to kill it"
    assert isinstance(killer, Result)


def test_nothing_is_left_behind(sandbox) -> None:
    before = processes()
    mark = f"left-behind-{os.getpid()}"
    code = f"""
        import os, subprocess, sys
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', {mark!r}])
            os._exit(0)
        os.wait()
    """
    first, second = run(sandbox, "", code, "import os\nassert os.getpid() < 100")
    assert first.passed, first.detail
    assert second.passed
    assert marked(mark) == []
    assert gone(before)


def test_its_own_folder_may_go_and_comes_back(sandbox) -> None:
    spoil = """
        import os, shutil
        os.mkdir('/tmp/locked')
        os.chmod('/tmp/locked', 0)
        shutil.rmtree(os.getcwd())
        os.chmod('/tmp', 0)
    """
    first, second = run(sandbox, "", spoil, "open('own', 'w').write('x')")
    assert first.passed, first.detail
    assert second.passed, second.detail


def test_all_is_over_when_nobody_waits(sandbox) -> None:
    before, stop = processes(), threading.Event()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Unwanted):
        sandbox.run("import time\ntime.sleep(60)", [Case(test="")], stop)
    assert time.monotonic() - began < LIMITS.test_timeout
    assert gone(before)


def test_a_killed_run_takes_its_sandbox_along(sandbox, tmp_path) -> None:
    mark = f"orphan-{os.getpid()}-{sandbox.way()}"
    program = f"""
{OWN_SANDBOX.format(path=sys.path, kind=sandbox.way())}
print("ready", flush=True)
code = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(50)', {mark!r} + 'x'])"
sandbox.run(code, [Case(test="")])
"""
    run_ = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run_.stdout is not None
    assert run_.stdout.readline() == "ready\n"
    for _ in range(100):
        if marked(f"{mark}x"):
            break
        time.sleep(0.1)
    # The mark itself stands in the program's own command line, so the sleeper's is asked for.
    assert [line for line in marked(f"{mark}x") if "time.sleep(50)" in line]
    run_.send_signal(signal.SIGKILL)
    run_.wait()
    for _ in range(50):
        if not marked(f"{mark}x"):
            break
        time.sleep(0.1)
    assert marked(f"{mark}x") == []
