# SPDX-License-Identifier: Apache-2.0
"""PIT, port 61h, RTC and HPET: the same accesses to QEMU and vmmd, every answer compared.

Debian's QEMU has no qtest clock: its time stands still, so registers are compared at time 0. With ``VMMD_QTEST_QEMU``
naming a QEMU 7.2 that has ``-accel qtest``, edges are compared too. Where QEMU departs from a data sheet and no guest
would notice, vmmd keeps to the sheet: ``DIFFERENT`` shows each such case with both answers.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.framework.qtest import Qtest
from tests.framework.vm import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.qemu
ARGUMENTS = ("-nodefaults", "-rtc", "base=2024-02-28T23:59:58,clock=vm", "-global", "hpet.msi=on")
HPET = 0xFED0_0000

Step = tuple[str, int, int | None]


def ask(vm: Qtest, step: Step) -> str:
    name, address, value = step
    return vm.ask(f"{name} {address:#x}" if value is None else f"{name} {address:#x} {value:#x}")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Qtest, Qtest]]:
    with Qtest("qemu", *ARGUMENTS) as qemu, Qtest("vmmd", *ARGUMENTS) as vmmd:
        yield qemu, vmmd


def compare(pair: tuple[Qtest, Qtest], steps: list[Step]) -> None:
    for number, step in enumerate(steps):
        answers = [ask(vm, step) for vm in pair]
        assert answers[0] == answers[1], f"step {number}: QEMU {answers[0]}, vmmd {answers[1]}: {steps[: number + 1]}"


def pit_program(dice: random.Random) -> list[Step]:
    """A counter with its gate high, and any reading and latching of it."""
    counter, rw = dice.randrange(3), dice.choice((1, 2, 3))
    mode = dice.choice((0, 3))  # OUT of the others: DIFFERENT
    low, high = dice.randrange(2, 256, 2), dice.randrange(2, 256, 2)
    steps: list[Step] = [("outb", 0x61, 1), ("outb", 0x43, counter << 6 | rw << 4 | mode << 1)]
    steps += [("outb", 0x40 + counter, value) for value in ((low, high) if rw == 3 else (low,))]
    for _ in range(dice.randrange(1, 10)):
        what = dice.randrange(6)
        if what == 0:
            steps.append(("outb", 0x43, counter << 6))
        elif what == 1:
            steps.append(("outb", 0x43, 0xC0 | dice.choice((0x10, 0x20, 0)) | 2 << counter))
        elif what == 2 and rw == 3 and mode != 0:  # the second byte of mode 0 would start it again
            steps.append(("outb", 0x43, 0xE0 | 2 << counter))
        elif what == 3 and counter == 2:
            steps += [("inb", 0x61, None)] * 2
        else:
            steps.append(("inb", 0x40 + counter, None))
    return [*steps, ("inb", 0x43, None)]


@pytest.mark.parametrize("seed", range(40))
def test_pit_formats_latches_and_port_61(pair: tuple[Qtest, Qtest], seed: int) -> None:
    for vm in pair:  # what the one before has left latched: QEMU's control words do not let go of it
        for port in (0x40, 0x41, 0x42) * 4:
            vm.inb(port)
    compare(pair, pit_program(random.Random(f"pit {seed}")))


def rtc_program(dice: random.Random) -> list[Step]:
    """A valid time in any format, set and let run; CMOS RAM; flags and control registers."""
    control = dice.choice((0, 2, 4, 6))

    def code(value: int) -> int:
        return value if control & 4 else value // 10 << 4 | value % 10

    year = dice.randrange(1970, 2100)  # before 1970 QEMU is a second off
    hour = code(dice.randrange(24)) if control & 2 else code(dice.randrange(1, 13)) | dice.choice((0, 0x80))
    fields = {
        0x00: code(dice.randrange(60)), 0x02: code(dice.randrange(60)), 0x04: hour, 0x07: code(dice.randrange(1, 29)),
        0x08: code(dice.randrange(1, 13)), 0x09: code(year % 100), 0x32: code(year // 100),
        0x01: dice.randrange(256), 0x03: dice.randrange(256), 0x05: dice.randrange(256),
    }  # fmt: skip
    writes = [(0x0B, 0x80 | control), *fields.items(), (0x0B, control | dice.choice((0, 0x08, 0x01)))]
    writes += [(dice.choice((0x0E, 0x20, 0x40, 0x7F)), dice.randrange(256)) for _ in range(3)]
    writes += [(0x0A, dice.choice((0x20, 0x26, 0x2F))), (0x0C, 0xFF), (0x0D, 0)]
    steps: list[Step] = []
    for index, value in writes:
        steps += [("outb", 0x70, index), ("outb", 0x71, value)]
    for index in (*range(0x06), *range(0x07, 0x0C), 0x0D, 0x0E, 0x20, 0x32, 0x37, 0x40, 0x7F):
        steps += [("outb", 0x70, index | dice.choice((0, 0x80))), ("inb", 0x71, None), ("inb", 0x70, None)]
    return steps


@pytest.mark.parametrize("seed", range(25))
def test_rtc_times_formats_and_ram(pair: tuple[Qtest, Qtest], seed: int) -> None:
    compare(pair, rtc_program(random.Random(f"rtc {seed}")))


def hpet_program(dice: random.Random) -> list[Step]:
    """Registers while the counter is halted, by 32 bits and by sizes that are not answered. Without timer 3, which QEMU
    has and does not tell of."""
    steps: list[Step] = [("writel", HPET + 0x10, 0)]
    for index in range(3):
        steps += [("writel", HPET + 0x100 + 0x20 * index, 0), ("writeq", HPET + 0x108 + 0x20 * index, 0)]
    registers = [0x0, 0x4, 0x8, 0x10, 0x14, 0x18, 0x20, 0x24, 0xF0, 0xF4, *range(0x100, 0x160, 4), 0x200, 0x3FC]
    for _ in range(60):
        offset = dice.choice(registers)
        if dice.randrange(2):
            values = [0, 4, 8, 0x48, 0x4C, 0x408, 0x440E, 0x4002, dice.getrandbits(32)]
            value = dice.choice(values[:8] if offset & 0x11F == 0x100 else values) & (
                0xFFFF_FFFE if offset == 0x10 else ~0
            )
            steps.append(("writel", HPET + offset, value))
        elif dice.randrange(8):
            steps.append(("readl", HPET + offset, None))
        else:
            steps.append(
                (dice.choice(("readb", "readw", "readl", "readq")), HPET + offset + dice.choice((0, 1, 2)), None)
            )
    return steps


@pytest.mark.parametrize("seed", range(25))
def test_hpet_registers(pair: tuple[Qtest, Qtest], seed: int) -> None:
    compare(pair, hpet_program(random.Random(f"hpet {seed}")))


class Different(NamedTuple):
    """Steps, of which the last is what differs."""

    reason: str
    steps: list[Step]
    qemu: int
    vmmd: int


def out(*pairs: tuple[int, int]) -> list[Step]:
    return [("outb", port, value) for port, value in pairs]


DIFFERENT = {
    "mode 2 output": Different(
        "OUT of the rate generator is high until the count reaches 1 (QEMU: low for the pulse of the loading)",
        [*out((0x61, 1), (0x43, 0xB4), (0x42, 100), (0x42, 0), (0x43, 0xE8)), ("inb", 0x42, None)],
        0x34, 0xB4,
    ),
    "null count": Different(
        "status bit 6 is set until the count is complete (QEMU: never)",
        [*out((0x61, 1), (0x43, 0xB0), (0x43, 0xE8)), ("inb", 0x42, None)],
        0x30, 0x70,
    ),
    "odd square wave": Different(
        "an odd count of mode 3 is loaded less one (QEMU: counts by two from the odd one)",
        [*out((0x61, 1), (0x43, 0xB6), (0x42, 7), (0x42, 0)), ("inb", 0x42, None)],
        7, 6,
    ),
    "triggered modes": Different(
        "a one-shot is high until the gate rises (QEMU: runs from the count's writing)",
        [*out((0x61, 0), (0x43, 0xB2), (0x42, 7), (0x42, 0), (0x43, 0xE8)), ("inb", 0x42, None)],
        0xB2, 0xF2,
    ),
    "gate of a square wave": Different(
        "OUT of mode 3 is high and the new count waits while the gate is low (QEMU: loads at once; no null count)",
        [*out((0x61, 1), (0x43, 0xB6), (0x42, 6), (0x42, 0), (0x61, 0), (0x42, 8), (0x42, 0)), ("inb", 0x42, None)],
        8, 6,
    ),
    "BCD": Different(
        "BCD counts are decimal (QEMU: binary)",
        [*out((0x61, 1), (0x43, 0xB1), (0x42, 0), (0x42, 0), (0x43, 0xB1), (0x42, 0x1A)), ("inb", 0x42, None)],
        0x00, 0x00,
    ),
    "a route that a timer lacks": Different(
        "2.3.8: the value read back does not match (QEMU: stores any)",
        [("writel", HPET + 0x100, 5 << 9), ("readl", HPET + 0x100, None)],
        5 << 9 | 0x8030, 0x8030,
    ),
    "a 32-bit comparator": Different(
        "its upper half is not there (QEMU: takes it)",
        [("writel", HPET + 0x100, 0x100), ("writel", HPET + 0x10C, 5), ("readl", HPET + 0x10C, None)],
        5, 0,
    ),
    "a timer that is not there": Different(
        "three timers have three sets of registers (QEMU: one more)",
        [("writel", HPET + 0x160, 4), ("readl", HPET + 0x160, None)],
        4, 0,
    ),
    "weekday": Different(
        "a counter of its own, as it was set (QEMU: that of the date)",
        [*out((0x70, 0x0B), (0x71, 2), (0x70, 6), (0x71, 1)), ("inb", 0x71, None)],
        4, 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_does_so_for_a_reason(name: str) -> None:
    case = DIFFERENT[name]
    answers = []
    for emulator in ("qemu", "vmmd"):
        with Qtest(emulator, *ARGUMENTS) as vm:
            replies = [ask(vm, step) for step in case.steps]
            answers.append(int(replies[-1], 16))
    assert answers == [case.qemu, case.vmmd], case.reason


# -- edges, with a QEMU that has the qtest accelerator ---------------------------------------------------------------

#: name -> (steps, nanoseconds to run, input of the I/O APIC). Not here: PIT modes 2 and 4, whose OUT is the other way
#: round in QEMU; a periodic HPET timer, which QEMU lets match twice, 10 ns apart, when it is exactly in time; the PM
#: timer, whose SCI QEMU raises 1 ns before the bit toggles
EDGES: dict[str, tuple[list[Step], int, int]] = {
    "PIT mode 0": (out((0x43, 0x30), (0x40, 0x39), (0x40, 0x05)), 5_000_000, 0),
    "PIT mode 3": (out((0x43, 0x36), (0x40, 0x39), (0x40, 0x05)), 20_000_000, 0),
    "HPET one-shot": (
        [("writeq", HPET + 0x100, 0x404), ("writeq", HPET + 0x108, 12_345), ("writel", HPET + 0x10, 1)],
        1_000_000, 2,
    ),
    "HPET legacy level": (
        [("writel", HPET + 0x10, 3), ("writel", HPET + 0x100, 0x106), ("writel", HPET + 0x108, 500)],
        100_000, 0,
    ),
    "RTC update": (out((0x70, 0x0B), (0x71, 0x12)), 3_000_000_000, 8),
    "RTC alarm": (
        out((0x70, 1), (0x71, 0x02), (0x70, 3), (0x71, 0), (0x70, 5), (0x71, 0), (0x70, 0x0B), (0x71, 0x22)),
        9_000_000_000, 8,
    ),
}  # fmt: skip


def edges(program: str | Emulator, steps: list[Step], run_ns: int, line: int) -> list[tuple[int, int]]:
    """(time, level) of each change of an input from the last step on; level interrupts are not acknowledged."""
    found: list[tuple[int, int]] = []
    with Qtest(program, *ARGUMENTS) as vm:
        vm.outb(0x43, 0x30)
        vm.outb(0x40, 0xFF)
        vm.outb(0x40, 0xFF)
        vm.irq_intercept_in()
        for step in steps:
            ask(vm, step)
        del vm.irq_edges[:]
        before = -1
        while before < (now := vm.clock_step()) <= run_ns and len(found) < 40:  # until no timer is left
            before = now
            found += [(now, level) for number, level in vm.irq_edges if number == line]
            del vm.irq_edges[:]
    return found


@pytest.mark.parametrize("name", EDGES)
def test_edges_come_when_qemus_do(name: str) -> None:
    path = os.environ.get("VMMD_QTEST_QEMU")
    if not path:
        pytest.skip("VMMD_QTEST_QEMU names no QEMU with -accel qtest")
    qemu = Emulator("qemu-qtest", (path, "-L", "/usr/share/seabios", "-L", "/usr/share/qemu"))
    expected = edges(qemu, *EDGES[name])
    assert expected
    assert edges("vmmd", *EDGES[name]) == expected
