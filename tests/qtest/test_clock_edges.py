# SPDX-License-Identifier: Apache-2.0
"""``clock_step`` drives RTC, PIT, PM timer and HPET to the edges that their data sheets give, to the nanosecond.

Expected times are rational numbers computed here from frequency and register values; an edge is due in the first whole
nanosecond that is not before it. One nanosecond earlier nothing has changed. One vmmd process serves the module; each
test programs what it needs at whatever time it is by then.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from tests.framework.qtest import Qtest

if TYPE_CHECKING:
    from collections.abc import Iterator

SECOND_NS = 1_000_000_000
PIT_NS = Fraction(SECOND_NS, 1_193_182)
OSCILLATOR_NS = Fraction(SECOND_NS, 32_768)
PM_NS = Fraction(SECOND_NS, 3_579_545)
HPET_NS = 10
TIMER, RTC, HPET_IRQ, SCI = 0, 8, 2, 9

HPET = 0xFED0_0000
HPET_ENABLE, HPET_LEGACY = 1, 2
T_LEVEL, T_ENABLE, T_PERIODIC, T_SET, T_32BIT, T_IRQ2, T_FSB = 2, 4, 8, 0x40, 0x100, 2 << 9, 0x4000
RTC_A, RTC_B, RTC_C = 0x0A, 0x0B, 0x0C
PM_BASE = 0x600


class Timers:
    """One machine and its timers' registers."""

    def __init__(self, vm: Qtest) -> None:
        self.vm = vm
        vm.irq_intercept_in()

    def quiet(self) -> None:
        """No timer interrupts."""
        self.hpet(0x10, 0)
        self.hpet(0x20, 0xFFFF_FFFF)
        for index in range(3):
            self.hpet(0x100 + 0x20 * index, 0)
        self.vm.outb(0x43, 0x30)
        self.cmos(RTC_A, 0x20)
        self.cmos(RTC_B, 0x06)
        self.cmos(RTC_C)

    @property
    def now(self) -> int:
        return self.vm.clock_step(0)

    def count(self, line: int) -> int:
        """Rising edges so far."""
        return self.vm.irq_edges.count((line, 1))

    def edge(self, due: Fraction | int, line: int, level: int = 1) -> int:
        """Move to ``due``: the line changes to ``level`` there and nothing happens on it on the way. The time."""
        at = math.ceil(due)
        seen = [each for each in self.vm.irq_edges if each[0] == line]
        self.vm.clock_set(at - 1)
        assert [each for each in self.vm.irq_edges if each[0] == line] == seen, f"before {at}"
        assert self.vm.clock_set(at) == at
        new = [each for each in self.vm.irq_edges if each[0] == line][len(seen) :]
        assert new[:1] == [(line, level)], f"at {at}"
        return at

    def pit(self, control: int, count: int) -> Fraction:
        """A control word and a two-byte count; the time that counting begins."""
        self.vm.outb(0x43, control)
        return self.pit_count(control >> 6, count)

    def pit_count(self, counter: int, count: int) -> Fraction:
        self.vm.outb(0x40 + counter, count & 0xFF)
        self.vm.outb(0x40 + counter, count >> 8 & 0xFF)
        return Fraction(self.now)

    def out2(self) -> int:
        return self.vm.inb(0x61) >> 5 & 1

    def out2_edge(self, due: Fraction, level: int) -> None:
        self.vm.clock_set(math.ceil(due) - 1)
        assert self.out2() == 1 - level
        self.vm.clock_set(math.ceil(due))
        assert self.out2() == level

    def cmos(self, index: int, value: int | None = None) -> int:
        self.vm.outb(0x70, index)
        if value is None:
            return self.vm.inb(0x71)
        self.vm.outb(0x71, value)
        return value

    def hpet(self, offset: int, value: int | None = None) -> int:
        if value is None:
            return self.vm.readq(HPET + offset)
        self.vm.writeq(HPET + offset, value)
        return value

    def hpet_start(self, counter: int = 0, config: int = HPET_ENABLE) -> int:
        """Run the counter from ``counter``; the time at which it would have been 0."""
        self.hpet(0x10, 0)
        self.hpet(0xF0, counter)
        self.hpet(0x10, config)
        return self.now - counter * HPET_NS


@pytest.fixture(scope="module")
def machine() -> Iterator[Timers]:
    with Qtest("vmmd", "-nodefaults", "-rtc", "base=2024-02-28T23:59:58,clock=vm") as vm:
        yield Timers(vm)


@pytest.fixture
def timers(machine: Timers) -> Iterator[Timers]:
    machine.quiet()
    machine.vm.clock_step(12_345_677)  # no round times
    yield machine
    machine.quiet()


# -- PIT -------------------------------------------------------------------------------------------------------------

COUNTS = (2, 3, 7, 100, 11_932, 65_535, 65_536)


@pytest.mark.parametrize("count", COUNTS)
def test_pit_mode_0(timers: Timers, count: int) -> None:
    start = timers.pit(0x30, count)
    timers.edge(start + count * PIT_NS, TIMER)
    timers.vm.clock_step(SECOND_NS)
    assert timers.vm.irq(TIMER) == 1


@pytest.mark.parametrize("control", [0x34, 0x3C])
@pytest.mark.parametrize("count", COUNTS)
def test_pit_mode_2(timers: Timers, count: int, control: int) -> None:
    start = timers.pit(control, count)
    for period in range(3):
        timers.edge(start + (count * period + count - 1) * PIT_NS, TIMER, 0)
        timers.edge(start + count * (period + 1) * PIT_NS, TIMER, 1)


@pytest.mark.parametrize("control", [0x36, 0x3E])
@pytest.mark.parametrize("count", COUNTS)
def test_pit_mode_3(timers: Timers, count: int, control: int) -> None:
    start = timers.pit(control, count)
    for period in range(3):
        timers.edge(start + (count * period + (count + 1) // 2) * PIT_NS, TIMER, 0)
        timers.edge(start + count * (period + 1) * PIT_NS, TIMER, 1)


@pytest.mark.parametrize("count", COUNTS)
def test_pit_mode_4(timers: Timers, count: int) -> None:
    start = timers.pit(0x38, count)
    timers.edge(start + count * PIT_NS, TIMER, 0)
    timers.edge(start + (count + 1) * PIT_NS, TIMER, 1)
    edges = len(timers.vm.irq_edges)
    timers.vm.clock_step(SECOND_NS)
    assert not [each for each in timers.vm.irq_edges[edges:] if each[0] == TIMER]


@pytest.mark.parametrize("count", [1, 2, 100, 65_536])
def test_pit_modes_1_and_5_from_the_gate(timers: Timers, count: int) -> None:
    timers.vm.outb(0x61, 0)
    timers.pit(0xB2, count)
    timers.vm.clock_step(12_345)
    assert timers.out2() == 1
    timers.vm.outb(0x61, 1)
    assert timers.out2() == 0
    timers.out2_edge(timers.now + count * PIT_NS, 1)
    timers.vm.outb(0x61, 0)
    timers.pit(0xBA, count)
    timers.vm.clock_step(12_345)
    timers.vm.outb(0x61, 1)
    trigger = timers.now
    timers.out2_edge(trigger + count * PIT_NS, 0)
    timers.out2_edge(trigger + (count + 1) * PIT_NS, 1)


def test_pit_bcd(timers: Timers) -> None:
    start = timers.pit(0x35, 0x1234)
    timers.edge(start + 1233 * PIT_NS, TIMER, 0)
    timers.edge(start + 1234 * PIT_NS, TIMER, 1)
    start = timers.pit(0x31, 0)
    timers.edge(start + 10_000 * PIT_NS, TIMER)


def test_pit_new_counts_in_flight(timers: Timers) -> None:
    start = timers.pit(0x34, 1000)
    timers.vm.clock_set(math.ceil(start + 300 * PIT_NS))
    timers.pit_count(0, 500)  # the running period is not disturbed
    timers.edge(start + 999 * PIT_NS, TIMER, 0)
    timers.edge(start + 1000 * PIT_NS, TIMER, 1)
    timers.edge(start + 1499 * PIT_NS, TIMER, 0)
    timers.edge(start + 1500 * PIT_NS, TIMER, 1)
    start = timers.pit(0x36, 1000)
    timers.vm.clock_set(math.ceil(start + 300 * PIT_NS))
    timers.pit_count(0, 400)  # from the next half on
    timers.edge(start + 500 * PIT_NS, TIMER, 0)
    timers.edge(start + 700 * PIT_NS, TIMER, 1)
    timers.edge(start + 900 * PIT_NS, TIMER, 0)
    start = timers.pit(0x30, 1000)
    timers.vm.clock_set(math.ceil(start + 999 * PIT_NS))
    start = timers.pit_count(0, 50)  # at once
    timers.edge(start + 50 * PIT_NS, TIMER)
    start = timers.pit(0x38, 1000)
    timers.vm.clock_set(math.ceil(start + 999 * PIT_NS))
    start = timers.pit_count(0, 50)
    timers.edge(start + 50 * PIT_NS, TIMER, 0)


def test_pit_does_not_drift(timers: Timers) -> None:
    start = timers.pit(0x34, 11_932)
    timers.vm.clock_set(math.ceil(start + (11_932 * 5000 - 1) * PIT_NS))
    assert timers.edge(start + 11_932 * 5000 * PIT_NS, TIMER) == math.ceil(start + 59_660_000 * PIT_NS)


# -- RTC -------------------------------------------------------------------------------------------------------------


def cycles_of(rate: int) -> int:
    """Periodic rates of a 32.768 kHz time base, table 5 of the data sheet."""
    return 1 << (rate + 6 if rate < 3 else rate - 1)


def release_divider(timers: Timers, rate: int = 0) -> int:
    """Hold the divider and let it go: the chain starts now; the first update is half a second away."""
    timers.cmos(RTC_A, 0x60)
    timers.vm.clock_step(98_765_432)
    timers.cmos(RTC_A, 0x20 | rate)
    return timers.now


@pytest.mark.parametrize("rate", range(1, 16))
def test_rtc_periodic(timers: Timers, rate: int) -> None:
    start = release_divider(timers, rate)
    timers.cmos(RTC_B, 0x46)
    for tick in range(1, 5):
        timers.edge(start + tick * cycles_of(rate) * OSCILLATOR_NS, RTC)
        assert timers.cmos(RTC_C) & ~0x10 == 0xC0  # a second may end at the same time
        assert timers.vm.irq(RTC) == 0
        assert timers.cmos(RTC_C) == 0


def test_rtc_rate_changed_in_flight(timers: Timers) -> None:
    start = release_divider(timers, 6)
    timers.cmos(RTC_B, 0x46)
    timers.edge(start + 32 * OSCILLATOR_NS, RTC)
    timers.cmos(RTC_C)
    timers.vm.clock_step(100_000)
    timers.cmos(RTC_A, 0x28)
    timers.edge(start + (32 + 128) * OSCILLATOR_NS, RTC)
    timers.cmos(RTC_C)
    timers.cmos(RTC_B, 0x06)
    timers.vm.clock_step(SECOND_NS // 3)
    assert timers.cmos(RTC_C) & 0x40, "the flag comes without its enable"
    timers.cmos(RTC_B, 0x46)
    ticks = math.floor((timers.now - start) / OSCILLATOR_NS - 32) // 128 + 1
    timers.edge(start + (32 + 128 * ticks) * OSCILLATOR_NS, RTC)


def test_rtc_update_and_uip(timers: Timers) -> None:
    start = release_divider(timers)
    timers.cmos(RTC_B, 0x16)
    before = timers.cmos(0)
    for second in range(3):
        update = start + SECOND_NS // 2 + second * SECOND_NS
        uip = math.ceil(update - 8 * OSCILLATOR_NS)
        timers.vm.clock_set(uip - 1)
        assert timers.cmos(RTC_A) == 0x20
        timers.vm.clock_set(uip)
        assert timers.cmos(RTC_A) == 0xA0
        timers.vm.clock_set(update - 1)
        assert (timers.cmos(RTC_A), timers.cmos(0)) == (0xA0, (before + second) % 60)
        timers.edge(update, RTC)
        assert (timers.cmos(RTC_A), timers.cmos(0)) == (0x20, (before + second + 1) % 60)
        assert timers.cmos(RTC_C) & 0xD0 == 0x90


@pytest.mark.parametrize(
    ("hour", "minute", "second", "after"),
    [
        (0, 0, 5, 10), (0, 0, 0xFF, 5), (0xC0, 0xFF, 10, 15), (1, 0, 0, 3605), (0xFF, 1, 0, 65), (0xFF, 1, 0xFF, 65),
        (23, 59, 54, 86_399), (2, 0xC1, 0xC0, 7205), (0xFF, 0xFF, 0xFF, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("binary", [True, False])
def test_rtc_alarm(timers: Timers, binary: bool, hour: int, minute: int, second: int, after: int) -> None:
    """From 23:59:55, half a second into it."""

    def code(value: int) -> int:
        return value if binary or value >= 0xC0 else value // 10 << 4 | value % 10

    control = 0x06 if binary else 0x02
    timers.cmos(RTC_B, 0x80 | control)
    for index, value in ((0, 55), (2, 59), (4, 23)):
        timers.cmos(index, code(value))
    for index, value in ((1, second), (3, minute), (5, hour)):
        timers.cmos(index, code(value))
    start = release_divider(timers)
    timers.cmos(RTC_B, 0x20 | control)
    timers.cmos(RTC_C)
    if after > 60:  # not every second of a day by its own
        timers.vm.clock_set(start + (after - 1) * SECOND_NS)
        assert timers.vm.irq(RTC) == 0
    # the second that is set lasts 0.5 s more, then come whole ones
    timers.edge(start + after * SECOND_NS - SECOND_NS // 2, RTC)
    assert timers.cmos(RTC_C) & 0xA0 == 0xA0


def test_rtc_set_holds_the_time_but_not_the_phase(timers: Timers) -> None:
    start = release_divider(timers)
    timers.cmos(RTC_B, 0x96)
    assert timers.cmos(RTC_B) == 0x86, "SET clears the update interrupt's enable"
    frozen = timers.cmos(0)
    timers.vm.clock_step(3 * SECOND_NS + 1)
    assert timers.cmos(0) == frozen
    timers.cmos(RTC_C)
    timers.cmos(RTC_B, 0x16)
    timers.edge(start + SECOND_NS // 2 + 3 * SECOND_NS, RTC)
    assert timers.cmos(0) == (frozen + 1) % 60


def test_rtc_slew_makes_up_for_ticks_that_nobody_took() -> None:
    """Ten periods without an acknowledgement: with ``driftfix=slew`` all of them come in the end, else one."""
    for policy, made_up in (("slew", 10), ("none", 1)):
        with Qtest("vmmd", "-nodefaults", "-rtc", f"base=2024-02-28T23:59:58,clock=vm,driftfix={policy}") as vm:
            timers = Timers(vm)
            period = 32 * OSCILLATOR_NS
            timers.cmos(RTC_B, 0x46)
            vm.clock_set(math.ceil(10 * period))
            taken = 0
            for now in range(math.ceil(10 * period), math.ceil(20 * period) - 1, 50_000):
                vm.clock_set(now)
                if vm.irq(RTC):
                    taken += timers.cmos(RTC_C) >> 6 & 1
            assert taken == made_up + 9, policy


def test_rtc_change_is_told_with_offset_and_path() -> None:
    with Qtest("vmmd", "-nodefaults", "-rtc", "base=2024-02-28T12:00:00,clock=vm") as vm:
        timers = Timers(vm)
        timers.cmos(4, 0x15)
        data = vm.wait_event("RTC_CHANGE")["data"]
        assert data["offset"] == 3 * 3600
        assert vm.qmp("qom-get", path=data["qom-path"], property="type") == "mc146818rtc"
        now = vm.qmp("qom-get", path="/machine", property="rtc-time")
        assert (now["tm_year"], now["tm_mon"], now["tm_mday"], now["tm_hour"]) == (124, 1, 28, 15)


# -- PM timer --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pm(timers: Timers) -> Timers:
    function = timers.vm.pci(1, 3)
    function.config_write(0x40, 4, PM_BASE | 1)
    function.config_write(0x80, 1, 1)
    return timers


def test_pm_timer_counts_exactly(pm: Timers) -> None:
    ticks = math.floor(pm.now / PM_NS)
    for step in (1, 2, 3, 100, 12_345_678, 1 << 24):
        due = math.ceil((ticks + step) * PM_NS)
        pm.vm.clock_set(due - 1)
        assert pm.vm.inl(PM_BASE + 8) == (ticks + step - 1) & 0xFF_FFFF
        pm.vm.clock_set(due)
        assert pm.vm.inl(PM_BASE + 8) == (ticks + step) & 0xFF_FFFF


def test_pm_timer_overflow(pm: Timers) -> None:
    pm.vm.outw(PM_BASE + 4, 1)  # SCI_EN
    pm.vm.outw(PM_BASE, 0x0001)
    pm.vm.outw(PM_BASE + 2, 0x0001)
    half = math.floor(pm.now / PM_NS) >> 23
    for toggle in range(half + 1, half + 4):
        pm.edge((toggle << 23) * PM_NS, SCI)
        assert pm.vm.inw(PM_BASE) & 1
        assert pm.vm.inl(PM_BASE + 8) == (toggle << 23) & 0xFF_FFFF
        pm.vm.outw(PM_BASE, 1)
        assert pm.vm.irq(SCI) == 0
    pm.vm.outw(PM_BASE + 2, 0)
    due = math.ceil((half + 4 << 23) * PM_NS)
    pm.vm.clock_set(due - 1)
    assert pm.vm.inw(PM_BASE) & 1 == 0
    pm.vm.clock_set(due)
    assert pm.vm.inw(PM_BASE) & 1 == 1
    assert pm.vm.irq(SCI) == 0
    pm.vm.outw(PM_BASE + 2, 1)
    assert pm.vm.irq(SCI) == 1
    pm.vm.outw(PM_BASE, 1)
    pm.vm.outw(PM_BASE + 2, 0)


# -- HPET ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0, T_32BIT])
@pytest.mark.parametrize("ticks", [1, 2, 999, 123_456_789])
def test_hpet_one_shot(timers: Timers, ticks: int, width: int) -> None:
    timers.hpet(0x100, T_ENABLE | T_IRQ2 | width)
    timers.hpet(0x108, 5000 + ticks)
    zero = timers.hpet_start(5000)
    timers.edge(zero + (5000 + ticks) * HPET_NS, HPET_IRQ)
    assert timers.hpet(0xF0) == 5000 + ticks
    count = timers.count(HPET_IRQ)
    timers.vm.clock_step(SECOND_NS)
    assert timers.count(HPET_IRQ) == count


@pytest.mark.parametrize("width", [0, T_32BIT])
@pytest.mark.parametrize("period", [1, 3, 1000, 10_000_019])
def test_hpet_periodic(timers: Timers, period: int, width: int) -> None:
    zero = timers.hpet_start()
    timers.hpet(0x100, T_ENABLE | T_IRQ2 | T_PERIODIC | T_SET | width)
    timers.hpet(0x108, 777)
    timers.hpet(0x108, period)
    for number in range(4):
        timers.edge(zero + (777 + number * period) * HPET_NS, HPET_IRQ)
        assert timers.hpet(0x108) == 777 + (number + 1) * period


def test_hpet_across_the_wraps(timers: Timers) -> None:
    timers.hpet(0x100, T_ENABLE | T_IRQ2)
    timers.hpet(0x108, 4)
    zero = timers.hpet_start((1 << 64) - 10)
    timers.edge(zero + ((1 << 64) + 4) * HPET_NS, HPET_IRQ)
    timers.hpet(0x100, T_ENABLE | T_IRQ2 | T_32BIT)
    zero = timers.hpet_start((7 << 32) - 10)
    timers.edge(zero + ((7 << 32) + 4) * HPET_NS, HPET_IRQ)


def test_hpet_reprogrammed_in_flight(timers: Timers) -> None:
    timers.hpet(0x140, T_ENABLE | T_IRQ2)
    timers.hpet(0x148, 1000)
    zero = timers.hpet_start()
    timers.vm.clock_set(zero + 9_999)
    timers.hpet(0x148, 1001)
    timers.edge(zero + 10_010, HPET_IRQ)
    timers.hpet(0x148, 5000)
    timers.hpet(0x140, T_IRQ2)  # off and on again: it still matches
    timers.vm.clock_step(1)
    timers.hpet(0x140, T_ENABLE | T_IRQ2)
    timers.edge(zero + 50_000, HPET_IRQ)
    timers.hpet(0x140, T_ENABLE | T_IRQ2 | T_PERIODIC | T_SET)
    timers.hpet(0x148, 6000)
    timers.hpet(0x148, 100)
    timers.edge(zero + 60_000, HPET_IRQ)
    timers.hpet(0x148, 250)  # another period, from the next match on
    timers.edge(zero + 61_000, HPET_IRQ)
    timers.edge(zero + 63_500, HPET_IRQ)


def test_hpet_level(timers: Timers) -> None:
    timers.hpet(0x120, T_ENABLE | T_LEVEL | T_IRQ2 | T_PERIODIC | T_SET)
    timers.hpet(0x128, 300)
    zero = timers.hpet_start()
    for number in range(1, 4):
        timers.edge(zero + 3000 * number, HPET_IRQ)
        assert (timers.vm.irq(HPET_IRQ), timers.hpet(0x20)) == (1, 2)
        timers.hpet(0x20, 2)
        assert (timers.vm.irq(HPET_IRQ), timers.hpet(0x20)) == (0, 0)


def test_hpet_legacy_replacement(timers: Timers) -> None:
    start = release_divider(timers, 6)
    timers.cmos(RTC_B, 0x46)
    timers.pit(0x34, 1000)
    timers.hpet(0x100, T_ENABLE | T_PERIODIC | T_SET)
    timers.hpet(0x108, 1_000_000)
    timers.hpet(0x120, T_ENABLE)
    timers.hpet(0x128, 2_500_000)
    zero = timers.hpet_start(config=HPET_ENABLE | HPET_LEGACY)
    timers.edge(zero + 10_000_000, TIMER)
    timers.edge(zero + 20_000_000, TIMER)
    timers.edge(zero + 25_000_000, RTC)
    timers.edge(zero + 30_000_000, TIMER)
    timers.hpet(0x10, HPET_ENABLE)  # and back: the RTC has something to say, the PIT's phase went on
    assert timers.vm.irq(RTC) == 1
    timers.cmos(RTC_C)
    ticks = math.floor((timers.now - start) / OSCILLATOR_NS) // 32 + 1
    timers.edge(start + 32 * ticks * OSCILLATOR_NS, RTC)


def test_hpet_messages() -> None:
    with Qtest("vmmd", "-nodefaults", "-global", "hpet.msi=on") as vm:
        timers = Timers(vm)
        timers.hpet(0x120, T_ENABLE | T_FSB)
        timers.hpet(0x130, 0x10_0000 << 32 | 0xCAFE)
        timers.hpet(0x128, 1000)
        zero = timers.hpet_start()
        vm.clock_set(zero + 9_999)
        assert vm.readl(0x10_0000) == 0
        vm.clock_set(zero + 10_000)
        assert vm.readl(0x10_0000) == 0xCAFE


def test_tiny_periods_do_not_hold_up_the_machine(timers: Timers) -> None:
    """838 ns of the PIT and 10 ns of the HPET for a second: it ends, and what comes then is exact again."""
    start = timers.pit(0x34, 2)
    timers.hpet(0x100, T_ENABLE | T_IRQ2 | T_PERIODIC | T_SET)
    timers.hpet(0x108, 1)
    zero = timers.hpet_start()
    timers.vm.clock_set(zero + SECOND_NS + 5)
    assert timers.hpet(0x108) == SECOND_NS // HPET_NS + 1
    timers.edge(zero + SECOND_NS + 10, HPET_IRQ)
    timers.quiet()
    assert timers.now < start + 2 * SECOND_NS


def test_next_timer_is_where_the_edge_is(timers: Timers) -> None:
    """``clock_step`` without a number goes to the next pending timer."""
    start = timers.pit(0x30, 5000)
    due = math.ceil(start + 5000 * PIT_NS)
    assert int(timers.vm.ask("clock_step")) == due
    assert timers.vm.irq(TIMER) == 1
