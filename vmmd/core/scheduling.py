# SPDX-License-Identifier: Apache-2.0
"""What the process asks of the host's scheduler. Imported after the greeting (ctypes)."""

from __future__ import annotations

import ctypes
import os

#: numbers of system calls (x86-64), and a flag of <linux/sched.h>
_SYS_SCHED_SETATTR = 314
_SYS_SCHED_GETATTR = 315
_SCHED_FLAG_RESET_ON_FORK = 1


class _SchedAttr(ctypes.Structure):
    # <linux/sched/types.h> struct sched_attr, first version (48 bytes)
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime_ns", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("period_ns", ctypes.c_uint64),
    )


def ask_for_short_slices(slice_ns: int) -> bool:
    """Let the calling thread run soon after it wakes, also where a busy vCPU has its processor; its share stays as it
    is, in shorter slices (sched_setattr(2), since Linux 6.12). Threads it makes do not inherit this. False where the
    kernel refuses; a kernel that only ignores it cannot be told from one that does it."""
    attributes = _SchedAttr()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_SYS_SCHED_GETATTR, 0, ctypes.byref(attributes), ctypes.sizeof(attributes), 0):
        return False
    if attributes.policy not in (os.SCHED_OTHER, os.SCHED_BATCH):
        return True  # whoever started us has chosen another scheduling class
    attributes.runtime_ns = slice_ns
    attributes.flags |= _SCHED_FLAG_RESET_ON_FORK
    return not libc.syscall(_SYS_SCHED_SETATTR, 0, ctypes.byref(attributes), 0)
