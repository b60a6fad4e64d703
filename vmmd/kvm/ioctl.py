# SPDX-License-Identifier: Apache-2.0
"""ioctl(2) for KVM, in two flavours, and the C-level kick signal.

``ioctl`` lets go of the GIL while the kernel works: for everything that may take long, KVM_RUN above all.
``fcntl.ioctl`` is never used for KVM_RUN: CPython 3.14 retries it on EINTR, so a kicked vCPU would spin inside the call
(architecture §3).

``short_ioctl`` keeps the GIL: for calls of a microsecond (KVM_IRQ_LINE, KVM_SIGNAL_MSI), where giving it away and
getting it back from a busy thread would cost more than the call.
"""

from __future__ import annotations

import ctypes
import os
import signal

from vmmd.core.trace_events import KVM_ERROR
from vmmd.errors import BackendError

_libc = ctypes.CDLL(None, use_errno=True)

#: raw calls: (fd, request, argument) -> result, -1 with ``ctypes.get_errno()``. No ``argtypes``: plain ints and
#: ``byref`` objects convert faster without (0.65 µs a call against 1.2); addresses go by ``byref``, never as int.
run_ioctl = _libc["ioctl"]
short_ioctl = ctypes.PyDLL(None, use_errno=True)["ioctl"]

#: with ``argtypes``: any int is a legal argument
raw_ioctl = _libc.ioctl
raw_ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class KvmError(BackendError):
    """An ioctl of KVM was refused. ``errno`` tells why."""

    def __init__(self, name: str, errno: int) -> None:
        super().__init__(f"kvm: {name} failed: {os.strerror(errno)}")
        self.errno = errno
        if KVM_ERROR.on:
            KVM_ERROR(name, errno)


def ioctl(fd: int, request: int, argument: object = None, *, name: str) -> int:
    """One ioctl, GIL released; ``argument`` is an int, None or something from ``ctypes.byref``. Raises KvmError."""
    result: int = raw_ioctl(fd, request, argument)
    if result < 0:
        raise KvmError(name, ctypes.get_errno())
    return result


#: what interrupts KVM_RUN. A real-time signal that neither libvirt nor Python's runtime uses; only ever sent with
#: pthread_kill to vCPU threads, which block every other signal.
KICK_SIGNAL = signal.SIGRTMIN + 4


class _SigAction(ctypes.Structure):
    # glibc's struct sigaction on x86-64 Linux
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


def install_kick_handler() -> None:
    """Make KICK_SIGNAL interrupt system calls and do nothing else. Once per process, any thread, idempotent.

    The handler is C, not Python: a Python handler would make every kick wake the main thread's event loop through
    signal.set_wakeup_fd and run bytecode there.
    """
    # SAFETY: labs(3) takes a long and has no side effect, so it is async-signal-safe as a handler; libc is never
    # unloaded, so its address stays valid. No SA_RESTART: the system call must end with EINTR.
    action = _SigAction(handler=ctypes.cast(_libc.labs, ctypes.c_void_p).value, flags=0)
    if _libc.sigaction(ctypes.c_int(KICK_SIGNAL), ctypes.byref(action), None) != 0:
        raise BackendError.from_os("Could not install the vCPU kick signal", OSError(ctypes.get_errno(), ""))


def set_thread_name(name: str) -> None:
    """Name the calling thread for ps, top and gdb (prctl PR_SET_NAME; 15 bytes count)."""
    pr_set_name = 15
    _libc.prctl(ctypes.c_int(pr_set_name), ctypes.c_char_p(name.encode()[:15]), 0, 0, 0)
