# SPDX-License-Identifier: Apache-2.0
"""pc-testdev and pci-testdev: the same accesses to vmmd's and QEMU's, register by register."""

from __future__ import annotations

import random
import struct

import pytest

from tests.framework.qtest import Qtest

pytestmark = pytest.mark.qemu

PORTS = (0xE0, 0xE4, 0xE8)
IRQ_PORT = 0x2000
MEMORY = 0xFF00_0000


def pc_session(program: str) -> list[object]:
    rng = random.Random(1)
    seen: list[object] = []
    with Qtest(program, "-nodefaults", "-device", "pc-testdev") as vm:
        vm.irq_intercept_in()
        for _ in range(150):
            size = rng.choice((1, 2, 4))
            port = rng.choice(PORTS) + rng.choice(range(0, 4, size))
            if rng.random() < 0.5:
                vm.port_write(port, size, rng.getrandbits(8 * size))
            seen.append((port, size, vm.port_read(port, size)))
            gpa = MEMORY + rng.choice((0, 0xFFF0)) + rng.randrange(8)
            vm.write(gpa, rng.randbytes(8))
            seen.append(vm.read(gpa & ~7, 8))
            number, level = rng.choice((1, 3, 5, 7, 15)), rng.choice((0, 1, 0x80))
            vm.outb(IRQ_PORT + number, level)
            vm.inb(IRQ_PORT)
            seen.append((number, level, vm.irq(number), vm.inb(IRQ_PORT + number)))
        vm.qmp("system_reset")
        vm.wait_event("RESET")
        seen.append((vm.inl(0xE0), vm.read(MEMORY, 8)))
    return seen


def test_pc_testdev() -> None:
    assert pc_session("vmmd") == pc_session("qemu")


def test_an_interrupt_that_does_not_exist_is_ignored() -> None:
    with Qtest("vmmd", "-nodefaults", "-device", "pc-testdev") as vm:  # QEMU ends itself
        for number in range(16, 24):
            vm.outb(IRQ_PORT + number, 1)


def pci_session(program: str) -> list[object]:
    seen: list[object] = []
    with Qtest(program, "-nodefaults", "-device", "pci-testdev,addr=4.0,membar=64k") as vm:
        function = vm.pci(4)
        seen += [function.config_read(offset, 4) for offset in range(0, 64, 4)]
        function.enable()
        bars = [function.place_bar(index) for index in (0, 1, 2)]
        for bar in bars[:2]:
            for test in range(4):
                bar.write(0, 1, test)
                header = bytes(bar.read(offset, 1) for offset in range(48))
                number, width, offset, data, count = struct.unpack_from("<BB2xIII", header)
                seen.append(header)
                if not width:
                    continue
                for value in (data, data, data ^ 1, data):
                    bar.write(offset, width, value)
                seen.append((number, count, [bar.read(at, 1) for at in (12, offset)]))
            seen.append([bar.read(offset, 1) for offset in (0, 5, 0x40, 0xFF)])
        seen.append(bars[2].read(0, 4))
        vm.qmp("system_reset")
        vm.wait_event("RESET")
        function.enable()
        seen.append([function.place_bar(0).read(offset, 1) for offset in range(16)])
    return seen


def test_pci_testdev() -> None:
    assert pci_session("vmmd") == pci_session("qemu")
