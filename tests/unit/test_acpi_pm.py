# SPDX-License-Identifier: Apache-2.0
"""PIIX4 power management: PM1, timer, SCI, sleep, GPE0, APM, SMBus."""

from __future__ import annotations

import pytest

from tests.unit.chipset import Board, pound
from tests.unit.fakes import props
from vmmd.core.device import ShutdownCause
from vmmd.core.events import SuspendDiskEvent
from vmmd.devices.acpi.pm import Piix4Pm

BASE = 0x600
STATUS, ENABLE, CONTROL, TIMER = BASE, BASE + 2, BASE + 4, BASE + 8
SCI = 9
TOGGLE_NS = (1 << 23) * 1_000_000_000 // 3_579_545 + 1  # bit 23 changes every 2.34 s


@pytest.fixture
def board() -> Board:
    board = Board()
    board.write(1, 3, 0x40, 4, BASE | 1)
    board.write(1, 3, 0x80, 1, 1)
    return board


def enable_acpi(board: Board, events: int) -> None:
    board.machine.pio.write(0xB2, 1, 0xF1)
    board.machine.pio.write(ENABLE, 2, events)


def test_pm_block_follows_base_and_enable(board: Board) -> None:
    pio = board.machine.pio
    assert board.pm.pm_base == BASE
    assert pio.read(CONTROL, 2) == 0
    board.write(1, 3, 0x40, 4, 0x4001)
    assert pio.read(CONTROL, 2) == 0xFFFF
    assert pio.read(0x4004, 2) == 0
    board.write(1, 3, 0x80, 1, 0)
    assert pio.read(0x4004, 2) == 0xFFFF
    assert board.pm.pm_base == 0


def test_timer_runs_at_3_579545_mhz(board: Board) -> None:
    pio = board.machine.pio
    board.machine.clock.advance(1_000_000_000)
    assert pio.read(TIMER, 4) == 3_579_545
    board.machine.clock.advance(9_000_000_000)
    assert pio.read(TIMER, 4) == 35_795_450 & 0xFFFFFF
    assert pio.read(TIMER + 1, 2) == (35_795_450 & 0xFFFFFF) >> 8
    pio.write(TIMER, 4, 0)
    assert pio.read(TIMER, 4) == 35_795_450 & 0xFFFFFF


def test_timer_status_sets_at_each_toggle_without_interrupt(board: Board) -> None:
    pio, clock = board.machine.pio, board.machine.clock
    clock.advance(TOGGLE_NS - 1000)
    assert pio.read(STATUS, 2) == 0
    clock.advance(2000)
    assert pio.read(STATUS, 2) == 1
    pio.write(STATUS, 2, 1)
    assert pio.read(STATUS, 2) == 0
    assert clock.next_deadline() is None


def test_timer_interrupt_repeats_after_acknowledge(board: Board) -> None:
    pio, machine = board.machine.pio, board.machine
    enable_acpi(board, 1)
    for count in (1, 2, 3):
        machine.clock.advance(TOGGLE_NS)
        assert machine.interrupts.levels[SCI] == 1
        pio.write(STATUS, 2, 1)
        assert machine.interrupts.levels[SCI] == 0
        assert machine.interrupts.raised(SCI) == count


def test_power_button_raises_sci_when_enabled(board: Board) -> None:
    machine = board.machine
    board.pm.press_power_button()
    assert machine.pio.read(STATUS, 2) == 0  # QEMU: not remembered
    enable_acpi(board, 0x100)
    board.pm.press_power_button()
    assert machine.pio.read(STATUS, 2) == 0x100
    assert machine.interrupts.levels[SCI] == 1
    machine.pio.write(STATUS + 1, 1, 1)  # byte-wise acknowledge
    assert machine.interrupts.levels[SCI] == 0


def test_sci_needs_sci_en(board: Board) -> None:
    enable_acpi(board, 0x100)
    board.machine.pio.write(0xB2, 1, 0xF0)
    assert board.machine.pio.read(CONTROL, 2) == 0
    board.pm.press_power_button()
    assert board.machine.interrupts.levels.get(SCI, 0) == 0
    board.machine.pio.write(0xB2, 1, 0xF1)
    assert board.machine.pio.read(CONTROL, 2) == 1
    assert board.machine.interrupts.levels[SCI] == 1


@pytest.mark.parametrize("size", [1, 2, 4])
def test_s5_powers_off(board: Board, size: int) -> None:
    value = 0x2000 >> (8 if size == 1 else 0)
    board.machine.pio.write(CONTROL + (1 if size == 1 else 0), size, value)
    assert board.machine.requests.asked == [("shutdown", ShutdownCause.GUEST_SHUTDOWN)]
    assert board.machine.pio.read(CONTROL, 2) & 0x2000 == 0


def test_sleep_type_without_enable_does_nothing(board: Board) -> None:
    board.machine.pio.write(CONTROL, 2, 0x1C01)
    assert board.machine.pio.read(CONTROL, 2) == 0x1C01
    assert board.machine.requests.asked == []


def test_s4_tells_suspend_disk_and_powers_off(board: Board) -> None:
    board.machine.pio.write(CONTROL, 2, 0x2000 | 2 << 10)
    assert board.machine.events.of(SuspendDiskEvent) == [SuspendDiskEvent()]
    assert board.machine.requests.asked == [("shutdown", ShutdownCause.GUEST_SHUTDOWN)]


def test_s3_wakes_at_once(board: Board) -> None:
    board.machine.pio.write(CONTROL, 2, 0x2000 | 1 << 10)
    assert board.machine.requests.asked == []
    assert board.machine.pio.read(STATUS, 2) == 0x8000


def test_s3_asked_for_again_and_again_does_not_fill_the_log(
    board: Board, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        board.machine.pio.write(CONTROL, 2, 0x2000 | 1 << 10)
    assert capfd.readouterr().err.count("S3") + len(caplog.records) <= 2


def test_sleep_types_follow_the_properties() -> None:
    board = Board()
    assert board.pm.sleep_types == {"S5": 0, "S4": 2}
    off = Piix4Pm(props(Piix4Pm, disable_s3="1", disable_s4="1"), board.machine.ctx)
    assert off.sleep_types == {"S5": 0}
    moved = Piix4Pm(props(Piix4Pm, s4_val="6"), board.machine.ctx)
    assert moved.sleep_types == {"S5": 0, "S4": 6}


def test_gpe0_status_enable_and_sci(board: Board) -> None:
    machine = board.machine
    enable_acpi(board, 0)
    machine.pio.write(0xAFE2, 2, 0x0102)
    board.pm.raise_gpe(0x0004)
    assert machine.interrupts.levels.get(SCI, 0) == 0
    board.pm.raise_gpe(0x0100)
    assert machine.interrupts.levels[SCI] == 1
    assert machine.pio.read(0xAFE0, 4) == 0x0102_0104
    machine.pio.write(0xAFE0, 2, 0x0100)
    assert machine.interrupts.levels[SCI] == 0
    assert machine.pio.read(0xAFE0, 2) == 0x0004


def test_registers_keep_only_bits_that_exist(board: Board) -> None:
    pio = board.machine.pio
    pio.write(ENABLE, 2, 0xFFFF)
    assert pio.read(ENABLE, 2) == 0x0521
    pio.write(CONTROL, 2, 0xDFFF)
    assert pio.read(CONTROL, 2) == 0x1C03
    assert pio.read(BASE + 0x20, 4) == 0xFFFFFFFF


def test_apm_ports_hold_their_values_and_firmware_sees_smm_done(board: Board) -> None:
    pio = board.machine.pio
    pio.write(0xB3, 1, 0x5A)
    pio.write(0xB2, 1, 0x12)
    assert pio.read(0xB2, 2) == 0x5A12
    assert board.read(1, 3, 0x58, 4) & 0x0200_0000


def test_smbus_answers_device_error_at_once(board: Board) -> None:
    pio = board.machine.pio
    board.write(1, 3, 0x90, 4, 0x701)
    board.write(1, 3, 0xD2, 1, 0x09)
    assert pio.read(0xB100, 1) == 0xFF
    pio.write(0x704, 1, 0xA1)
    pio.write(0x702, 1, 0x48 | 1)  # start, byte data, interrupt
    assert pio.read(0x700, 1) == 0x04
    assert board.machine.interrupts.levels[SCI] == 1
    pio.write(0x700, 1, 0xFF)
    assert pio.read(0x700, 1) == 0
    assert board.machine.interrupts.levels[SCI] == 0
    pio.write(0x702, 1, 0x02)  # kill
    assert pio.read(0x700, 1) == 0x10
    board.write(1, 3, 0xD2, 1, 0x00)
    assert pio.read(0x700, 1) == 0xFF


def test_serial_ports_show_in_devresa() -> None:
    board = Board()
    pm = Piix4Pm(props(Piix4Pm), board.machine.ctx)
    pm.serial_ports = frozenset({0, 1})
    board.pm.unrealize()
    board.plug(pm)
    assert board.read(1, 3, 0x64, 4) == 0x9800_0000


def test_reset_is_power_on_and_idempotent(board: Board) -> None:
    enable_acpi(board, 0x521)
    board.machine.pio.write(0xAFE2, 2, 0xFFFF)
    board.pm.raise_gpe(1)
    board.machine.pio.write(0xB102, 1, 0x41)
    for _ in range(2):
        board.reset()
        assert board.machine.interrupts.levels[SCI] == 0
        assert board.pm.pm_base == 0
        assert board.machine.pio.read(0xAFE0, 4) == 0
        assert board.machine.pio.read(0xB100, 1) == 0
        assert board.machine.clock.next_deadline() is None


def test_unrealize_gives_every_port_back(board: Board) -> None:
    before = {entry.name for entry in board.machine.pio.ranges}
    assert {"piix4-pm", "pm-smbus", "acpi-gpe0", "apm-io", "acpi-pci-hotplug"} <= before
    board.pm.unrealize()
    after = {entry.name for entry in board.machine.pio.ranges}
    assert before - after == {"piix4-pm", "pm-smbus", "acpi-gpe0", "apm-io", "acpi-pci-hotplug"}


def test_random_accesses_never_raise(board: Board) -> None:
    ports = [*range(BASE, BASE + 64), *range(0xAFE0, 0xAFE4), 0xB2, 0xB3, *range(0xB100, 0xB110)]
    pound(board.machine.pio, ports, 3)
    board.machine.clock.advance(10_000_000_000)
    board.reset()
