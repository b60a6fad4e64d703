# SPDX-License-Identifier: Apache-2.0
"""The 8259 pair and the I/O APIC by their data sheets, driven as a guest and as devices do."""

from __future__ import annotations

import pytest

from tests.unit.interrupt_rig import IOAPIC, MASTER, SLAVE, Rig
from vmmd.core.device import ResetKind

ELCR_MASTER, ELCR_SLAVE = 0x4D0, 0x4D1
EOI, SPECIFIC_EOI = 0x20, 0x60
POLL = 0x0C
SET_SPECIAL_MASK, RESET_SPECIAL_MASK = 0x68, 0x48
MASKED, LEVEL, REMOTE_IRR, LOGICAL, LOWEST, EXTINT = 1 << 16, 1 << 15, 1 << 14, 1 << 11, 1 << 8, 7 << 8


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.initialise()
    return rig


# -- 8259 --------------------------------------------------------------------------------------------------------------


def test_an_edge_is_acknowledged_served_and_ended(rig: Rig) -> None:
    rig.pulse(3)
    assert (rig.intr, rig.irr()) == ([1], 8)
    assert rig.interrupts.acknowledge() == 0x23
    assert (rig.intr, rig.irr(), rig.isr()) == ([1, 0], 0, 8)
    rig.pulse(3, 7)  # not more urgent than what is served
    assert rig.intr == [1, 0]
    rig.pulse(0)
    assert rig.intr == [1, 0, 1]
    assert (rig.interrupts.acknowledge(), rig.isr()) == (0x20, 9)
    rig.out(MASTER, EOI)
    assert rig.isr() == 8
    rig.out(MASTER, SPECIFIC_EOI | 3)
    assert (rig.isr(), rig.interrupts.acknowledge()) == (0, 0x23)


def test_the_slave_comes_through_the_cascade(rig: Rig) -> None:
    rig.pulse(10, 8)
    assert rig.interrupts.acknowledge() == 0x28
    assert (rig.isr(), rig.isr(SLAVE)) == (4, 1)
    rig.out(SLAVE, EOI)
    assert rig.isr(SLAVE) == 0
    rig.out(MASTER, EOI)
    assert rig.interrupts.acknowledge() == 0x2A


def test_masks_hold_requests_back_and_keep_them(rig: Rig) -> None:
    rig.out(MASTER + 1, 0xFF)
    rig.pulse(5)
    assert (rig.intr, rig.irr(), rig.inb(MASTER + 1)) == ([], 0x20, 0xFF)
    rig.out(MASTER + 1, 0xDF)
    assert rig.intr == [1]


def test_nothing_pending_is_the_spurious_interrupt_seven(rig: Rig) -> None:
    assert (rig.interrupts.acknowledge(), rig.isr()) == (0x27, 0)
    rig.out(ELCR_SLAVE, 0x02)
    rig.interrupts.set_gsi(9, 1)
    rig.out(SLAVE + 1, 0x00)
    rig.interrupts.set_gsi(9, 0)
    assert rig.intr[-1] == 1  # the master has the edge of the slave's INT
    assert (rig.interrupts.acknowledge(), rig.isr(), rig.isr(SLAVE)) == (0x2F, 4, 0)


def test_a_level_stays_until_its_source_lets_go(rig: Rig) -> None:
    rig.out(ELCR_SLAVE, 0xFF)
    rig.out(ELCR_MASTER, 0xFF)
    assert (rig.inb(ELCR_MASTER), rig.inb(ELCR_SLAVE)) == (0xF8, 0xDE)
    rig.interrupts.set_gsi(5, 1)
    for _ in range(3):
        assert rig.interrupts.acknowledge() == 0x25
        rig.out(MASTER, EOI)
    assert rig.intr[-1] == 1
    rig.interrupts.set_gsi(5, 0)
    assert (rig.intr[-1], rig.irr()) == (0, 0)


def test_an_edge_needs_a_low_to_high_transition(rig: Rig) -> None:
    rig.interrupts.set_gsi(3, 1)
    rig.interrupts.acknowledge()
    rig.out(MASTER, EOI)
    assert rig.irr() == 0
    rig.interrupts.set_gsi(3, 0)
    rig.interrupts.set_gsi(3, 1)
    assert rig.irr() == 8


def test_rotation_makes_the_served_input_the_least_urgent(rig: Rig) -> None:
    rig.pulse(1)
    rig.interrupts.acknowledge()
    rig.out(MASTER, 0xA0)  # rotate on non-specific EOI
    rig.pulse(0, 1, 3)
    assert [rig.interrupts.acknowledge()] == [0x23]
    rig.out(MASTER, 0xE3)  # rotate on specific EOI
    assert [rig.interrupts.acknowledge()] == [0x20]
    rig.out(MASTER, EOI)
    rig.out(MASTER, 0xC0)  # set priority: input 0 is the last
    rig.pulse(0)
    assert rig.interrupts.acknowledge() == 0x21


def test_automatic_eoi_with_and_without_rotation(rig: Rig) -> None:
    rig.initialise(icw4=3)
    rig.pulse(4)
    assert (rig.interrupts.acknowledge(), rig.isr()) == (0x24, 0)
    rig.out(MASTER, 0x80)  # rotate in automatic EOI mode
    rig.pulse(4)
    assert rig.interrupts.acknowledge() == 0x24
    rig.pulse(4, 5)
    assert rig.interrupts.acknowledge() == 0x25
    rig.out(MASTER, 0x00)
    rig.interrupts.acknowledge()
    rig.pulse(5, 6)
    assert rig.interrupts.acknowledge() == 0x26  # input 5 is the last since it was served


def test_special_mask_mode_lets_less_urgent_inputs_through(rig: Rig) -> None:
    rig.pulse(3)
    rig.interrupts.acknowledge()
    rig.pulse(6)
    assert rig.intr[-1] == 0
    rig.out(MASTER, SET_SPECIAL_MASK)
    rig.out(MASTER + 1, 1 << 3)
    assert rig.intr[-1] == 1
    rig.out(MASTER, RESET_SPECIAL_MASK)
    assert rig.intr[-1] == 0


def test_special_fully_nested_mode_lets_the_slave_interrupt_itself(rig: Rig) -> None:
    for icw4, seen in ((1, 0), (0x11, 1)):
        rig.initialise(icw4)
        rig.pulse(12)
        rig.interrupts.acknowledge()
        rig.pulse(9)
        assert rig.intr[-1] == seen


def test_poll_acknowledges_by_reading(rig: Rig) -> None:
    rig.out(MASTER, POLL)
    assert rig.inb(MASTER) == 0
    rig.pulse(6)
    rig.out(MASTER, POLL)
    assert rig.inb(MASTER) == 0x86
    assert (rig.intr[-1], rig.isr()) == (0, 0x40)


def test_initialisation_words_of_a_single_chip_without_icw4(rig: Rig) -> None:
    rig.out(MASTER, 0x12)
    rig.out(MASTER + 1, 0x47)
    rig.out(MASTER + 1, 0x55)  # no ICW3, no ICW4: this is the mask
    assert rig.inb(MASTER + 1) == 0x55
    rig.out(MASTER + 1, 0)
    rig.pulse(1)
    assert rig.interrupts.acknowledge() == 0x41


# -- I/O APIC ----------------------------------------------------------------------------------------------------------


def test_registers_of_the_ioapic(rig: Rig) -> None:
    assert [rig.window(register) for register in (0, 1, 2, 0x10, 0x11, 0x3E, 0x40, 0xFF)] == [
        0, 0x17_0020, 0, MASKED, 0, MASKED, 0, 0,
    ]  # fmt: skip
    rig.set_window(0, 0xFFFF_FFFF)
    rig.set_window(1, 0xFFFF_FFFF)
    assert [rig.window(register) for register in (0, 1, 2)] == [0x0F00_0000, 0x17_0020, 0x0F00_0000]
    rig.redirect(5, 0xFFFF_FFFF, 0xFF)
    assert (rig.window(0x1A), rig.window(0x1B)) == (0xFFFF_AFFF, 0xFF00_0000)
    assert rig.machine.mmio.read(IOAPIC + 0x10, 1) == 0


def test_messages_of_edges(rig: Rig) -> None:
    rig.redirect(4, MASKED | 0x30, 3)
    rig.pulse(4)
    assert rig.messages == []
    rig.redirect(4, 0x30, 3)
    assert rig.messages == []  # an edge at a masked entry is lost
    rig.pulse(4)
    rig.redirect(4, 0x31 | LOGICAL | LOWEST, 0xC1)
    rig.pulse(4)
    assert rig.messages == [(0xFEE0_3000, 0x30), (0xFEEC_1004, 0x131)]


def test_a_level_is_delivered_once_until_its_eoi(rig: Rig) -> None:
    rig.redirect(20, 0x50 | LEVEL)
    rig.interrupts.set_gsi(20, 1)
    assert rig.messages == [(0xFEE0_0000, 0x8050)]
    assert rig.window(0x10 + 40) == 0x50 | LEVEL | REMOTE_IRR
    rig.interrupts.end_of_interrupt(0x51)
    assert len(rig.messages) == 1
    rig.interrupts.end_of_interrupt(0x50)
    assert len(rig.messages) == 2
    rig.interrupts.set_gsi(20, 0)
    rig.machine.mmio.write(IOAPIC + 0x40, 4, 0x50)  # the EOI register
    assert (len(rig.messages), rig.window(0x10 + 40)) == (2, 0x50 | LEVEL)


def test_a_level_at_a_masked_entry_waits_for_the_mask_to_go(rig: Rig) -> None:
    rig.redirect(21, 0x60 | LEVEL | MASKED)
    rig.interrupts.set_gsi(21, 1)
    assert rig.messages == []
    rig.redirect(21, 0x60 | LEVEL)
    assert rig.messages == [(0xFEE0_0000, 0x8060)]


def test_an_input_that_is_up_when_its_entry_becomes_level_triggered_is_delivered(rig: Rig) -> None:
    """As after kexec, when a PCI device asks before its driver does: entries are masked edges after a reset."""
    rig.interrupts.set_gsi(21, 1)
    rig.redirect(21, 0x60 | LEVEL)
    assert rig.messages == [(0xFEE0_0000, 0x8060)]


def test_who_tells_ends_of_interrupts_is_told_what_level_triggered_pins_send(rig: Rig) -> None:
    told: list[tuple[int, tuple[int, int] | None]] = []
    rig.ioapic.routed = lambda pin, message: told.append((pin, message))
    rig.redirect(20, 0x50 | LEVEL | MASKED, 3)
    assert {message for _, message in told} == {None}
    rig.set_window(0x10 + 40, 0x50 | LEVEL | LOGICAL)
    assert told[-1] == (20, (0xFEE0_3004, 0x8050))
    rig.set_window(0x10 + 40, 0x50)
    assert told[-1] == (20, None)
    rig.redirect(20, 0x50 | LEVEL)
    told.clear()
    rig.ioapic.reset(ResetKind.COLD)
    assert told == [(pin, None) for pin in range(24)]


def test_the_timer_is_input_0_and_entry_2(rig: Rig) -> None:
    seen: list[tuple[int, int]] = []
    rig.ioapic.watch = lambda pin, level: seen.append((pin, level))
    rig.redirect(0, 0x70)
    rig.redirect(2, 0x72)
    rig.pulse(0)
    assert seen == [(0, 1), (0, 0)]
    assert rig.messages == [(0xFEE0_0000, 0x72)]


def test_extint_brings_the_vector_of_the_8259_pair(rig: Rig) -> None:
    rig.redirect(4, EXTINT)
    rig.pulse(4)
    assert rig.messages == [(0xFEE0_0000, 0x724)]


def test_a_reset_brings_back_power_on_state(rig: Rig) -> None:
    rig.out(ELCR_MASTER, 0x20)
    rig.pulse(3)
    rig.redirect(4, 0x30)
    for device in (*rig.pics, rig.ioapic):
        device.reset(ResetKind.COLD)
    assert (rig.intr[-1], rig.inb(ELCR_MASTER), rig.irr(), rig.window(0x18)) == (0, 0, 0, MASKED)
    rig.interrupts.set_elcr(0xFFFF)
    assert (rig.inb(ELCR_MASTER), rig.inb(ELCR_SLAVE)) == (0xF8, 0xDE)
