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


class OutsideDoorbell:
    """An ioeventfd on somebody's eventfd, which is read outside."""

    __slots__ = ("_fd", "_open", "_vm", "_where")

    def __init__(self, vm: KvmVm, where: tuple[bool, int, int, int | None], fd: int) -> None:
        """``where`` is (pio, address, size, datamatch). Raises BackendError."""
        self._vm = vm
        self._where = where
        self._fd = fd
        pio, address, size, datamatch = where
        vm.ioeventfd(fd, address, size, pio=pio, datamatch=datamatch)
        self._open = True

    def close(self) -> None:
        """Any thread, DeviceLock held. Idempotent."""
        if not self._open:
            return
        self._open = False
        pio, address, size, datamatch = self._where
        try:
            self._vm.ioeventfd(self._fd, address, size, pio=pio, datamatch=datamatch, deassign=True)
        except BackendError:
            log.exception("detaching the doorbell at %#x", address)


class KvmDoorbell(OutsideDoorbell):
    """One ioeventfd and its reader on the loop."""

    __slots__ = ("_callback", "_loop")

    def __init__(
        self, vm: KvmVm, loop: LoopPort, where: tuple[bool, int, int, int | None], callback: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._callback = callback
        try:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except OSError as cause:  # a guest that moves BARs quickly can use up the descriptors
            raise BackendError.from_os("cannot make a doorbell", cause) from cause
        try:
            super().__init__(vm, where, fd)
        except BackendError:
            os.close(fd)
            raise
        loop.post(self._start)

    def close(self) -> None:
        if self._open:
            super().close()
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
        if self._open:
            self._callback()


class KvmDoorbells:
    """core.notify.DoorbellFactory over KVM."""

    def __init__(self, vm: KvmVm, loop: LoopPort) -> None:
        self._vm = vm
        self._loop = loop

    def attach(
        self, space: str, address: int, size: int, datamatch: int | None, ring: Callable[[], None] | int
    ) -> OutsideDoorbell:
        where = (space == "pio", address, size, datamatch)
        if isinstance(ring, int):
            return OutsideDoorbell(self._vm, where, ring)
        return KvmDoorbell(self._vm, self._loop, where, ring)
