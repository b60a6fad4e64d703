# SPDX-License-Identifier: Apache-2.0
"""A timer that a loop can wait for to the nanosecond: timerfd_create(2). Python has it from 3.13 on.

Loops count in milliseconds: what is due earlier they would have to spin for.
"""

from __future__ import annotations

import ctypes
import os
import time

_TFD_TIMER_ABSTIME = 1
_NS_PER_S = 1_000_000_000


class _Spec(ctypes.Structure):
    # struct itimerspec on x86-64: interval, value
    _fields_ = (
        ("interval_s", ctypes.c_int64),
        ("interval_ns", ctypes.c_int64),
        ("value_s", ctypes.c_int64),
        ("value_ns", ctypes.c_int64),
    )


class TimerFd:
    """``fd`` becomes readable at the armed moment of ``time.monotonic_ns``. One thread."""

    def __init__(self) -> None:
        """Raises OSError when the process has no descriptors left."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._spec = _Spec()
        self._spec_ref = ctypes.byref(self._spec)

    def arm(self, deadline_ns: int) -> None:
        """Instead of what was armed before. A deadline that has passed is now."""
        self._spec.value_s, self._spec.value_ns = divmod(max(deadline_ns, 1), _NS_PER_S)
        # SAFETY: the kernel reads one struct itimerspec, which lives as long as self
        self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._spec_ref, None)

    def acknowledge(self) -> None:
        """Not readable any more until the next deadline."""
        try:
            os.read(self.fd, 8)
        except (BlockingIOError, InterruptedError):
            pass

    def close(self) -> None:
        os.close(self.fd)
