# SPDX-License-Identifier: Apache-2.0
"""The 8259 pair and the I/O APIC against QEMU 7.2's: the same random accesses and input changes, the same reads.

The cascade input is left to the slave. After a change of the special mask the mask is written again, as the data sheet
has it: QEMU looks at its INT pin only then.
"""

from __future__ import annotations

import random
import re
import socket
from typing import TYPE_CHECKING

import pytest

from tests.differential.qtest import Qtest
from tests.framework.qmp import Qmp
from tests.unit.interrupt_rig import IOAPIC, Rig
from tests.unit.qmp_support import FakeVm, ManualLoop, run_to_end
from vmmd.qmp.hmp.monitor import HumanMonitor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.qemu

STEPS = 3000
PORTS = (0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1)
MASTER_INPUTS = (0, 1, 3, 4, 5, 6, 7)
#: operation words: EOI and rotation in all their forms, read IRR and ISR, poll
OPERATIONS = (0x00, 0x80, 0x20, 0xA0, *range(0x60, 0x68), *range(0xC0, 0xC8), *range(0xE0, 0xE8), 0x0A, 0x0B, 0x0C)
SPECIAL_MASK = (0x68, 0x48)
ICW1, OCW3_SPECIAL_MASK = 0x10, 0x48
#: registers of the page and what is near to them
OFFSETS = (0x00, 0x10, 0x20, 0x40, 0x04, 0x11, 0x110, 0x210, 0xFFC)
ENTRIES = (0x31, 0x32, 0x8031, 0x8032, 0x1_8031, 0x1_0031, 0)
#: what QEMU shows of registers that are no entries
ODD_SELECTION = re.compile(r" \(redir\[\d{10}\]\)")


class Qemu(Qtest):
    """QEMU's chips. ``set_input`` takes 0 for the master, 1 for the slave, 2 for the I/O APIC."""

    PATHS = ("/machine/unattached/device[6]", "/machine/unattached/device[7]", "ioapic")
    LETTERS: dict[int, str] = {1: "b", 2: "w", 4: "l"}  # noqa: RUF012

    def set_input(self, chip: int, number: int, level: int) -> None:
        self._ask(f"set_irq_in {self.PATHS[chip]} unnamed-gpio-in {number} {level}")

    def mem_read(self, address: int, size: int) -> int:
        return int(self._ask(f"read{self.LETTERS[size]} {address:#x}")[1], 16)

    def mem_write(self, address: int, size: int, value: int) -> None:
        self._ask(f"write{self.LETTERS[size]} {address:#x} {value:#x}")


class Vmmd:
    """Ours, with the same methods."""

    def __init__(self) -> None:
        self.rig = Rig()
        pio, mmio = self.rig.machine.pio, self.rig.machine.mmio
        self.read, self.write, self.mem_read, self.mem_write = pio.read, pio.write, mmio.read, mmio.write

    def set_input(self, chip: int, number: int, level: int) -> None:
        (*self.rig.pics, self.rig.ioapic)[chip].set_input(number, level)

    @property
    def input_to_drive_again(self) -> int | None:
        """The input of the entry that is selected, when it is up."""
        ioapic = self.rig.ioapic
        pin = ioapic._selected - 0x10 >> 1
        if pin == 2 and ioapic._levels & 1:
            return 0
        return pin if 0 < pin < 24 and ioapic._up >> pin & 1 else None


def pic_step(dice: random.Random, both: tuple[Qemu, Vmmd]) -> list[int]:
    """One step on the 8259 pair; what was read on each."""
    kind, port = dice.random(), dice.choice(PORTS)
    if kind < 0.35:
        chip, level = dice.randrange(2), dice.randrange(2)
        number = dice.choice(MASTER_INPUTS) if chip == 0 else dice.randrange(8)
        for each in both:
            each.set_input(chip, number, level)
    elif kind < 0.6:
        return [each.read(port, 1) for each in both]
    elif kind < 0.65:
        port, word = dice.choice((0x20, 0xA0)), dice.choice(SPECIAL_MASK)
        for each in both:
            mask = each.read(port + 1, 1)
            each.write(port, 1, word)
            each.write(port + 1, 1, mask)
    else:
        value = dice.choice(OPERATIONS) if port in (0x20, 0xA0) and dice.random() < 0.7 else dice.randrange(256)
        if value & (ICW1 | OCW3_SPECIAL_MASK) == OCW3_SPECIAL_MASK:
            value = 0
        for each in both:
            each.write(port, 1, value)
    return []


def ioapic_step(dice: random.Random, both: tuple[Qemu, Vmmd]) -> list[int]:
    """One step on the I/O APIC; what was read on each. QEMU takes no notice of an input that is up when its
    entry becomes level-triggered: one that is up is driven again when its entry was written."""
    kind = dice.random()
    if kind < 0.3:
        number, level = dice.randrange(24), dice.randrange(2)
        for each in both:
            each.set_input(2, number, level)
    elif kind < 0.5:
        address, size = IOAPIC + dice.choice(OFFSETS), dice.choice((4, 4, 4, 2, 1))
        return [each.mem_read(address, size) for each in both]
    else:
        offset, size, value = dice.choice(
            (
                (0x00, 4, dice.randrange(0x10, 0x40)),
                (0x00, dice.choice((1, 2, 4)), dice.choice((0, 1, 2, 3, 0x40, 0xFF, dice.randrange(1 << 8)))),
                (0x40, 4, dice.choice((0x31, 0x32))),
                (dice.choice((0x10, 0x10, 0x110)), 4, dice.choice((*ENTRIES, dice.randrange(1 << 32)))),
            )
        )
        for each in both:
            each.mem_write(IOAPIC + offset, size, value)
            if offset & 0xFF == 0x10 and (number := both[1].input_to_drive_again) is not None:
                each.set_input(2, number, 1)
    return []


def info_pic(path: str) -> str:
    """What QEMU shows of its chips."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        qmp = Qmp(sock)
        qmp.negotiate()
        text: str = qmp.cmd("human-monitor-command", {"command-line": "info pic"})
        return text


@pytest.mark.parametrize("step", [pic_step, ioapic_step])
@pytest.mark.parametrize("seed", range(2))
def test_random_steps_read_the_same(
    tmp_path: Path, step: Callable[[random.Random, tuple[Qemu, Vmmd]], list[int]], seed: int
) -> None:
    dice = random.Random(seed)
    path = tmp_path / "qmp"
    with Qemu("-qmp", f"unix:{path},server=on,wait=off") as qemu:
        vmmd = Vmmd()
        for number in range(STEPS):
            read = step(dice, (qemu, vmmd))
            assert len(set(read)) <= 1, f"step {number} of seed {seed}: QEMU and vmmd read {read}"
        theirs = info_pic(str(path))
    vm = FakeVm(ManualLoop())
    vm.chips = vmmd.rig.interrupts
    ours = run_to_end(HumanMonitor(vm).run("info pic"), vm.loop)
    assert ours.split() == ODD_SELECTION.sub("", theirs).split()
