"""A filter of system calls, made by libseccomp through pyseccomp (the extra `sandbox`)."""

from __future__ import annotations

import base64
import errno
import tempfile

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
_NEW_NAMESPACES = 0x7E020000
"""The flags of clone that ask for namespaces."""


def denying_filter() -> str:
    """The filter as BPF instructions in base64: what is not denied is allowed; the denied fails with EPERM.

    Raises `ImportError` without pyseccomp and `OSError` or `RuntimeError` without libseccomp.
    """
    import pyseccomp

    calls = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    no = pyseccomp.ERRNO(errno.EPERM)
    for name in _DENIED:
        if _known(pyseccomp, name):
            calls.add_rule(no, name)
    # clone3 hides its flags from filters; told that it does not exist, libraries fall back to clone.
    if _known(pyseccomp, "clone3"):
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
