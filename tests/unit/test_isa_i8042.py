# SPDX-License-Identifier: Apache-2.0
"""Keyboard controller and port 92h."""

from __future__ import annotations

import pytest

from tests.unit.chipset import pound
from tests.unit.fakes import FakeMachine, make_context, props
from vmmd.core.device import ResetKind, ShutdownCause
from vmmd.devices.isa.i8042 import I8042
from vmmd.devices.isa.port92 import Port92
from vmmd.errors import UsageError

FULL, SYSTEM, COMMAND, AUX = 0x01, 0x04, 0x08, 0x20


class Rig:
    def __init__(self) -> None:
        self.machine: FakeMachine = make_context()
        self.kbc = I8042(props(I8042), self.machine.ctx)
        self.port92 = Port92(props(Port92), self.machine.ctx)
        self.a20: list[bool] = []
        self.kbc.a20_changed = self.port92.a20_changed = self.a20.append
        self.kbc.plug()
        self.port92.plug()

    def command(self, value: int, *data: int) -> None:
        self.machine.pio.write(0x64, 1, value)
        for byte in data:
            self.machine.pio.write(0x60, 1, byte)

    def ask(self, value: int, *data: int) -> int:
        self.command(value, *data)
        assert self.status & FULL
        answer = self.machine.pio.read(0x60, 1)
        assert not self.status & FULL
        return answer

    @property
    def status(self) -> int:
        return self.machine.pio.read(0x64, 1)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_self_and_interface_tests_pass(rig: Rig) -> None:
    assert not rig.status & SYSTEM
    assert rig.ask(0xAA) == 0x55
    assert rig.status & SYSTEM
    assert (rig.ask(0xAB), rig.ask(0xA9)) == (0, 0)


def test_command_byte_and_ram(rig: Rig) -> None:
    assert rig.ask(0x20) == 0x03
    rig.command(0x60, 0x65)
    assert rig.ask(0x20) == 0x65
    rig.command(0xAD)
    rig.command(0xA7)
    assert rig.ask(0x20) == 0x75
    rig.command(0xAE)
    rig.command(0xA8)
    assert rig.ask(0x20) == 0x45
    rig.command(0x7F, 0x12)
    assert rig.ask(0x3F) == 0x12


def test_bytes_for_the_devices_enable_their_interfaces(rig: Rig) -> None:
    rig.command(0x60, 0x33)
    rig.machine.pio.write(0x60, 1, 0xEE)
    assert rig.status & (FULL | AUX) == FULL
    assert rig.machine.pio.read(0x60, 1) == 0xEE
    assert rig.ask(0x20) == 0x23
    rig.command(0xD4, 0xE6)
    assert rig.status & (FULL | AUX) == FULL | AUX
    assert rig.machine.pio.read(0x60, 1) == 0xFA
    assert rig.ask(0x20) == 0x03


def test_a_device_waits_while_its_clock_is_off(rig: Rig) -> None:
    rig.kbc.keyboard.receive(0xEE)
    assert rig.machine.pio.read(0x60, 1) == 0xEE
    rig.command(0xAD)
    rig.kbc.keyboard.receive(0xEE)
    assert not rig.status & FULL
    assert rig.ask(0x20) == 0x13
    rig.command(0xAE)
    assert rig.status & FULL
    assert rig.machine.interrupts.levels[1] == 1


def test_loop_back_of_both_buffers_and_their_interrupts(rig: Rig) -> None:
    levels = rig.machine.interrupts.levels
    rig.command(0xD2, 0x12)
    assert (levels.get(1, 0), levels.get(12, 0)) == (1, 0)
    assert rig.machine.pio.read(0x60, 1) == 0x12
    rig.command(0xD3, 0x34)
    assert rig.status & AUX
    assert (levels.get(1, 0), levels.get(12, 0)) == (0, 1)
    rig.command(0x60, 0x00)  # both interrupts off
    assert levels[12] == 0
    assert rig.machine.pio.read(0x60, 1) == 0x34
    assert rig.machine.pio.read(0x60, 1) == 0x34  # an empty buffer shows its last byte


def test_an_answer_waits_for_the_output_buffer_and_the_last_one_stays(rig: Rig) -> None:
    rig.machine.pio.write(0x60, 1, 0xEE)
    for byte in (1, 2, 3):
        rig.command(0xD2, byte)
    assert [rig.machine.pio.read(0x60, 1) for _ in range(3)] == [0xEE, 3, 3]
    assert not rig.status & FULL


def test_each_byte_is_an_edge(rig: Rig) -> None:
    rig.machine.pio.write(0x60, 1, 0xF2)
    for count in (1, 2, 3):
        assert rig.machine.interrupts.raised(1) == count
        rig.machine.pio.read(0x60, 1)
    assert rig.machine.interrupts.levels[1] == 0


def test_the_output_port_shows_the_output_buffer(rig: Rig) -> None:
    rig.machine.pio.write(0x60, 1, 0xEE)
    rig.command(0xD0)
    assert [rig.machine.pio.read(0x60, 1) for _ in range(2)] == [0xEE, 0xDF]
    rig.command(0xD4, 0xE6)
    rig.command(0xD0)
    assert [rig.machine.pio.read(0x60, 1) for _ in range(2)] == [0xFA, 0xFF]


def test_interrupts_are_isa_interrupts() -> None:
    for name in ("kbd_irq", "mouse_irq"):
        with pytest.raises(UsageError, match=r'Maximum value for "(kbd|mouse)-irq" is: 15'):
            I8042(props(I8042, **{name: "16"}), make_context().ctx).plug()
    machine = make_context()
    kbc = I8042(props(I8042, kbd_irq="5", mouse_irq="9"), machine.ctx)
    kbc.plug()
    machine.pio.write(0x60, 1, 0xEE)
    machine.pio.read(0x60, 1)
    machine.pio.write(0x64, 1, 0xD3)
    machine.pio.write(0x60, 1, 0x34)
    assert machine.interrupts.edges == [(5, 1), (5, 0), (9, 1)]


def test_without_extended_state_answers_queue_up_in_the_devices() -> None:
    machine = make_context()
    kbc = I8042(props(I8042, extended_state="off"), machine.ctx)
    kbc.plug()
    for _ in range(1000):
        machine.pio.write(0x64, 1, 0x20)
        machine.pio.write(0x64, 1, 0xD3)
        machine.pio.write(0x60, 1, 0x34)
    found = []
    while (status := machine.pio.read(0x64, 1)) & FULL:
        found.append((bool(status & AUX), machine.pio.read(0x60, 1)))
    assert found == [(False, 0x03), (True, 0x34)] * 16


def test_after_firmware_keys_are_translated(rig: Rig) -> None:
    rig.kbc.skip_firmware()
    assert rig.status & SYSTEM
    assert rig.ask(0x20) == 0x61
    assert rig.kbc.keyboard.translated


def test_output_port_a20_and_reset(rig: Rig) -> None:
    assert rig.ask(0xD0) == 0xCF
    rig.command(0xDD)
    rig.command(0xDF)
    rig.command(0xD1, 0xDD)
    assert rig.ask(0xD0) == 0xDD
    assert rig.a20 == [False, True, False]
    assert rig.machine.requests.asked == []
    rig.command(0xD1, 0xDE)
    assert rig.machine.requests.asked == [("reset", ShutdownCause.GUEST_RESET)]


@pytest.mark.parametrize(("command", "resets"), [(0xFE, 1), (0xF0, 1), (0xFF, 0), (0xFD, 0)])
def test_pulse_resets_when_bit_0_is_low(rig: Rig, command: int, resets: int) -> None:
    rig.command(command)
    assert len(rig.machine.requests.asked) == resets


def test_a_command_drops_a_pending_data_byte(rig: Rig) -> None:
    rig.command(0xD1)
    assert rig.ask(0xAA) == 0x55
    rig.machine.pio.write(0x60, 1, 0x00)  # to the keyboard now, not to the output port
    assert rig.machine.requests.asked == []


def test_reset_clears_everything(rig: Rig) -> None:
    rig.ask(0xAA)
    rig.command(0xD2, 1)
    for _ in range(2):
        rig.kbc.reset(ResetKind.COLD)
        assert rig.status == 0x10
        assert rig.machine.interrupts.levels[1] == 0
    assert rig.ask(0x20) == 0x03


def test_port92_a20_and_fast_reset(rig: Rig) -> None:
    pio = rig.machine.pio
    assert pio.read(0x92, 1) == 0
    pio.write(0x92, 1, 0x02)
    assert pio.read(0x92, 1) == 0x02
    assert rig.a20 == [True]
    pio.write(0x92, 1, 0x03)
    pio.write(0x92, 1, 0x03)  # an edge, not a level
    assert rig.machine.requests.asked == [("reset", ShutdownCause.GUEST_RESET)]
    rig.port92.reset(ResetKind.COLD)
    assert pio.read(0x92, 1) == 0


def test_random_accesses_never_raise(rig: Rig) -> None:
    pound(rig.machine.pio, [0x60, 0x61, 0x64, 0x64, 0x8F, 0x92], 5)
    rig.kbc.reset(ResetKind.COLD)
    assert rig.ask(0xAA) == 0x55
