# SPDX-License-Identifier: Apache-2.0
"""The HPET against its specification (IA-PC HPET 1.0a): registers, matches to the nanosecond, routing, legacy mode."""

from __future__ import annotations

import random

import pytest

from tests.unit.fakes import FakeMachine, make_context, props
from vmmd.core.device import ResetKind
from vmmd.devices.hpet import HPET_BASE, Hpet

TICK_NS = 10
ENABLE, LEGACY = 1, 2
LEVEL, INT_ENABLE, PERIODIC, SET_ACCUMULATOR, MODE_32 = 2, 4, 8, 0x40, 0x100
FSB_ENABLE = 0x4000
IRQ2 = 2 << 9
CONFIG, STATUS, COUNTER = 0x10, 0x20, 0xF0
ALL_ONES = (1 << 64) - 1


class Board:
    def __init__(self, **given: str) -> None:
        self.machine: FakeMachine = make_context()
        self.hpet = Hpet(props(Hpet, **given), self.machine.ctx)
        self.legacy: list[bool] = []
        self.hpet.legacy_changed = self.legacy.append
        self.hpet.plug()
        self.hpet.reset(ResetKind.COLD)

    def read(self, offset: int, size: int = 8) -> int:
        return self.machine.mmio.read(HPET_BASE + offset, size)

    def write(self, offset: int, value: int, size: int = 8) -> None:
        self.machine.mmio.write(HPET_BASE + offset, size, value)

    def timer(self, index: int, config: int, comparator: int | None = None) -> None:
        self.write(0x100 + 0x20 * index, config)
        if comparator is not None:
            self.write(0x108 + 0x20 * index, comparator)

    def comparator(self, index: int) -> int:
        return self.read(0x108 + 0x20 * index)

    def run(self, nanoseconds: int) -> None:
        self.machine.clock.advance(nanoseconds)

    def until(self, nanoseconds: int) -> None:
        """To a virtual time; the tests enable the counter at 0."""
        self.run(nanoseconds - self.machine.clock.now_ns())

    def raised(self, gsi: int) -> int:
        return self.machine.interrupts.raised(gsi)

    def level(self, gsi: int) -> int:
        return self.machine.interrupts.levels.get(gsi, 0)


@pytest.fixture
def board() -> Board:
    return Board()


def test_power_on(board: Board) -> None:
    assert board.read(0) == 0x0098_9680_8086_A201
    assert [board.read(each, 4) for each in (0, 4)] == [0x8086_A201, 10_000_000]
    assert [board.read(each) for each in (CONFIG, STATUS, COUNTER)] == [0, 0, 0]
    for index in range(3):
        assert board.read(0x100 + 0x20 * index) == 0x4_0000_0030
        assert board.comparator(index) == ALL_ONES
        assert board.read(0x110 + 0x20 * index) == 0
    assert board.read(0x160) == 0
    board.run(1000)
    assert board.read(COUNTER) == 0, "halted"


@pytest.mark.parametrize(("timers", "field"), [("0", 2), ("5", 4), ("32", 31), ("200", 31)])
def test_number_of_timers(timers: str, field: int) -> None:
    board = Board(timers=timers)
    assert board.read(0, 4) == 0x8086_A001 | field << 8
    last = min(field, 23)  # the others have no room in 400h bytes
    assert board.read(0x100 + 0x20 * last) == 0x4_0000_0030
    if last < 23:
        assert board.read(0x100 + 0x20 * (last + 1)) == 0


def test_counter_is_exact(board: Board) -> None:
    board.run(7)
    board.write(COUNTER, 0xFFFF_FFFF_FFFF_FFFE)
    board.write(CONFIG, ENABLE)
    for nanoseconds, value in ((9, ALL_ONES - 1), (1, ALL_ONES), (9, ALL_ONES), (1, 0), (10**12, 10**11)):
        board.run(nanoseconds)
        assert board.read(COUNTER) == value
    assert board.read(COUNTER + 4, 4) << 32 | board.read(COUNTER, 4) == 10**11
    board.write(COUNTER, 5)
    assert board.read(COUNTER) == 10**11, "a running counter is not written"
    board.write(CONFIG, 0)
    board.run(10**6)
    assert board.read(COUNTER) == 10**11
    board.write(COUNTER + 4, 7, 4)
    assert board.read(COUNTER) == 7 << 32 | 10**11 & 0xFFFF_FFFF


def test_accesses_of_other_sizes_do_nothing(board: Board) -> None:
    board.write(COUNTER, 0x1122_3344_5566_7788)
    for offset, size in ((COUNTER, 1), (COUNTER, 2), (COUNTER + 2, 4)):
        board.write(offset, 0x99, size)
        assert board.read(offset, size) == 0
    assert board.read(COUNTER) == 0x1122_3344_5566_7788
    assert board.read(COUNTER + 4) == 0x1122_3344
    board.write(0x104, ALL_ONES)  # capabilities are fixed; the other half is the comparator's
    assert board.read(0x100) == 0x4_0000_0030
    assert board.comparator(0) == ALL_ONES
    board.write(0x10C, 0x1)
    assert board.comparator(0) == 0x1_FFFF_FFFF


def test_writable_bits(board: Board) -> None:
    board.write(CONFIG, ALL_ONES & ~ENABLE)
    assert board.read(CONFIG) == LEGACY
    board.timer(0, ALL_ONES)
    assert board.read(0x100) == 0x4_0000_017E, "no route 31, no messages"
    board.timer(0, IRQ2)
    assert board.read(0x100) == 0x4_0000_0430
    board.timer(0, 3 << 9)
    assert board.read(0x100) == 0x4_0000_0030, "a route that it does not have reads back as another"
    board.write(0x110, ALL_ONES)
    assert board.read(0x110) == 0


@pytest.mark.parametrize("comparator", [1, 2, 1000, 12345, 10**8, 2**32 + 5])
def test_one_shot_to_the_nanosecond(board: Board, comparator: int) -> None:
    board.timer(2, INT_ENABLE | IRQ2, comparator)
    board.write(CONFIG, ENABLE)
    board.until(comparator * TICK_NS - 1)
    assert board.raised(2) == 0
    board.until(comparator * TICK_NS)
    assert board.raised(2) == 1
    assert board.level(2) == 0, "an edge"
    assert board.comparator(2) == comparator
    board.run(10**12)
    assert board.raised(2) == 1


@pytest.mark.parametrize("width", [MODE_32, 0])
@pytest.mark.parametrize("period", [1, 3, 1000, 99_999])
def test_periodic_to_the_nanosecond(board: Board, period: int, width: int) -> None:
    board.timer(0, INT_ENABLE | IRQ2 | PERIODIC | SET_ACCUMULATOR | width, 50)
    assert board.read(0x100) & SET_ACCUMULATOR == 0, "holds for one write"
    board.write(0x108, period)
    board.write(CONFIG, ENABLE)
    for number in range(5):
        due = (50 + number * period) * TICK_NS
        board.until(due - 1)
        assert (board.raised(2), board.comparator(0)) == (number, 50 + number * period)
        board.until(due)
        assert (board.raised(2), board.comparator(0)) == (number + 1, 50 + (number + 1) * period)


def test_accumulator_of_64_bits_by_halves(board: Board) -> None:
    """2.3.9.2.2: the set bit goes ahead of each half."""
    board.timer(0, PERIODIC | SET_ACCUMULATOR)
    board.write(0x108, 0x1111_1111, 4)
    board.write(0x10C, 0x2222_2222, 4)
    assert board.comparator(0) == 0xFFFF_FFFF_1111_1111
    board.timer(0, PERIODIC | SET_ACCUMULATOR)
    board.write(0x10C, 0x3333_3333, 4)
    assert board.comparator(0) == 0x3333_3333_1111_1111
    board.write(0x108, 0x5)
    assert board.comparator(0) == 0x3333_3333_1111_1111, "only the period"


def test_32_bit_mode_matches_the_low_half_every_wrap(board: Board) -> None:
    board.write(COUNTER, 0x1_FFFF_FFF0)
    board.timer(1, INT_ENABLE | IRQ2 | MODE_32, 0x55_0000_0004)
    assert board.comparator(1) == 4
    board.write(CONFIG, ENABLE)
    board.until(0x14 * TICK_NS - 1)
    assert board.raised(2) == 0, "nothing at the wrap itself"
    board.until(0x14 * TICK_NS)
    assert board.raised(2) == 1
    board.until((0x14 + 2**32) * TICK_NS - 1)
    assert board.raised(2) == 1
    board.until((0x14 + 2**32) * TICK_NS)
    assert board.raised(2) == 2


def test_32_bit_period_wraps(board: Board) -> None:
    board.write(COUNTER, 0xFFFF_FFF0)
    board.timer(0, INT_ENABLE | IRQ2 | MODE_32 | PERIODIC | SET_ACCUMULATOR, 0xFFFF_FFF8)
    board.write(0x108, 0x10)
    board.write(CONFIG, ENABLE)
    for number, tick in enumerate((0x8, 0x18, 0x28)):
        board.until(tick * TICK_NS - 1)
        assert board.raised(2) == number
        board.until(tick * TICK_NS)
        assert (board.raised(2), board.comparator(0)) == (number + 1, 0x10 * number + 8)


def test_a_comparator_just_passed_matches_at_once(board: Board) -> None:
    board.write(CONFIG, ENABLE)
    board.run(10_000)
    board.timer(2, INT_ENABLE | IRQ2, 999)
    board.run(0)
    assert board.raised(2) == 1
    board.timer(2, INT_ENABLE | IRQ2, 1000)  # the present value
    board.run(0)
    assert board.raised(2) == 2
    board.timer(2, INT_ENABLE | IRQ2, 1001)
    board.run(9)
    assert board.raised(2) == 2
    board.run(1)
    assert board.raised(2) == 3


def test_enabling_waits_for_equality(board: Board) -> None:
    board.write(COUNTER, 100)
    board.timer(2, INT_ENABLE | IRQ2, 50)
    board.write(CONFIG, ENABLE)
    board.run(10**12)
    assert board.raised(2) == 0


def test_reprogrammed_in_flight(board: Board) -> None:
    board.timer(2, INT_ENABLE | IRQ2, 1000)
    board.write(CONFIG, ENABLE)
    board.until(9_995)
    board.write(0x148, 2000)
    board.until(19_999)
    assert board.raised(2) == 0
    board.until(20_000)
    assert board.raised(2) == 1
    board.write(0x148, 3000)
    board.write(CONFIG, 0)  # halted for a microsecond
    board.run(1000)
    board.write(CONFIG, ENABLE)
    board.until(30_999)
    assert board.raised(2) == 1
    board.until(31_000)
    assert board.raised(2) == 2


def test_level_interrupt_stays_until_its_status_is_cleared(board: Board) -> None:
    board.timer(0, INT_ENABLE | LEVEL | IRQ2 | PERIODIC | SET_ACCUMULATOR, 100)
    board.write(CONFIG, ENABLE)
    board.until(1000)
    assert (board.level(2), board.read(STATUS)) == (1, 1)
    board.run(5000)
    assert board.raised(2) == 1
    board.write(STATUS, 6)
    assert board.level(2) == 1
    board.write(STATUS, 1)
    assert (board.level(2), board.read(STATUS)) == (0, 0)
    board.until(6999)
    assert board.level(2) == 0
    board.until(7000)
    assert board.level(2) == 1
    board.write(CONFIG, 0)
    assert (board.level(2), board.read(STATUS)) == (0, 1), "2.3.5: no interrupts, but the status stays"


def test_status_without_interrupt_enable(board: Board) -> None:
    board.timer(1, LEVEL | IRQ2, 100)
    board.write(CONFIG, ENABLE)
    board.until(999)
    assert board.read(STATUS) == 0
    board.until(1000)
    assert (board.read(STATUS), board.level(2)) == (2, 0)
    board.timer(1, LEVEL | IRQ2 | INT_ENABLE)
    assert board.level(2) == 1
    board.timer(1, IRQ2 | INT_ENABLE)
    assert (board.read(STATUS), board.level(2)) == (0, 0), "edge-triggered timers have no status"


def test_periodic_goes_on_while_its_interrupt_is_off(board: Board) -> None:
    board.timer(0, PERIODIC | SET_ACCUMULATOR | IRQ2, 100)
    board.write(CONFIG, ENABLE)
    assert board.machine.clock.next_deadline() is None, "nobody would notice"
    board.until(12_345)
    assert board.comparator(0) == 1300
    board.timer(0, PERIODIC | INT_ENABLE | IRQ2)
    board.until(12_999)
    assert board.raised(2) == 0
    board.until(13_000)
    assert board.raised(2) == 1


def test_legacy_replacement(board: Board) -> None:
    board.timer(0, INT_ENABLE | IRQ2, 100)
    board.timer(1, INT_ENABLE | IRQ2, 200)
    board.timer(2, INT_ENABLE | IRQ2, 300)
    board.write(CONFIG, LEGACY | ENABLE)
    assert board.legacy == [True]
    for now, counts in ((1000, (1, 0, 0)), (2000, (1, 1, 0)), (3000, (1, 1, 1))):
        board.until(now)
        assert (board.raised(0), board.raised(8), board.raised(2)) == counts
    board.write(CONFIG, ENABLE)
    assert board.legacy == [True, False]
    board.write(CONFIG, LEGACY | ENABLE)
    board.hpet.reset(ResetKind.COLD)
    assert board.legacy == [True, False, True, False]


def test_messages() -> None:
    board = Board(msi="on")
    assert board.read(0x100) == 0x4_0000_8030
    board.timer(1, INT_ENABLE | FSB_ENABLE | LEVEL, 100)
    assert board.read(0x120) & FSB_ENABLE
    board.write(0x130, 0x31, 4)
    board.write(0x134, 0xFEE0_1000, 4)
    assert board.read(0x130) == 0xFEE0_1000_0000_0031
    board.write(CONFIG, ENABLE | LEGACY)
    board.until(1000)
    assert board.machine.interrupts.messages == [(0xFEE0_1000, 0x31)]
    assert board.read(STATUS) == 0
    assert not board.machine.interrupts.edges


def test_no_route_no_interrupt(board: Board) -> None:
    board.timer(2, INT_ENABLE, 100)
    board.write(CONFIG, ENABLE)
    board.until(2000)
    assert not board.machine.interrupts.edges


def test_a_tiny_period_is_bounded_and_stays_exact(board: Board) -> None:
    """10 ns for an hour: the move ends, the comparator is right, and the next match comes at its nanosecond."""
    board.timer(0, INT_ENABLE | IRQ2 | PERIODIC | SET_ACCUMULATOR, 1)
    board.write(CONFIG, ENABLE)
    board.until(3600 * 10**9 + 3)
    assert board.comparator(0) == 360 * 10**9 + 1
    raised = board.raised(2)
    assert 10_000 <= raised <= 50_000
    board.run(6)
    assert board.raised(2) == raised
    board.run(1)
    assert board.raised(2) == raised + 1


def test_reset(board: Board) -> None:
    board.timer(0, INT_ENABLE | LEVEL | IRQ2, 5)
    board.write(CONFIG, ENABLE)
    board.run(100)
    board.hpet.reset(ResetKind.COLD)
    assert board.level(2) == 0
    assert board.machine.clock.next_deadline() is None
    test_power_on(board)


def test_any_order_of_writes_keeps_to_the_model(board: Board) -> None:
    """Random programs; at each step the counter is right, and no interrupt comes while all are off."""
    dice = random.Random(1)
    offsets = [CONFIG, STATUS, COUNTER, *(base + 0x20 * index for base in (0x100, 0x108, 0x110) for index in range(3))]
    for _ in range(2000):
        offset = dice.choice(offsets) + dice.choice((0, 0, 4))
        value = dice.choice((0, 1, 2, 3, 0x4E, 0x14C, ALL_ONES, dice.getrandbits(64), dice.randrange(1000)))
        board.write(offset, value & 0xFFFF_FFFF if offset & 4 else value, 4 if offset & 4 else 8)
        before, enabled = board.read(COUNTER), board.read(CONFIG) & ENABLE
        edges = len(board.machine.interrupts.edges)
        board.run(10 * dice.randrange(200))
        spent = board.machine.clock.now_ns()
        assert board.read(COUNTER) >= before or before > ALL_ONES - 2000, spent
        if not enabled:
            assert board.read(COUNTER) == before
            assert len(board.machine.interrupts.edges) == edges
