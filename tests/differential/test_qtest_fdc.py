# SPDX-License-Identifier: Apache-2.0
"""The floppy disk controller against QEMU's: the same sessions of random commands, and what firmware is told.

Not the same on purpose, and so not in the sessions:

- FORMAT TRACK writes the sectors, SCAN tells whether it was satisfied, VERIFY counts sectors with EC, and data that are
  written without DMA get a result; QEMU's do not. READ ID needs a clock, which QEMU has not here.
- A result does not repeat the status of an interrupt that nobody sensed.
- DOR stays in reset until it is written; in QEMU reading the main status register ends a reset without interrupt.
- Writing to a write-protected diskette fetches nothing from memory.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.floppy_host import (
    CCR,
    DIR,
    DOR,
    DSR,
    DUMP,
    MSR,
    RECALIBRATE,
    SAVE,
    SENSE_DRIVE,
    SENSE_INTERRUPT,
    SPECIFY,
    SRB,
    TDR,
    FloppyHost,
    diskette,
)
from tests.framework.qtest import Qtest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.qemu

BUFFER = 0x1_0000
STEPS = 40


class Session:
    """Random commands, and everything that is seen of them."""

    def __init__(self, vm: Qtest, seed: int) -> None:
        self.vm = vm
        self.host = FloppyHost(vm)
        self.rng = random.Random(seed)
        self.seen: list[tuple[object, ...]] = []

    def run(self) -> list[tuple[object, ...]]:
        self.vm.irq_intercept_in()
        self.host.reset()
        self.host.recalibrate()
        kinds = (self.transfer, self.transfer, self.seek, self.register, self.question, self.setting, self.without_dma)
        for _ in range(STEPS):
            self.rng.choice(kinds)()
        return self.seen

    def see(self, *what: object) -> None:
        registers = [self.vm.inb(port) for port in (SRB, DOR, TDR, MSR, DIR)]
        self.seen.append((*what, registers, self.vm.irq(6)))

    def transfer(self) -> None:
        rng, vm, host = self.rng, self.vm, self.host
        host.use_dma(on=True)
        code = rng.choice((0xE6, 0xE6, 0x66, 0x46, 0xC5, 0x45, 0x42))
        drive = rng.choice((0, 0, 0, 0, 1)) if code not in (0xC5, 0x45) else 0
        head, cylinder = rng.choice((0, 0, 1)), rng.choice((0, 0, 1, 5, 79, 81, 200))
        number = rng.choice((1, 1, 2, 17, 18, 19))
        command = (
            code,
            drive | head << 2,
            cylinder,
            head,
            number,
            rng.choice((2, 2, 2, 3)),
            rng.choice((18, 18, 9, 1)),
        )
        count = rng.choice((512, 1024, 18 * 512, 19 * 512, 36 * 512, 40 * 512, 100, 513))
        vm.memset(BUFFER, 0x6000, rng.randrange(256))
        host.dma(BUFFER, count, rng.choice((0x44, 0x48, 0x54)))
        result = host.run(*command, 0x1B, 0xFF)
        self.see("transfer", command, count, result, host.dma_left(), vm.read(BUFFER, 0x6000))

    def without_dma(self) -> None:
        rng, host = self.rng, self.host
        host.use_dma(on=False)
        last = rng.choice((1, 2))
        host.send(rng.choice((0xE6, 0x66)), 0, rng.choice((0, 3, 79)), 0, 1, 2, last, 0x1B, 0xFF)
        host.wait()
        data = host.read_bytes(2 * last * 512, look_every=128)
        self.see("without dma", last, data, host.results())

    def seek(self) -> None:
        rng, host = self.rng, self.host
        code = rng.choice((0x0F, RECALIBRATE, 0x8F, 0xCF))
        drive = rng.choice((0, 0, 0, 1))
        where = () if code == RECALIBRATE else (rng.choice((0, 1, 3, 40, 79, 80, 81, 200)),)
        host.send(code, drive, *where)
        self.see("seek", code, drive, where)
        self.see("sensed", host.run(SENSE_INTERRUPT))

    def register(self) -> None:
        """DOR, DSR and CCR; what a reset has to say is heard, and the rate is right again afterwards."""
        port, values = self.rng.choice(
            ((DOR, (0x1C, 0x0C, 0x1D, 0x2D, 0x3C)), (DSR, (0x80, 0x40, 0x00)), (CCR, (0, 1, 2, 3)), (TDR, (0, 0xFF)))
        )
        value = self.rng.choice(values)
        self.vm.outb(port, value)
        self.see("register", port, value, [self.host.run(SENSE_INTERRUPT) for _ in range(5)])
        if self.rng.random() < 0.7:
            self.vm.outb(CCR, 0)

    def question(self) -> None:
        commands = ((SENSE_DRIVE, self.rng.randrange(8)), (DUMP,), (SAVE,), (0x10,), (0x18,), (0x01,), (0x1F,), (0xFF,))
        command = self.rng.choice(commands)
        self.see("question", command, self.host.run(*command))

    def setting(self) -> None:
        byte = self.rng.randrange(256)
        commands = (
            (SPECIFY, byte, byte & 0xFE),
            (0x13, 0, byte, byte ^ 0x55),
            (0x12, byte),
            (0x14,),
            (0x94,),
            (0x33, 1),
        )
        command = self.rng.choice(commands)
        self.see("setting", command, self.host.run(*command))


@pytest.mark.parametrize(("seed", "kib"), [(1, 1440), (2, 1440), (3, 720), (4, 2880), (5, 360), (6, 20)])
def test_random_sessions(tmp_path: Path, seed: int, kib: int) -> None:
    seen: dict[str, Any] = {}
    images = {}
    for program in ("qemu", "vmmd"):
        path = tmp_path / f"{program}.img"
        path.write_bytes(diskette(2 * kib))
        with Qtest(program, "-nodefaults", "-drive", f"if=floppy,file={path},format=raw") as vm:
            seen[program] = Session(vm, seed).run()
        images[program] = path.read_bytes()
    for number, (theirs, ours) in enumerate(zip(seen["qemu"], seen["vmmd"], strict=True)):
        assert ours == theirs, f"step {number}"
    assert images["vmmd"] == images["qemu"]


# -- what firmware is told -------------------------------------------------------------------------------------------


#: of a file, as much as has the DSDT: one request for each byte is slow
FILE_PART = 6144


def fw_cfg_file(vm: Qtest, wanted: str) -> bytes:
    vm.outw(0x510, 0x19)
    (count,) = struct.unpack(">I", bytes(vm.inb(0x511) for _ in range(4)))
    for _ in range(count):
        size, selector, _, name = struct.unpack(">IHH56s", bytes(vm.inb(0x511) for _ in range(64)))
        if name.rstrip(b"\0") == wanted.encode():
            vm.outw(0x510, selector)
            return bytes(vm.inb(0x511) for _ in range(min(size, FILE_PART)))
    raise AssertionError(f"no file {wanted}")


def floppy_controller(tables: bytes) -> bytes:
    """The AML of device FDC0: from its name, as long as its package length says."""
    at = tables.index(b"FDC0")
    start = tables.rindex(b"\x5b\x82", at - 6, at) + 2
    follow = tables[start] >> 6
    length = tables[start] & (0x0F if follow else 0x3F)
    for index in range(follow):
        length |= tables[start + 1 + index] << (4 + 8 * index)
    return tables[start : start + length]


def cmos(vm: Qtest, cell: int) -> int:
    vm.outb(0x70, cell)
    return vm.inb(0x71)


def firmware_view(program: str, arguments: tuple[str, ...]) -> Iterator[object]:
    with Qtest(program, *arguments) as vm:
        yield floppy_controller(fw_cfg_file(vm, "etc/acpi/tables"))
        yield fw_cfg_file(vm, "bootorder")
        yield cmos(vm, 0x10)
        yield cmos(vm, 0x14)
        yield cmos(vm, 0x38) & 1  # no check of boot sectors
        yield [
            {key: each.get(key) for key in ("device", "removable", "locked", "type", "tray_open")}
            for each in vm.qmp("query-block")
            if "floppy" in each["device"]
        ]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("-nodefaults", "-no-fd-bootchk"),
        ("-nodefaults", "-device", "floppy,unit=1"),
        ("-nodefaults", "-device", "floppy,drive-type=120", "-device", "floppy,drive-type=144"),
        ("-nodefaults", "-device", "floppy,drive-type=none", "-global", "isa-fdc.bootindexB=3"),
        ("-nodefaults", "-drive", "if=floppy,index=1", "-global", "isa-fdc.fallback=144"),
    ],
)
def test_what_firmware_is_told(arguments: tuple[str, ...]) -> None:
    assert list(firmware_view("vmmd", arguments)) == list(firmware_view("qemu", arguments))
