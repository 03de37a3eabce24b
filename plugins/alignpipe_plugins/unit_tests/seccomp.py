"""Filters of system calls, as BPF instructions in base64: one of ours, and a longer one (the extra `sandbox`).

What they do not deny is allowed; the denied fails with EPERM.
"""

from __future__ import annotations

import base64
import errno
import struct
import tempfile
from collections.abc import Mapping

_NEW_NAMESPACES = 0x7E020000
"""The flags of clone that ask for namespaces."""
_GENERIC = {
    "msgget": 186, "semget": 190, "shmget": 194, "socket": 198, "clone": 220, "unshare": 97, "setns": 268,
    "memfd_create": 279, "memfd_secret": 447, "io_uring_setup": 425, "clone3": 435,
}  # fmt: skip
MACHINES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            **_GENERIC, "msgget": 68, "semget": 64, "shmget": 29, "socket": 41, "clone": 56, "unshare": 272,
            "setns": 308, "memfd_create": 319,
        },
    ),
    "aarch64": (0xC00000B7, _GENERIC),
    "riscv64": (0xC00000F3, _GENERIC),
}  # fmt: skip
"""Per machine: how the kernel calls it, and the numbers of the system calls of our filter."""
_DENIED_BY_OURS = (
    "unshare", "setns",  # as root of a namespace of its own, code could mount files in memory without a limit
    "msgget", "semget", "shmget", "memfd_create", "memfd_secret",  # memory that the watcher does not see
    "io_uring_setup",  # opens sockets past every filter
)  # fmt: skip
_FIRST_X32 = 0x40000000

_DENIED = (
    # further namespaces and mounts, and with them most of the kernel that only a root user reaches
    "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount",
    "fsconfig", "fspick", "mount_setattr",
    # other processes' memory and files
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    # large kernel interfaces that no answer to a programming task needs
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl",
    "add_key", "request_key", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load",
    "fanotify_init", "open_by_handle_at", "name_to_handle_at", "syslog", "acct", "swapon", "swapoff", "reboot",
    # memory that outlives its process or that no limit of a process counts
    "shmget", "shmat", "msgget", "semget", "memfd_create", "memfd_secret",
)  # fmt: skip


def own_filter(machine: str) -> str:
    """No sockets but unix ones (some kinds know no network namespaces), no further namespaces, no hidden memory.

    Calls in the manner of another machine are denied whole. Raises `KeyError` for a machine whose numbers are not here.
    """
    name, numbers = MACHINES[machine]
    load, equal, least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, deny = (answer, 0, 0, 0x7FFF0000), (answer, 0, 0, 0x00050000 | errno.EPERM)
    first_argument = (load, 0, 0, 16)
    # Each block ends with an answer; its numbers say how many instructions to skip if it holds, and if not.
    code = [(load, 0, 0, 4), (equal, 1, 0, name), deny]
    code += [(load, 0, 0, 0), (least, 0, 1, _FIRST_X32), deny]
    for call in _DENIED_BY_OURS:
        code += [(equal, 0, 1, numbers[call]), deny]
    # clone3 hides its flags from filters; told that it does not exist, libraries fall back to clone.
    code += [(equal, 0, 1, numbers["clone3"]), (answer, 0, 0, 0x00050000 | errno.ENOSYS)]
    code += [(equal, 0, 4, numbers["clone"]), first_argument, (any_bit, 0, 1, _NEW_NAMESPACES), deny, allow]
    code += [(equal, 0, 4, numbers["socket"]), first_argument, (equal, 1, 0, 1), deny, allow]
    return base64.b64encode(b"".join(struct.pack("HBBI", *instruction) for instruction in [*code, allow])).decode()


def longer_filter() -> str:
    """What libseccomp makes of a longer list.

    Raises `ImportError` without pyseccomp and `OSError` or `RuntimeError` without libseccomp.
    """
    import pyseccomp

    calls = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    no = pyseccomp.ERRNO(errno.EPERM)
    for name in _DENIED:
        if _known(pyseccomp, name):
            calls.add_rule(no, name)
    if _known(pyseccomp, "clone3"):  # as above
        calls.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for bit in range(32):
        if _NEW_NAMESPACES >> bit & 1:
            calls.add_rule(no, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, 1 << bit, 1 << bit))
    with tempfile.TemporaryFile() as file:
        calls.export_bpf(file)
        file.seek(0)
        return base64.b64encode(file.read()).decode()


def _known(pyseccomp: object, name: str) -> bool:
    """Whether the installed libseccomp has heard of a system call."""
    try:
        return bool(pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) != -1)  # type: ignore[attr-defined]
    except (OSError, ValueError):
        return False
