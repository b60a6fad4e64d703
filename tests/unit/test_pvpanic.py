# SPDX-License-Identifier: Apache-2.0
"""pvpanic on ISA and PCI: what its register tells, and what it asks of the machine."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FakeMachine, make_context, props
from vmmd.core.events import GuestCrashloadedEvent
from vmmd.devices.isa.pvpanic import Pvpanic
from vmmd.devices.pci.bus import PciBus
from vmmd.devices.pci.pvpanic import PvpanicPci
from vmmd.errors import UsageError
from vmmd.machine.device_plan import check_single, plan
from vmmd.options.models import DeviceOptions

PANIC = [("panic", None)]


def isa(machine: FakeMachine, **given: str) -> Pvpanic:
    device = Pvpanic(props(Pvpanic, **given), machine.ctx)
    device.plug()
    return device


@pytest.mark.parametrize(
    ("value", "asked", "crashes"), [(0, [], 0), (1, PANIC, 0), (2, [], 1), (3, PANIC, 0), (4, [], 0), (0x81, PANIC, 0)]
)
def test_event_is_passed_on_a_panic_above_all(value: int, asked: list[tuple[str, None]], crashes: int) -> None:
    machine = make_context()
    isa(machine)
    machine.pio.write(0x505, 1, value)
    assert machine.requests.asked == asked
    assert machine.events.of(GuestCrashloadedEvent) == [GuestCrashloadedEvent("run")] * crashes


def test_read_tells_the_known_events() -> None:
    machine = make_context()
    isa(machine, events="1", ioport="0x510")
    assert machine.pio.read(0x510, 1) == 1
    assert machine.pio.read(0x505, 1) == 0xFF


def test_port_zero_hides_it() -> None:
    machine = make_context()
    isa(machine, ioport="0")
    assert machine.pio.ranges == ()


def test_pci_register_is_byte_0_of_the_bar() -> None:
    machine = make_context()
    device = PvpanicPci(props(PvpanicPci), machine.ctx)
    device.bus = PciBus()
    device.plug()
    device.config_write(0x10, 4, 0xE000_0000)
    device.config_write(0x04, 2, 2)
    assert machine.mmio.read(0xE000_0000, 4) == 3
    machine.mmio.write(0xE000_0001, 1, 1)
    assert machine.requests.asked == []
    machine.mmio.write(0xE000_0000, 1, 1)
    assert machine.requests.asked == PANIC


def test_two_of_them_are_refused() -> None:
    plans = [plan(DeviceOptions("pvpanic", name, None, []), ()) for name in ("a", "b")]
    with pytest.raises(UsageError, match="at most one pvpanic device is permitted"):
        check_single(plans)
