# SPDX-License-Identifier: Apache-2.0
"""The chipset's registers against QEMU 7.2: reset values, writable bits, port behaviour. Deviations are listed."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import pytest

from tests.differential.qtest import Qtest
from tests.unit.chipset import Board
from tests.unit.fakes import make_context, props
from vmmd.devices.isa.i8042 import I8042
from vmmd.devices.isa.port92 import Port92
from vmmd.devices.isa.rtc import Mc146818Rtc

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.qemu

BASE = "2020-02-29T23:59:58"
MACHINE = ("-machine", "pc-i440fx-7.2,smm=off", "-rtc", f"clock=vm,base={BASE}")

#: (slot, function, offset): why vmmd differs in which bits are kept
DEVIATIONS = {
    (0, 0, 0x72): "SMRAM: C_BASE_SEG is hardwired and D_LCK locks, as in the data sheet",
}


@pytest.fixture(scope="module")
def qemu() -> Iterator[Qtest]:
    with Qtest(*MACHINE) as qtest:
        yield qtest


def _config(ports, slot: int, function: int) -> list[tuple[int, int, int]]:
    """Per byte: reset value, value after writing ones, value after writing zeros; each byte is put back."""
    rows = []
    for offset in range(256):
        ports.write(0xCF8, 4, 0x80000000 | slot << 11 | function << 8 | offset & 0xFC)
        port = 0xCFC + (offset & 3)
        reset = ports.read(port, 1)
        ports.write(port, 1, 0xFF)
        ones = ports.read(port, 1)
        ports.write(port, 1, 0)
        zeros = ports.read(port, 1)
        ports.write(port, 1, reset)
        rows.append((reset, ones, zeros))
    return rows


@pytest.mark.parametrize(("slot", "function"), [(0, 0), (1, 0), (1, 3)])
def test_configuration_space_is_qemus(slot: int, function: int) -> None:
    with Qtest(*MACHINE) as fresh:
        theirs = _config(fresh, slot, function)
    ours = _config(Board().machine.pio, slot, function)
    differing = {(slot, function, offset) for offset in range(256) if ours[offset] != theirs[offset]}
    assert differing == {key for key in DEVIATIONS if key[:2] == (slot, function)}


def test_configuration_ports_in_every_width(qemu: Qtest) -> None:
    ours = Board().machine.pio
    for address in (0x80000000, 0x80000002, 0x80000803, 0x800000FC, 0x80002800, 0x80010000, 0x00000000, 0x80000B02):
        for ports in (ours, qemu):
            ports.write(0xCF8, 4, address)
        for port, size in (
            (0xCF8, 4),
            (0xCFC, 4),
            (0xCFC, 2),
            (0xCFC, 1),
            (0xCFD, 1),
            (0xCFE, 2),
            (0xCFE, 1),
            (0xCFF, 1),
        ):
            assert ours.read(port, size) == qemu.read(port, size), f"{address:#x} port {port:#x} size {size}"


def test_power_management_ports() -> None:
    # QEMU with smm=off starts with SCI_EN set; here the guest enables ACPI through port B2h, as with smm=on
    with Qtest("-machine", "pc-i440fx-7.2,smm=on") as qemu:
        _compare_power_management(Board().machine.pio, qemu)


def _compare_power_management(ours, qemu: Qtest) -> None:
    for ports in (ours, qemu):
        for register, value in ((0x40, 0x601), (0x80, 0x01)):
            ports.write(0xCF8, 4, 0x80000B00 | register)
            ports.write(0xCFC, 4, value)
    script = [
        ("r", 0x602, 2, 0), ("r", 0x604, 2, 0), ("r", 0x608, 4, 0), ("r", 0x60C, 4, 0), ("r", 0x63C, 4, 0),
        ("w", 0x602, 2, 0x0521), ("r", 0x602, 2, 0), ("w", 0x602, 2, 0), ("w", 0x604, 2, 0x1C01), ("r", 0x604, 2, 0),
        ("w", 0x604, 2, 0), ("w", 0xB2, 1, 0xF1), ("r", 0x604, 2, 0), ("r", 0xB2, 1, 0), ("w", 0xB2, 1, 0xF0),
        ("r", 0x604, 2, 0), ("w", 0xB3, 1, 0x5A), ("r", 0xB3, 1, 0), ("w", 0xAFE2, 1, 0xFF), ("w", 0xAFE3, 1, 0xFF),
        ("r", 0xAFE0, 1, 0), ("r", 0xAFE2, 1, 0), ("r", 0xAFE3, 1, 0), ("w", 0xCF9, 1, 0xFB), ("r", 0xCF9, 1, 0),
        ("r", 0x606, 2, 0),
    ]  # fmt: skip
    _replay(script, ours, qemu)


def test_clock_registers(qemu: Qtest) -> None:
    machine = make_context()
    rtc = Mc146818Rtc(props(Mc146818Rtc), machine.ctx)
    rtc.start = datetime.datetime.fromisoformat(BASE)
    rtc.reference = machine.clock.now_ns
    rtc.plug()
    script = [step for index in range(14) for step in (("w", 0x70, 1, index), ("r", 0x71, 1, 0))]
    script += [("r", 0x70, 1, 0), ("w", 0x70, 1, 0x32), ("r", 0x71, 1, 0), ("w", 0x70, 1, 0x37), ("r", 0x71, 1, 0)]
    script += [("w", 0x70, 1, 0x8A), ("r", 0x70, 2, 0)]
    for control in (0x00, 0x04, 0x06, 0x02):  # formats
        script += [("w", 0x70, 1, 0x0B), ("w", 0x71, 1, control)]
        for index in (0, 2, 4, 6, 7, 8, 9, 0x32):
            script += [("w", 0x70, 1, index), ("r", 0x71, 1, 0)]
    for index, value in (
        (7, 0x15),
        (2, 0x30),
        (4, 0x08),
        (9, 0x31),
        (0x32, 0x19),
        (0x37, 0x20),
        (0x7F, 0xA5),
        (0x0D, 0),
    ):
        script += [("w", 0x70, 1, index), ("w", 0x71, 1, value), ("r", 0x71, 1, 0)]
    for index in (0, 2, 4, 6, 7, 8, 9, 0x32, 0x0A, 0x0D):
        script += [("w", 0x70, 1, index), ("r", 0x71, 1, 0)]
    _replay(script, machine.pio, qemu)


def test_keyboard_controller_answers(qemu: Qtest) -> None:
    machine = make_context()
    I8042(props(I8042), machine.ctx).plug()
    Port92(props(Port92), machine.ctx).plug()
    script: list[tuple[str, int, int, int]] = []
    for command, *data in (
        (0xAA,), (0xAB,), (0xA9,), (0x20,), (0x60, 0x65), (0x20,), (0xAD,), (0x20,), (0xAE,), (0x20,), (0xA7,), (0x20,),
        (0xA8,), (0x20,), (0xC0,), (0xD0,), (0xD1, 0xCD), (0xD0,), (0xDF,), (0xD0,), (0xDD,), (0xD0,), (0xD2, 0x12),
        (0xD3, 0x34), (0x60, 0x03), (0x20,),
    ):  # fmt: skip
        script.append(("w", 0x64, 1, command))
        script += [("w", 0x60, 1, byte) for byte in data]
        script += [("s", 0x64, 1, 0), ("r", 0x60, 1, 0), ("s", 0x64, 1, 0)]
    script += [("r", 0x92, 1, 0), ("w", 0x92, 1, 0xFE), ("r", 0x92, 1, 0), ("w", 0x92, 1, 0), ("r", 0x92, 1, 0)]
    _replay(script, machine.pio, qemu)


#: status bits compared: QEMU shows bit 3 (last write was a command) as set always
_STATUS_COMPARED = 0xFF & ~0x08


def _replay(script: list[tuple[str, int, int, int]], ours, qemu: Qtest) -> None:
    """The same writes to both; every read must give the same ("s": status of the keyboard controller)."""
    for step, (kind, port, size, value) in enumerate(script):
        if kind == "w":
            ours.write(port, size, value)
            qemu.write(port, size, value)
            continue
        mask = _STATUS_COMPARED if kind == "s" else (1 << (8 * size)) - 1
        mine, theirs = ours.read(port, size) & mask, qemu.read(port, size) & mask
        before = script[max(0, step - 4) : step]
        assert mine == theirs, f"step {step} after {before}, port {port:#x}: {mine:#x}, QEMU {theirs:#x}"
