# SPDX-License-Identifier: Apache-2.0
"""Watchdog devices by their data sheets: when exactly they fire, and what keeps them from it."""

from __future__ import annotations

import pytest

from tests.unit.fakes import FakeMachine, make_context, props
from vmmd.core.device import ResetKind
from vmmd.devices.pci.bus import PciBus
from vmmd.devices.watchdog.i6300esb import I6300esb
from vmmd.devices.watchdog.ib700 import Ib700
from vmmd.units import NS_PER_S

BAR = 0xE000_0000
FIRED = [("watchdog", None)]


@pytest.fixture
def machine() -> FakeMachine:
    return make_context()


# -- IB700 -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ib700(machine: FakeMachine) -> Ib700:
    device = Ib700(props(Ib700), machine.ctx)
    device.plug()
    return device


@pytest.mark.parametrize(("value", "seconds"), [(0, 30), (1, 28), (0x0E, 2), (0x0F, 0), (0xF1, 28)])
def test_ib700_fires_when_its_time_is_over(machine: FakeMachine, ib700: Ib700, value: int, seconds: int) -> None:
    machine.pio.write(0x443, 1, value)
    if seconds:
        machine.clock.advance(seconds * NS_PER_S - 1)
    assert machine.requests.asked == []
    machine.clock.advance(1)
    assert machine.requests.asked == FIRED


def test_ib700_start_anew_stop_and_reset(machine: FakeMachine, ib700: Ib700) -> None:
    machine.pio.write(0x443, 1, 0x0E)
    machine.clock.advance(NS_PER_S)
    machine.pio.write(0x443, 1, 0x0E)
    machine.clock.advance(2 * NS_PER_S - 1)
    machine.pio.write(0x441, 1, 0)
    machine.clock.advance(100 * NS_PER_S)
    machine.pio.write(0x443, 1, 0)
    ib700.reset(ResetKind.COLD)
    machine.clock.advance(100 * NS_PER_S)
    assert machine.requests.asked == []


# -- 6300ESB -----------------------------------------------------------------------------------------------------


@pytest.fixture
def esb(machine: FakeMachine) -> I6300esb:
    device = I6300esb(props(I6300esb), machine.ctx)
    device.bus = PciBus()
    device.plug()
    device.config_write(0x10, 4, BAR)
    device.config_write(0x04, 2, 2)
    return device


def write(machine: FakeMachine, offset: int, size: int, value: int) -> None:
    """With the unlock sequence."""
    for key in (0x80, 0x86):
        machine.mmio.write(BAR + 0x0C, 2, key)
    machine.mmio.write(BAR + offset, size, value)


def counts_ns(counts: int, shift: int) -> int:
    return counts * (1 << shift) * NS_PER_S // 33_000_000


@pytest.mark.parametrize(("config", "shift"), [(0, 15), (4, 5)])
def test_esb_resets_after_both_stages(machine: FakeMachine, esb: I6300esb, config: int, shift: int) -> None:
    esb.config_write(0x60, 2, config)
    write(machine, 0x00, 4, 1000)
    write(machine, 0x04, 4, 500)
    esb.config_write(0x68, 1, 2)
    machine.clock.advance(counts_ns(1000, shift) - 1)
    assert machine.mmio.read(BAR + 0x08, 4) == 0
    machine.clock.advance(1)
    assert machine.mmio.read(BAR + 0x08, 4) == 1
    machine.mmio.write(BAR + 0x08, 4, 1)
    assert machine.mmio.read(BAR + 0x08, 4) == 0
    machine.clock.advance(counts_ns(500, shift) - 1)
    assert machine.requests.asked == []
    machine.clock.advance(1)
    assert machine.requests.asked == FIRED
    machine.clock.advance(1000 * NS_PER_S)
    assert machine.requests.asked == FIRED


def test_esb_time_out_bit_survives_reset_until_cleared(machine: FakeMachine, esb: I6300esb) -> None:
    write(machine, 0x00, 4, 1)
    write(machine, 0x04, 4, 1)
    esb.config_write(0x68, 1, 2)
    machine.clock.advance(NS_PER_S)
    esb.reset(ResetKind.COLD)
    esb.config_write(0x10, 4, BAR)
    esb.config_write(0x04, 2, 2)
    assert machine.mmio.read(BAR + 0x0C, 2) == 0x200
    machine.mmio.write(BAR + 0x0C, 2, 0x200)  # locked
    assert machine.mmio.read(BAR + 0x0C, 2) == 0x200
    write(machine, 0x0C, 2, 0x200)
    assert machine.mmio.read(BAR + 0x0C, 2) == 0


def test_esb_reload_starts_stage_1_again(machine: FakeMachine, esb: I6300esb) -> None:
    write(machine, 0x00, 4, 100)
    write(machine, 0x04, 4, 100)
    esb.config_write(0x68, 1, 2)
    for _ in range(10):
        machine.clock.advance(counts_ns(199, 15))
        write(machine, 0x0C, 2, 0x100)
    assert machine.requests.asked == []
    machine.mmio.write(BAR + 0x0C, 2, 0x100)  # without the sequence it is no reload
    machine.clock.advance(counts_ns(200, 15))
    assert machine.requests.asked == FIRED


def test_esb_preload_needs_the_whole_sequence(machine: FakeMachine, esb: I6300esb) -> None:
    for keys in ((), (0x80,), (0x86,), (0x86, 0x80), (0x80, 0x80), (0x80, 0x86, 0x87)):
        for key in keys:
            machine.mmio.write(BAR + 0x0C, 2, key)
        machine.mmio.write(BAR, 4, 7)
    assert machine.mmio.read(BAR, 4) == 0xF_FFFF
    write(machine, 0, 4, 0xABC_DEF0)
    assert machine.mmio.read(BAR, 4) == 0xC_DEF0


def test_esb_lock_register_stays_once_locked(machine: FakeMachine, esb: I6300esb) -> None:
    esb.config_write(0x68, 1, 3)
    esb.config_write(0x68, 1, 0)
    assert esb.config_read(0x68, 1) == 3
    esb.reset(ResetKind.COLD)
    assert esb.config_read(0x68, 1) == 0
    esb.config_write(0x68, 4, 0xFFFF_FF02)
    assert esb.config_read(0x68, 1) == 2


@pytest.mark.parametrize(("config", "lock"), [(0x20, 2), (0, 2 | 4), (0, 0)])
def test_esb_does_not_reset(machine: FakeMachine, esb: I6300esb, config: int, lock: int) -> None:
    """Output disabled, free running, not enabled."""
    esb.config_write(0x60, 2, config)
    write(machine, 0x00, 4, 0xFFFF)
    write(machine, 0x04, 4, 0xFFFF)
    esb.config_write(0x68, 1, lock)
    machine.clock.advance(3600 * NS_PER_S)
    assert machine.requests.asked == []


def test_esb_preload_zero_does_not_fire_without_end(machine: FakeMachine, esb: I6300esb) -> None:
    write(machine, 0x00, 4, 0)
    esb.config_write(0x68, 1, 2 | 4)
    machine.clock.advance(NS_PER_S // 100)
    assert machine.mmio.read(BAR + 0x08, 4) == 1
