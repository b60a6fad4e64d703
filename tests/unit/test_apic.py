# SPDX-License-Identifier: Apache-2.0
"""Local APICs by the SDM: registers, priorities, destinations, IPIs, timer, errors."""

from __future__ import annotations

import random
import time

import pytest

from vmmd.core.clock import ManualClock
from vmmd.devices.apic import LocalApic
from vmmd.devices.apic_bus import ApicBus
from vmmd.devices.apic_timer import ApicTimer

ID, VERSION, TPR, APR, PPR, END, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR_LOW, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
TIMER, LINT0, LINT1, ERROR = 0x320, 0x350, 0x360, 0x370
INITIAL_COUNT, CURRENT_COUNT, DIVIDE = 0x380, 0x390, 0x3E0
MASKED, LEVEL, PERIODIC, EXTINT, NMI, LOWEST = 1 << 16, 1 << 15, 1 << 17, 7 << 8, 4 << 8, 1 << 8
MSI = 0xFEE0_0000


class Machine:
    """Three APICs, switched on; ``woken`` lists who was woken."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bus = ApicBus()
        self.ended: list[int] = []
        self.bus.end_of_interrupt = self.ended.append
        self.apics = [LocalApic(self.bus, self.clock, id_, is_bsp=not id_) for id_ in range(3)]
        self.woken: list[int] = []
        for apic in self.apics:
            apic.wake = lambda id_=apic.apic_id: self.woken.append(id_)  # type: ignore[misc]
            apic.write(SVR, 4, 0x1FF)

    def pending(self) -> list[set[int]]:
        return [{bit for bit in range(256) if each.irr >> bit & 1} for each in self.apics]

    def send(self, low: int, destination: int = 0) -> None:
        """An IPI of the first CPU."""
        self.apics[0].write(ICR_HIGH, 4, destination << 24)
        self.apics[0].write(ICR_LOW, 4, low)


@pytest.fixture
def m() -> Machine:
    return Machine()


@pytest.fixture
def apic(m: Machine) -> LocalApic:
    return m.apics[0]


def test_registers_after_power_on(m: Machine) -> None:
    apic = m.apics[2]
    apic.reset()
    found = {each: apic.read(each, 4) for each in range(0, 0x400, 0x10) if apic.read(each, 4)}
    assert found == {
        ID: 2 << 24, VERSION: 0x5_0014, DFR: 0xFFFF_FFFF, SVR: 0xFF,
        **dict.fromkeys((TIMER, 0x330, 0x340, LINT0, LINT1, ERROR), MASKED),
    }  # fmt: skip
    assert apic.waiting


def test_only_whole_registers_are_accessed(apic: LocalApic) -> None:
    for size in (1, 2, 8):
        apic.write(TPR, size, 0x50)
        assert apic.read(DFR, size) == 0
    assert apic.read(TPR, 4) == 0


def test_what_can_be_written(apic: LocalApic) -> None:
    for register, kept in ((ID, 0xFF << 24), (TPR, 0xFF), (LDR, 0xFF << 24), (SVR, 0x3FF), (ICR_HIGH, 0xFF << 24),
                           (TIMER, 0x300FF), (0x330, 0x107FF), (0x340, 0x107FF), (LINT0, 0x1A7FF), (LINT1, 0x1A7FF),
                           (ERROR, 0x100FF), (DIVIDE, 0xB), (VERSION, 0x5_0014), (PPR, 0xFF)):  # fmt: skip
        apic.write(register, 4, 0xFFFF_FFFF)
        assert apic.read(register, 4) == kept, hex(register)


def test_priorities_of_interrupts(m: Machine, apic: LocalApic) -> None:
    for vector in (0x31, 0x45, 0x42):
        m.bus.deliver(MSI, vector)
    assert apic.read(APR, 4) == 0x40
    assert apic.take_vector() == 0x45
    assert (apic.read(PPR, 4), apic.is_deliverable(), apic.take_vector()) == (0x40, False, None)
    assert (apic.read(ISR + 0x20, 4), apic.read(IRR + 0x20, 4)) == (1 << 5, 1 << 2)
    m.bus.deliver(MSI, 0x50)
    assert apic.take_vector() == 0x50
    apic.write(END, 4, 0)
    apic.write(END, 4, 0)
    assert (apic.take_vector(), m.ended) == (0x42, [])
    apic.write(TPR, 4, 0x35)
    apic.write(END, 4, 0)
    assert (apic.read(PPR, 4), apic.take_vector()) == (0x35, None)
    apic.write(TPR, 4, 0x2F)
    assert apic.take_vector() == 0x31


def test_an_interrupt_that_could_not_be_taken_wakes_nobody(m: Machine, apic: LocalApic) -> None:
    apic.write(TPR, 4, 0x40)
    m.bus.deliver(MSI, 0x41)
    m.bus.deliver(MSI, 0x51)
    m.bus.deliver(MSI, 0x51)
    assert m.woken == [0]


def test_the_end_of_a_level_triggered_interrupt_is_broadcast(m: Machine, apic: LocalApic) -> None:
    m.bus.deliver(MSI, 0xC000 | 0x61)
    m.bus.deliver(MSI, 0x62)
    assert apic.read(TMR + 0x30, 4) == 2
    assert [apic.take_vector(), apic.write(END, 4, 0), apic.take_vector(), apic.write(END, 4, 0)][::2] == [0x62, 0x61]
    assert m.ended == [0x61]


def test_switched_off_by_software(m: Machine, apic: LocalApic) -> None:
    apic.write(TIMER, 4, 0x40)
    apic.write(SVR, 4, 0xFF)
    m.bus.deliver(MSI, 0x41)
    assert (m.pending()[0], apic.read(TIMER, 4)) == (set(), MASKED | 0x40)
    apic.write(LINT0, 4, 0x700)
    assert apic.read(LINT0, 4) == MASKED | 0x700


@pytest.mark.parametrize(
    ("address", "heard"),
    [
        (MSI | 1 << 12, {1}), (MSI | 0xFF << 12, {0, 1, 2}), (MSI | 5 << 12, set()),
        (MSI | 4 | 6 << 12, {1, 2}), (MSI | 4 | 8 << 12, set()), (MSI | 4 | 0xFF << 12, {0, 1, 2}),
    ],
)  # fmt: skip
def test_destinations_physical_and_flat(m: Machine, address: int, heard: set[int]) -> None:
    for number, each in enumerate(m.apics):
        each.write(LDR, 4, 1 << number << 24)
    m.bus.deliver(address, 0x70)
    assert {number for number, found in enumerate(m.pending()) if found} == heard


def test_destinations_in_clusters(m: Machine) -> None:
    for each, logical in zip(m.apics, (0x11, 0x12, 0x21), strict=True):
        each.write(LDR, 4, logical << 24)
        each.write(DFR, 4, 0)
    assert m.apics[0].read(DFR, 4) == 0x0FFF_FFFF
    m.bus.deliver(MSI | 4 | 0x13 << 12, 0x70)
    m.bus.deliver(MSI | 4 | 0x21 << 12, 0x71)
    assert m.pending() == [{0x70}, {0x70}, {0x71}]


def test_lowest_priority_goes_to_the_least_busy(m: Machine) -> None:
    for each, priority in zip(m.apics, (0x50, 0x30, 0x40), strict=True):
        each.write(TPR, 4, priority)
    m.bus.deliver(MSI | 0xFF << 12, LOWEST | 0x71)
    m.apics[1].write(SVR, 4, 0)
    m.bus.deliver(MSI | 0xFF << 12, LOWEST | 0x72)
    assert m.pending() == [set(), {0x71}, {0x72}]


def test_shorthands(m: Machine) -> None:
    m.send(1 << 18 | 0x41)
    m.send(2 << 18 | 0x42)
    m.send(3 << 18 | 0x43)
    m.send(0x44, destination=1)
    assert m.pending() == [{0x41, 0x42}, {0x42, 0x43, 0x44}, {0x42, 0x43}]
    assert (m.apics[0].read(ICR_LOW, 4), m.apics[0].read(ICR_HIGH, 4)) == (0x44, 1 << 24)


def test_init_and_start_up(m: Machine) -> None:
    second = m.apics[1]
    m.bus.deliver(MSI | 1 << 12, 0x55)
    m.send(3 << 18 | 0x4500)
    assert second.must_start
    m.send(3 << 18 | 0x4602)
    m.send(3 << 18 | 0x4603)  # the first one counts
    assert (second.take_init(), second.irr, second.waiting) == (True, 0, True)
    assert (second.take_startup(), second.waiting) == (2, False)
    assert not second.must_start
    m.send(3 << 18 | 0x4604)  # it runs
    m.send(3 << 18 | 0x8500)  # INIT level de-assert: of no meaning
    assert not second.must_start
    assert not m.apics[0].must_start


def test_nmi_by_message_and_by_lint1(m: Machine, apic: LocalApic) -> None:
    m.send(NMI | 0x4000, destination=2)
    assert (m.apics[2].take_nmi(), m.apics[2].take_nmi()) == (True, False)
    apic.pulse_lint1()
    assert not apic.take_nmi()
    apic.write(LINT1, 4, NMI)
    apic.pulse_lint1()
    assert apic.take_nmi()


def test_the_8259_pair_at_lint0(m: Machine, apic: LocalApic) -> None:
    m.bus.acknowledge = lambda: 0x21
    m.bus.set_intr(1)
    assert not apic.is_deliverable()
    apic.write(LINT0, 4, EXTINT)
    assert apic.is_deliverable()
    assert (apic.take_vector(), apic.isr) == (0x21, 0)
    m.bus.set_intr(0)
    assert apic.take_vector() is None
    apic.write(LINT0, 4, 0x66)
    m.bus.set_intr(1)
    assert apic.take_vector() == 0x66
    apic.base = 0  # switched off for good: INT goes to the CPU
    assert apic.take_vector() == 0x21


def test_extint_messages_are_not_in_service(m: Machine, apic: LocalApic) -> None:
    m.bus.deliver(MSI, EXTINT | 0x24)
    assert (apic.take_vector(), apic.isr, apic.take_vector()) == (0x24, 0, None)


def test_one_shot_timer(m: Machine, apic: LocalApic) -> None:
    apic.write(TIMER, 4, 0x40)
    apic.write(DIVIDE, 4, 3)  # by 16
    apic.write(INITIAL_COUNT, 4, 100)
    m.clock.advance(400)
    assert apic.read(CURRENT_COUNT, 4) == 75
    m.clock.advance(1199)
    assert (m.pending()[0], apic.read(CURRENT_COUNT, 4)) == (set(), 1)
    m.clock.advance(1)
    assert (m.pending()[0], apic.read(CURRENT_COUNT, 4), apic.read(INITIAL_COUNT, 4)) == ({0x40}, 0, 100)
    assert m.clock.next_deadline() is None


def test_a_count_whose_end_has_passed_when_it_is_armed_still_ends() -> None:
    """Time goes on between two looks at the clock: a short count, or a thread that had to wait."""

    class PassingClock(ManualClock):
        def now_ns(self) -> int:
            self.advance(1000)
            return super().now_ns()

    ends: list[int] = []
    clock = PassingClock()
    timer = ApicTimer(clock, lambda: ends.append(1))
    timer.set_divide(3)
    timer.start(15)
    clock.advance(1)
    assert (ends, timer.current_count, clock.next_deadline()) == ([1], 0, None)
    timer.set_divide(0xA)  # it has ended: no count begins
    assert (timer.current_count, clock.next_deadline()) == (0, None)


@pytest.mark.parametrize(("code", "divisor"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
def test_dividers(m: Machine, apic: LocalApic, code: int, divisor: int) -> None:
    apic.write(DIVIDE, 4, code)
    apic.write(INITIAL_COUNT, 4, 1000)
    assert m.clock.next_deadline() == 1000 * divisor


def test_periodic_timer_keeps_its_phase_and_is_bounded(m: Machine, apic: LocalApic) -> None:
    apic.write(DIVIDE, 4, 11)
    apic.write(TIMER, 4, PERIODIC | 0x40)
    apic.write(INITIAL_COUNT, 4, 1_000_000)
    fired = []
    for _ in range(3):
        m.clock.advance(1_000_000)
        fired.append(apic.take_vector())
        apic.write(END, 4, 0)
    assert fired == [0x40] * 3
    m.clock.advance(300_000)
    assert apic.read(CURRENT_COUNT, 4) == 700_000
    apic.write(INITIAL_COUNT, 4, 1)
    assert m.clock.next_deadline() == m.clock.now_ns() + 200_000
    apic.write(INITIAL_COUNT, 4, 0)
    assert m.clock.next_deadline() is None


def test_a_masked_timer_counts_and_says_nothing(m: Machine, apic: LocalApic) -> None:
    apic.write(TIMER, 4, MASKED | 0x40)
    apic.write(INITIAL_COUNT, 4, 100)
    m.clock.advance(1000)
    assert m.pending()[0] == set()


def test_errors_are_shown_after_a_write(m: Machine, apic: LocalApic) -> None:
    apic.write(ERROR, 4, 0xEE)
    m.send(0x0F, destination=0)  # illegal vector sent
    m.bus.deliver(MSI, 0x05)  # and received
    apic.read(0x3F0, 4)
    assert (apic.read(ESR, 4), m.pending()[0]) == (0, {0xEE})
    apic.write(ESR, 4, 0)
    assert apic.read(ESR, 4) == 0xE0
    apic.write(ESR, 4, 0)
    assert apic.read(ESR, 4) == 0


def test_an_init_keeps_the_id_and_stops_the_timer(m: Machine) -> None:
    second = m.apics[1]
    second.write(ID, 4, 9 << 24)
    second.write(INITIAL_COUNT, 4, 1000)
    m.bus.deliver(MSI | 9 << 12, 0x4500)
    assert second.take_init()
    assert (second.read(ID, 4), m.clock.next_deadline(), second.take_init()) == (9 << 24, None, False)
    second.reset()
    assert second.read(ID, 4) == 1 << 24


def test_random_accesses_messages_and_time_end_and_raise_nothing(m: Machine) -> None:
    dice = random.Random(7)
    started = time.monotonic()
    m.bus.end_of_interrupt = lambda vector: m.bus.deliver(MSI | 0xFF << 12, LEVEL | vector)  # a level that stays
    for _ in range(20_000):
        apic = dice.choice(m.apics)
        kind = dice.random()
        if kind < 0.5:
            value = dice.choice((0, 1, 0x1FF, 0x40, PERIODIC | 0x41, dice.randrange(1 << 32)))
            apic.write(
                dice.choice((dice.randrange(0x400), dice.randrange(0x40) << 4)), dice.choice((4, 4, 4, 1, 8)), value
            )
        elif kind < 0.7:
            assert 0 <= apic.read(dice.randrange(0x1000), 4) < 1 << 32
        elif kind < 0.8:
            m.bus.deliver(MSI | dice.randrange(1 << 20), dice.randrange(1 << 16))
        elif kind < 0.9:
            m.clock.advance(dice.choice((1, 1000, 1_000_000)))
            m.bus.set_intr(dice.randrange(2))
        else:
            apic.take_nmi()
            apic.take_init()
            apic.take_startup()
            vector = apic.take_vector()
            assert vector is None or 0 <= vector < 256
    assert time.monotonic() - started < 20
