"""Locks this process up by what the kernel gives, then runs another program there as process 1.

Given to an interpreter as text, with two arguments: the setup (JSON: parent, outer_id, paths, devices, disk_bytes) and
the program. What is locked up sees a file system of the named paths only (read-only) and a private `/tmp`, no network
but its own dead loopback, none of the host's processes, and is an unprivileged user without capabilities.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import select
import signal
import socket
import sys
from typing import Any, NoReturn

INNER_ID = 1000
"""User and group id in the sandbox; never 0, whose files and process limit are root's."""

_NEW_USER, _NEW_NS, _NEW_PID, _NEW_NET, _NEW_IPC, _NEW_UTS = (
    0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x08000000, 0x04000000,
)  # fmt: skip
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE, _MS_REMOUNT_RO = 2, 4, 4096, 16384, 1 << 18, 32 | 1
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC = 1, 2, 4, 8
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
_CAPSET = {"x86_64": 126, "aarch64": 91, "riscv64": 91, "ppc64le": 184, "s390x": 185}
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    given = [None if text is None else text.encode() for text in (source, target, kind)]
    _check(_libc.mount(*given, ctypes.c_ulong(flags), options and options.encode()), f"mounting {source} at {target}")


def _restrict(target: str, attributes: int) -> None:
    """Make a mount, and all mounts below it, read-only and so on."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    _check(
        _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, target.encode(), _AT_RECURSIVE, ctypes.byref(wanted), 32),
        f"making {target} read-only (mount_setattr, Linux 5.12 or newer)",
    )


def _leave_the_host(outer_id: int | None) -> None:
    """Enter new namespaces; as root, `outer_id` is who the sandbox's user is outside.

    The maps of ids are written by a helper that stays behind: only from outside may root map somebody else.
    """
    uid, gid, target = os.getuid(), os.getgid(), os.getpid()
    inside, outside = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(outside)
        os.read(inside, 1)
        try:
            if outer_id is None:
                _write(f"/proc/{target}/setgroups", "deny")
            for name, own in (("uid_map", uid), ("gid_map", gid)):
                entries = f"{INNER_ID} {own} 1" if outer_id is None else f"0 {own} 1\n{INNER_ID} {outer_id} 1"
                _write(f"/proc/{target}/{name}", entries)
        except OSError as error:
            os.write(1, json.dumps({"refused": f"mapping user ids: {error}"}).encode() + b"\n")
            os._exit(1)
        os._exit(0)
    os.close(inside)
    kinds = _NEW_USER | _NEW_NS | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS
    _check(_libc.unshare(kinds), "new user, mount, pid, network, ipc and uts namespaces")
    os.write(outside, b"1")
    os.close(outside)
    if os.waitpid(helper, 0)[1] != 0:
        os._exit(1)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _furnish(setup: dict[str, Any]) -> None:
    """Put a new root in place of the host's: the paths, a few devices, a private /tmp; nothing else."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    base = setup["base"]
    _mount("tmpfs", base, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=1m")
    os.mkdir(f"{base}/host")
    os.chdir(base)
    _check(_libc.syscall(_PIVOT_ROOT[platform.machine()], b".", b"host"), "pivot_root")
    os.chdir("/")
    for path in setup["paths"]:
        source = "/host" + path
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.islink(source):
            os.symlink(os.readlink(source), path)
            continue
        if os.path.isdir(source):
            os.makedirs(path, exist_ok=True)
        else:
            _write(path, "")
        _mount(source, path, None, _MS_BIND | _MS_REC)
        _restrict(path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
    os.mkdir("/dev")
    for device in setup["devices"]:
        _write(device, "")
        _mount("/host" + device, device, None, _MS_BIND)
        _restrict(device, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NOEXEC)
    os.mkdir("/tmp")
    options = f"mode=700,size={setup['disk_bytes']},nr_inodes=4096,uid={INNER_ID},gid={INNER_ID}"
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, options)
    _check(_libc.umount2(b"/host", _MNT_DETACH), "letting go of the host's files")
    os.rmdir("/host")
    _mount("none", "/", None, _MS_BIND | _MS_REMOUNT_RO | _MS_NOSUID | _MS_NODEV)


def _give_up_rights(outer_id: int | None) -> None:
    """Become the sandbox's user, without capabilities and without a way to get any."""
    if outer_id is not None:
        os.setgroups([])
        os.setgid(INNER_ID)
        os.setuid(INNER_ID)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _check(_libc.syscall(_CAPSET[platform.machine()], header, (ctypes.c_uint32 * 6)()), "dropping all capabilities")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def _die_with(parent: int) -> None:
    """Be killed when the parent ends; `parent` is its id as this process sees it."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "PR_SET_PDEATHSIG")
    if os.getppid() != parent:
        os._exit(1)


def main() -> NoReturn:
    """Lock up, fork process 1, wait for it."""
    setup = json.loads(sys.argv[1])
    try:
        _die_with(setup["parent"])
        _leave_the_host(setup["outer_id"])
        _furnish(setup)
        socket.sethostname("sandbox")
        alive, lifeline = os.pipe()
        child = os.fork()
        if child:
            os._exit(os.waitpid(child, 0)[1] != 0)
        _give_up_rights(setup["outer_id"])
        _die_with(0)
        os.close(lifeline)
        if select.select([alive], [], [], 0)[0]:  # the launcher died before it could take us along
            os._exit(1)
        os.close(alive)
    except (OSError, KeyError) as error:
        os.write(1, json.dumps({"refused": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        os._exit(1)
    exec(compile(sys.argv[2], "harness", "exec"), {"__name__": "__main__"})
    os._exit(0)


if __name__ == "__main__":
    sys.path[:] = [entry for entry in sys.path if entry]
    main()
