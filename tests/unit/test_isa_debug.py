# SPDX-License-Identifier: Apache-2.0
"""isa-debugcon and isa-debug-exit."""

from __future__ import annotations

import pytest

from tests.unit.chipset import pound
from tests.unit.fakes import FakeChardev, make_context, props
from vmmd.devices.isa.debug_exit import IsaDebugExit
from vmmd.devices.isa.debugcon import IsaDebugcon
from vmmd.errors import UsageError


def debugcon(**given: str):
    machine = make_context()
    chardev = machine.backends.chardevs["c0"] = FakeChardev()
    device = IsaDebugcon(props(IsaDebugcon, **{"chardev": "c0", **given}), machine.ctx)
    return machine, chardev, device


def test_debugcon_writes_bytes_and_reads_back() -> None:
    machine, chardev, device = debugcon(iobase="0x402", readback="0x55")
    device.plug()
    for byte in b"SeaBIOS\n":
        machine.pio.write(0x402, 1, byte)
    assert chardev.output == b"SeaBIOS\n"
    assert chardev.frontend_open
    assert machine.pio.read(0x402, 1) == 0x55
    chardev.feed(b"ignored")
    assert chardev.input == b"ignored"


def test_debugcon_default_port_and_full_buffer() -> None:
    machine, chardev, device = debugcon()
    device.plug()
    chardev.room = 1
    machine.pio.write(0xE9, 1, 0x41)
    machine.pio.write(0xE9, 1, 0x42)
    assert (bytes(chardev.output), device.dropped_bytes, machine.pio.read(0xE9, 1)) == (b"A", 1, 0xE9)


def test_debugcon_gives_everything_back() -> None:
    machine, chardev, device = debugcon()
    device.plug()
    device.unrealize()
    assert (machine.pio.ranges, chardev.frontend, machine.backends.claimed) == ((), None, [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chardev": "nope"}, "can't find value 'nope'"),
        ({"iobase": "0x10000"}, "iobase 0x10000 is no port"),
    ],
)
def test_debugcon_refuses(given: dict[str, str], message: str) -> None:
    machine, chardev, device = debugcon(**given)
    with pytest.raises(UsageError, match=message):
        device.plug()
    assert (machine.pio.ranges, chardev.frontend, machine.backends.claimed) == ((), None, [])


def test_debugcon_needs_a_chardev() -> None:
    machine = make_context()
    with pytest.raises(UsageError, match="Can't create debugcon device, empty char device"):
        IsaDebugcon(props(IsaDebugcon), machine.ctx).plug()


@pytest.mark.parametrize(
    ("size", "value", "status"), [(1, 0, 1), (1, 0x10, 0x21), (2, 0x31, 0x63), (4, 0xFFFFFFFF, 0xFF)]
)
def test_debug_exit_status(size: int, value: int, status: int) -> None:
    machine = make_context()
    IsaDebugExit(props(IsaDebugExit, iobase="0xf4", iosize="0x04"), machine.ctx).plug()
    assert machine.pio.read(0xF4, 4) == 0
    machine.pio.write(0xF4, size, value)
    assert machine.requests.asked == [("exit", status)]


@pytest.mark.parametrize(("iobase", "iosize"), [("0xffff", "2"), ("0x501", "0"), ("0x10000", "1")])
def test_debug_exit_refuses_what_is_no_port(iobase: str, iosize: str) -> None:
    device = IsaDebugExit(props(IsaDebugExit, iobase=iobase, iosize=iosize), make_context().ctx)
    with pytest.raises(UsageError, match="is no range of ports"):
        device.plug()


def test_random_accesses_never_raise() -> None:
    machine, _, device = debugcon()
    device.plug()
    IsaDebugExit(props(IsaDebugExit), machine.ctx).plug()
    pound(machine.pio, [0xE7, 0xE9, 0x4FF, 0x501, 0x502], 7)
