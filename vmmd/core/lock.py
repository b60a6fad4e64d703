# SPDX-License-Identifier: Apache-2.0
"""The one device lock (docs/adr/0001): guards device, bus, interrupt-line, configuration and tree state.

Not re-entrant. A vCPU thread holds it for one exit's dispatch, the loop for one callback's touch of device
state. Never held across ``await``, KVM_RUN, blocking system calls or waits.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

#: True when affinity and lock ownership are checked (slow); set by ``VMMD_DEBUG=affinity``.
DEBUG = "affinity" in os.environ.get("VMMD_DEBUG", "").split(",")


class CheckedLock:
    """Owner-recording lock for debugging: reports re-entry and release by a stranger at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = threading.get_ident()
        if self._owner == me:
            raise RuntimeError("DeviceLock is taken twice by one thread")
        got = self._lock.acquire(blocking, timeout)
        if got:
            self._owner = me
        return got

    def release(self) -> None:
        if self._owner != threading.get_ident():
            raise RuntimeError("DeviceLock is released by a thread that does not hold it")
        self._owner = 0
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def held_by_me(self) -> bool:
        return self._owner == threading.get_ident()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


if TYPE_CHECKING or not DEBUG:
    DeviceLock = threading.Lock  # the plain C lock: 0.1 µs a pair
else:
    DeviceLock = CheckedLock
