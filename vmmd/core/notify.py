# SPDX-License-Identifier: Apache-2.0
"""Seams between device code and the event loop: posting, fd readers, guest doorbells (ioeventfd), hand-shakes.

The loop side is implemented in ``daemon`` (uvloop), the doorbells by ``kvm.vm`` plus the loop; tests use fakes.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class LoopPort(Protocol):
    """What non-asyncio code may ask of the event loop."""

    def post(self, callback: Callable[..., None], *args: object) -> None:
        """Run ``callback(*args)`` on the loop thread soon. Any thread; never blocks; order is kept."""

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: object) -> Cancellable:
        """Run ``callback`` after a host-time delay. Loop thread only."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``fd`` is readable. Loop thread only (or before the loop runs)."""

    def remove_reader(self, fd: int) -> None:
        """Undo ``add_reader``. Loop thread only."""

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``fd`` is writable. Loop thread only (or before the loop runs)."""

    def remove_writer(self, fd: int) -> None:
        """Undo ``add_writer``. Loop thread only."""

    @property
    def runs(self) -> bool:
        """The loop has been started; before that, ``call_later`` and the like are not there."""

    def on_loop_thread(self) -> bool:
        """True when the caller is the loop thread."""

    def create_future(self) -> Promise:
        """An awaitable that is resolved once. Loop thread only."""

    def spawn(self, coroutine: Coroutine[object, object, object], name: str) -> None:
        """Run a coroutine as a named task that the loop owns; an exception in it is logged. Loop thread only."""


class Promise(Awaitable[None], Protocol):
    """The part of a future that device-side code uses."""

    def set_result(self, value: None) -> None: ...

    def done(self) -> bool: ...


class Cancellable(Protocol):
    def cancel(self) -> None:
        """Do not run."""


class Doorbell(Protocol):
    """A guest address whose writes wake the loop instead of leaving the kernel (KVM ioeventfd)."""

    def close(self) -> None:
        """Detach from the address. After it returns no new ring arrives. Any thread, DeviceLock held."""


class DoorbellFactory(Protocol):
    def attach(
        self, space: str, address: int, size: int, datamatch: int | None, ring: Callable[[], None] | int
    ) -> Doorbell:
        """Call ``ring`` on the loop for every guest write of ``size`` bytes (0: any size, MMIO only) at ``address`` of
        ``space`` ("pio" or "mmio"), restricted to ``datamatch`` when given. ``ring`` may be an eventfd of the caller's
        instead, which somebody outside reads (vhost). DeviceLock held. Raises BackendError when the kernel refuses; the
        device then serves the register by exits."""


class Handshake:
    """Lets a vCPU thread wait for the loop, with the DeviceLock released (architecture §3 L7)."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def done(self) -> None:
        """The awaited thing has happened. Any thread."""
        self._event.set()

    def wait(self, lock: threading.Lock, timeout_s: float) -> bool:
        """Release ``lock``, wait, take it again. True when ``done`` was called in time. vCPU thread."""
        lock.release()
        try:
            return self._event.wait(timeout_s)
        finally:
            lock.acquire()
