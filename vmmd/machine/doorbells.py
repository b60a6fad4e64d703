# SPDX-License-Identifier: Apache-2.0
"""Doorbells: guest writes that KVM turns into an eventfd (ioeventfd) and the event loop serves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.errors import BackendError
from vmmd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.notify import LoopPort
    from vmmd.kvm.vm import KvmVm

log = get_logger("vmmd.doorbells")


class KvmDoorbell:
    """One ioeventfd and its reader on the loop."""

    __slots__ = ("_address", "_callback", "_datamatch", "_fd", "_loop", "_open", "_pio", "_size", "_vm")

    def __init__(self, vm: KvmVm, loop: LoopPort, where: tuple[bool, int, int, int | None]) -> None:
        """``where`` is (pio, address, size, datamatch). Raises BackendError."""
        self._vm = vm
        self._loop = loop
        self._pio, self._address, self._size, self._datamatch = where
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as cause:  # a guest that moves BARs quickly can use up the descriptors
            raise BackendError.from_os("cannot make a doorbell", cause) from cause
        self._open = True
        self._callback: Callable[[], None] | None = None
        try:
            vm.ioeventfd(self._fd, self._address, self._size, pio=self._pio, datamatch=self._datamatch)
        except BackendError:
            os.close(self._fd)
            raise

    def listen(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop.post(self._start)

    def close(self) -> None:
        """Any thread, DeviceLock held. Idempotent."""
        if not self._open:
            return
        self._open = False
        try:
            self._vm.ioeventfd(
                self._fd, self._address, self._size, pio=self._pio, datamatch=self._datamatch, deassign=True
            )
        except BackendError:
            log.exception("detaching the doorbell at %#x", self._address)
        self._loop.post(self._end)

    def _start(self) -> None:
        if self._open:
            self._loop.add_reader(self._fd, self._rang)

    def _end(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _rang(self) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return
        if self._open and self._callback is not None:
            self._callback()


class KvmDoorbells:
    """core.notify.DoorbellFactory over KVM."""

    def __init__(self, vm: KvmVm, loop: LoopPort) -> None:
        self._vm = vm
        self._loop = loop

    def attach(
        self, space: str, address: int, size: int, datamatch: int | None, callback: Callable[[], None]
    ) -> KvmDoorbell:
        bell = KvmDoorbell(self._vm, self._loop, (space == "pio", address, size, datamatch))
        bell.listen(callback)
        return bell
