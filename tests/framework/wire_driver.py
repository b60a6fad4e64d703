# SPDX-License-Identifier: Apache-2.0
"""The virtqueue driver's registers and memory over the qtest wire: a whole machine, vmmd or QEMU.

with Qtest("vmmd", "-device", "virtio-blk-pci,drive=d0,addr=4", …) as vm:
    driver = wire_driver(vm, slot=4, modern=True)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.framework.virtio_function import FunctionRegisters
from tests.framework.virtqueue_driver import Driver

if TYPE_CHECKING:
    from tests.framework.qtest import Qtest
    from tests.framework.virtqueue_driver import DriverQueue

ANSWER_TIMEOUT_S = 10.0


class WireRegisters(FunctionRegisters):
    """One function of a machine."""

    pio, mmio = "io", "memory"

    def __init__(self, vm: Qtest, slot: int, function: int = 0) -> None:
        self.vm = vm
        self._function = vm.pci(slot, function)

    def config_read(self, offset: int, size: int) -> int:
        return self._function.config_read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self._function.config_write(offset, size, value)

    def read(self, space: str, address: int, size: int) -> int:
        return self.vm.port_read(address, size) if space == self.pio else self.vm.load(address, size)

    def write(self, space: str, address: int, size: int, value: int) -> None:
        if space == self.pio:
            self.vm.port_write(address, size, value)
        else:
            self.vm.store(address, size, value)


class WireMemory:
    """Guest memory of a machine."""

    def __init__(self, vm: Qtest) -> None:
        self.vm = vm

    def read(self, gpa: int, length: int) -> bytes:
        return self.vm.read(gpa, length)

    def write(self, gpa: int, data: bytes) -> None:
        self.vm.write(gpa, data)

    def u16(self, gpa: int) -> int:
        return self.vm.readw(gpa)

    def store_u16(self, gpa: int, value: int) -> None:
        self.vm.writew(gpa, value)


def wire_driver(vm: Qtest, slot: int, *, modern: bool) -> Driver:
    """A driver of the function in ``slot``, whose BARs it maps."""
    registers = WireRegisters(vm, slot)
    registers.map_bars()
    return Driver(registers, WireMemory(vm), modern=modern)


def collect(ring: DriverQueue, count: int) -> list[tuple[int, int]]:
    """(head, written) of ``count`` chains that the device gives back: disks answer in real time. Raises
    TimeoutError."""
    found: list[tuple[int, int]] = []
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    while len(found) < count:
        found += ring.collect()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(found)} of {count} chains came back")
    return found
