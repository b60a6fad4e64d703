# SPDX-License-Identifier: Apache-2.0
"""The 8254 against its data sheet (Intel 231164): sequences of counts, edges to the nanosecond, gates, read-back."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from tests.unit.fakes import FakeMachine, make_context, props
from vmmd.core.device import ResetKind
from vmmd.devices.isa.pit import IsaPit
from vmmd.devices.isa.speaker import PcSpeaker

CONTROL = 0x43
PORT_B = 0x61
TICK_NS = Fraction(1_000_000_000, 1_193_182)
BINARY, BCD = 0, 1


def at(ticks: int) -> int:
    """The first whole nanosecond at which ``ticks`` CLK periods have passed."""
    return -(-ticks * 1_000_000_000 // 1_193_182)


class Board:
    """A PIT with its speaker port on a machine of fakes."""

    def __init__(self) -> None:
        self.machine: FakeMachine = make_context()
        self.pit = IsaPit(props(IsaPit), self.machine.ctx)
        self.pit.plug()
        self.pit.reset(ResetKind.COLD)
        self.speaker = PcSpeaker(props(PcSpeaker), self.machine.ctx)
        self.speaker.timer = self.pit
        self.speaker.plug()
        self.zero = 0

    def inb(self, port: int) -> int:
        return self.machine.pio.read(port, 1)

    def outb(self, port: int, value: int) -> None:
        self.machine.pio.write(port, 1, value)

    def program(self, counter: int, mode: int, count: int, code: int = BINARY) -> None:
        self.outb(CONTROL, counter << 6 | 0x30 | mode << 1 | code)
        self.count(counter, count)
        self.zero = self.machine.clock.now_ns()

    def count(self, counter: int, count: int) -> None:
        self.outb(0x40 + counter, count & 0xFF)
        self.outb(0x40 + counter, count >> 8 & 0xFF)

    def until(self, ticks: int, *, before: int = 0) -> None:
        """Move time to ``ticks`` CLK periods after the count was written, less ``before`` nanoseconds."""
        target = self.zero + at(ticks) - before
        self.machine.clock.advance(target - self.machine.clock.now_ns())

    def live(self, counter: int) -> int:
        self.outb(CONTROL, counter << 6)
        return self.inb(0x40 + counter) | self.inb(0x40 + counter) << 8

    def status(self, counter: int) -> int:
        self.outb(CONTROL, 0xE0 | 2 << counter)
        return self.inb(0x40 + counter)

    def out2(self) -> int:
        return self.inb(PORT_B) >> 5 & 1

    def gate2(self, level: int) -> None:
        self.outb(PORT_B, level)

    @property
    def irq(self) -> int:
        return self.machine.interrupts.levels.get(0, 0)


@pytest.fixture
def board() -> Board:
    return Board()


# -- sequences of the data sheet's timing diagrams, counter 2 with its gate high ----------------------------------

#: (mode, N): counts from the loading on, and OUT at each of them
DIAGRAMS = {
    (0, 4): ([4, 3, 2, 1, 0, 0xFFFF, 0xFFFE], [0, 0, 0, 0, 1, 1, 1]),
    (2, 3): ([3, 2, 1, 3, 2, 1, 3], [1, 1, 0, 1, 1, 0, 1]),
    (6, 3): ([3, 2, 1, 3, 2, 1, 3], [1, 1, 0, 1, 1, 0, 1]),
    (3, 4): ([4, 2, 4, 2, 4, 2], [1, 1, 0, 0, 1, 1]),
    (3, 5): ([4, 2, 0, 4, 2, 4, 2, 0, 4, 2], [1, 1, 1, 0, 0, 1, 1, 1, 0, 0]),
    (7, 5): ([4, 2, 0, 4, 2, 4, 2, 0, 4, 2], [1, 1, 1, 0, 0, 1, 1, 1, 0, 0]),
    (4, 3): ([3, 2, 1, 0, 0xFFFF, 0xFFFE], [1, 1, 1, 0, 1, 1]),
}


@pytest.mark.parametrize(("mode", "count"), DIAGRAMS)
def test_sequence_of_the_data_sheet(board: Board, mode: int, count: int) -> None:
    values, outs = DIAGRAMS[mode, count]
    board.gate2(1)
    board.program(2, mode, count)
    for tick, (value, out) in enumerate(zip(values, outs, strict=True)):
        board.until(tick)
        assert (board.live(2), board.out2()) == (value, out), f"pulse {tick}"
        board.until(tick + 1, before=1)
        assert (board.live(2), board.out2()) == (value, out), f"1 ns before pulse {tick + 1}"


@pytest.mark.parametrize(("mode", "outs"), {1: [0, 0, 0, 1, 1, 1], 5: [1, 1, 1, 0, 1, 1]}.items())
def test_hardware_triggered_modes_wait_for_the_gate(board: Board, mode: int, outs: list[int]) -> None:
    board.gate2(0)
    board.program(2, mode, 3)
    board.until(10)
    assert board.out2() == 1
    assert board.status(2) & 0x40, "not loaded yet"
    for _ in range(2):  # each trigger loads the count again
        board.gate2(1)
        board.zero = board.machine.clock.now_ns()
        for tick, out in enumerate(outs):
            board.until(tick)
            assert (board.live(2), board.out2()) == ((3 - tick) & 0xFFFF, out)
        assert not board.status(2) & 0x40
        board.gate2(0)
    board.until(1000)
    assert board.out2() == 1


def test_one_shot_is_retriggerable_and_a_new_count_waits_for_the_trigger(board: Board) -> None:
    board.program(2, 1, 4)
    board.gate2(1)
    board.zero = board.machine.clock.now_ns()
    board.until(3)
    board.count(2, 2)
    board.gate2(0)
    assert board.out2() == 0
    assert board.live(2) == 1, "the running one-shot is not disturbed"
    board.gate2(1)
    board.zero = board.machine.clock.now_ns()
    assert board.live(2) == 2
    board.until(2, before=1)
    assert board.out2() == 0
    board.until(2)
    assert board.out2() == 1


def test_gate_holds_the_count_of_modes_0_and_4(board: Board) -> None:
    for mode, before, after in ((0, 0, 1), (4, 1, 0)):
        board.gate2(1)
        board.program(2, mode, 5)
        board.until(2)
        board.gate2(0)
        board.until(100)
        assert (board.live(2), board.out2()) == (3, before)
        board.gate2(1)
        board.zero = board.machine.clock.now_ns()
        board.until(3, before=1)
        assert (board.live(2), board.out2()) == (1, before)
        board.until(3)
        assert (board.live(2), board.out2()) == (0, after)


@pytest.mark.parametrize("mode", [2, 3])
def test_gate_sets_the_output_of_periodic_modes_and_restarts_them(board: Board, mode: int) -> None:
    board.gate2(1)
    board.program(2, mode, 6)
    board.until(5)
    assert board.out2() == 0
    board.gate2(0)
    assert board.out2() == 1
    board.until(100)
    assert board.out2() == 1
    board.gate2(1)
    board.zero = board.machine.clock.now_ns()
    assert board.live(2) == 6
    board.until(5)
    assert board.out2() == 0


def test_a_count_written_with_the_gate_low_is_loaded_but_waits(board: Board) -> None:
    board.gate2(0)
    board.program(2, 0, 3)
    board.until(50)
    assert (board.live(2), board.out2()) == (3, 0)
    assert not board.status(2) & 0x40
    board.gate2(1)
    board.zero = board.machine.clock.now_ns()
    board.until(3)
    assert board.out2() == 1


def test_mode_0_first_byte_stops_counting_and_sets_out_low(board: Board) -> None:
    board.gate2(1)
    board.program(2, 0, 3)
    board.until(3)
    assert board.out2() == 1
    board.outb(0x42, 2)
    assert board.out2() == 0
    board.until(50)
    assert board.out2() == 0
    board.outb(0x42, 0)
    board.zero = board.machine.clock.now_ns()
    board.until(2, before=1)
    assert board.out2() == 0
    board.until(2)
    assert board.out2() == 1


def test_new_count_of_the_rate_generator_comes_at_the_end_of_the_period(board: Board) -> None:
    board.gate2(1)
    board.program(2, 2, 4)
    board.until(1)
    board.count(2, 5)
    assert board.status(2) & 0x40, "null count: the new one is not loaded"
    sequence = []
    for tick in range(1, 11):
        board.until(tick)
        sequence.append((board.live(2), board.out2()))
    assert sequence == [(3, 1), (2, 1), (1, 0), (5, 1), (4, 1), (3, 1), (2, 1), (1, 0), (5, 1), (4, 1)]
    assert not board.status(2) & 0x40


@pytest.mark.parametrize(
    ("written", "outs"),
    [
        (1, [1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0]),  # in the high half: its low half is the new count's
        (4, [1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0]),  # in the low half: the next period is
    ],
)
def test_new_count_of_the_square_wave_comes_at_the_end_of_the_half(board: Board, written: int, outs: list[int]) -> None:
    board.gate2(1)
    board.program(2, 3, 6)
    seen = []
    for tick in range(len(outs)):
        board.until(tick)
        if tick == written:
            board.count(2, 8)
        seen.append(board.out2())
    assert seen == outs


def test_new_count_of_mode_4_starts_over(board: Board) -> None:
    board.gate2(1)
    board.program(2, 4, 10)
    board.until(5)
    board.count(2, 3)
    board.zero = board.machine.clock.now_ns()
    board.until(3, before=1)
    assert board.out2() == 1
    board.until(3)
    assert board.out2() == 0
    board.until(4)
    assert board.out2() == 1
    board.until(3 + 65536)
    assert board.out2() == 1, "the strobe does not come again when the counter wraps"


# -- formats -----------------------------------------------------------------------------------------------------


def test_bcd_counts_in_decimal(board: Board) -> None:
    board.gate2(1)
    board.program(2, 0, 0x1000, BCD)
    board.until(1)
    assert board.live(2) == 0x0999
    board.until(1000)
    assert (board.live(2), board.out2()) == (0, 1)
    board.until(1001)
    assert board.live(2) == 0x9999
    board.program(2, 2, 0, BCD)  # 0 stands for 10,000
    board.until(1)
    assert board.live(2) == 0x9999
    board.until(9999)
    assert (board.live(2), board.out2()) == (1, 0)
    board.until(10000)
    assert (board.live(2), board.out2()) == (0, 1)


@pytest.mark.parametrize(("rw", "written", "first"), [(1, 0x34, 0x34), (2, 0x12, 0x12)])
def test_one_byte_formats(board: Board, rw: int, written: int, first: int) -> None:
    board.gate2(1)
    board.outb(CONTROL, 2 << 6 | rw << 4 | 2 << 1)
    board.outb(0x42, written)
    assert [board.inb(0x42) for _ in range(2)] == [first, first]
    assert board.status(2) == 0x80 | rw << 4 | 2 << 1


def test_two_byte_format_alternates_for_reads_and_writes_apart(board: Board) -> None:
    board.gate2(0)
    board.program(2, 0, 0x1234)
    assert board.inb(0x42) == 0x34
    board.outb(0x42, 0x78)
    assert board.inb(0x42) == 0x12
    board.outb(0x42, 0x56)
    assert [board.inb(0x42) for _ in range(3)] == [0x78, 0x56, 0x78]
    board.outb(CONTROL, 0xB0)  # a control word starts both sequences anew
    board.count(2, 0xABCD)
    assert board.inb(0x42) == 0xCD


def test_latch_holds_until_it_is_read(board: Board) -> None:
    board.gate2(1)
    board.program(2, 0, 0x1000)
    board.until(0x10)
    board.outb(CONTROL, 0x80)
    board.until(0x20)
    board.outb(CONTROL, 0x80)  # ignored
    assert board.inb(0x42) | board.inb(0x42) << 8 == 0x0FF0
    assert board.inb(0x42) | board.inb(0x42) << 8 == 0x0FE0
    board.outb(CONTROL, 0x80)
    board.outb(CONTROL, 0xB0)  # a control word lets go
    board.count(2, 0x2222)
    assert board.inb(0x42) == 0x22


def test_read_back_of_status_and_count_of_all(board: Board) -> None:
    board.gate2(1)
    for counter in range(3):
        board.program(counter, 2, 0x100 * (counter + 1))
    board.outb(CONTROL, 0xC0 | 0x0E)
    board.until(7)
    board.outb(CONTROL, 0xC0 | 0x0E)  # neither is latched again
    for counter in range(3):
        got = [board.inb(0x40 + counter) for _ in range(3)]
        assert got == [0xB4, 0x00, counter + 1], f"counter {counter}: status first, then the count"
    board.outb(CONTROL, 0xE0 | 0x04)
    assert board.inb(0x41) == 0xB4
    board.outb(CONTROL, 0xD0 | 0x04)
    assert board.inb(0x41) == 0xF9


def test_null_count_until_the_count_is_complete(board: Board) -> None:
    board.outb(CONTROL, 0x30)
    assert board.status(0) == 0x70
    board.outb(0x40, 5)
    assert board.status(0) == 0x70
    board.outb(0x40, 0)
    assert board.status(0) == 0x30


# -- interrupt 0 -------------------------------------------------------------------------------------------------


def rising(mode: int, count: int) -> list[int]:
    """Pulses at which OUT rises, of the first ones after the count was written."""
    if mode == 0:
        return [count]
    if mode == 4:
        return [count + 1]
    return [count * number for number in range(1, 5)]


@pytest.mark.parametrize("count", [2, 3, 4, 100, 11932, 65535, 65536])
@pytest.mark.parametrize("mode", [0, 2, 3, 4])
def test_interrupt_edges_to_the_nanosecond(board: Board, mode: int, count: int) -> None:
    board.program(0, mode, count)
    first = board.machine.interrupts.raised(0)
    for number, pulse in enumerate(rising(mode, count)):
        board.until(pulse, before=1)
        assert board.machine.interrupts.raised(0) == first + number
        assert board.irq == (0 if mode != 3 or count > 1 else 1)
        board.until(pulse)
        assert board.machine.interrupts.raised(0) == first + number + 1
        assert board.irq == 1


def test_edges_do_not_drift(board: Board) -> None:
    board.program(0, 2, 11932)
    board.until(11932 * 100_000, before=1)
    count = board.machine.interrupts.raised(0)
    board.until(11932 * 100_000)
    assert board.machine.interrupts.raised(0) == count + 1
    assert board.machine.clock.now_ns() == board.zero + at(1_193_200_000)


def test_reset_brings_back_the_slow_square_wave(board: Board) -> None:
    board.program(0, 0, 100)
    board.gate2(1)
    board.machine.clock.advance(123)
    board.pit.reset(ResetKind.COLD)
    board.zero = board.machine.clock.now_ns()
    assert (board.irq, board.inb(PORT_B) & 0x21) == (1, 0x20)
    board.until(32768, before=1)
    assert board.irq == 1
    board.until(32768)
    assert board.irq == 0
    board.until(65536)
    assert board.irq == 1


def test_disconnected_from_interrupt_0(board: Board) -> None:
    board.program(0, 2, 100)
    board.pit.connect(on=False)
    edges = len(board.machine.interrupts.edges)
    board.until(1050)
    assert board.irq == 0
    assert len(board.machine.interrupts.edges) == edges
    board.pit.connect(on=True)
    assert board.irq == 1
    board.until(1100, before=1)
    assert board.irq == 0, "its phase went on"
    board.until(1100)
    assert board.irq == 1


def test_late_host_gets_one_edge_and_the_phase_stays(board: Board) -> None:
    board.program(0, 2, 100)
    clock = board.machine.clock
    raised = board.machine.interrupts.raised(0)
    clock._now = board.zero + at(1050)  # the host comes late: ten periods are over
    clock.advance(0)
    assert board.machine.interrupts.raised(0) == raised + 1
    board.until(1100, before=1)
    assert board.machine.interrupts.raised(0) == raised + 1
    board.until(1100)
    assert board.machine.interrupts.raised(0) == raised + 2


@pytest.mark.parametrize("mode", [2, 3])
def test_a_count_of_one_does_not_spin(board: Board, mode: int) -> None:
    board.program(0, mode, 1)
    assert board.machine.clock.next_deadline() is None
    board.count(0, 4)
    board.until(5, before=1)
    raised = board.machine.interrupts.raised(0)
    board.until(5)
    assert board.machine.interrupts.raised(0) == raised + 1


def test_port_b(board: Board) -> None:
    board.outb(PORT_B, 0xFF)
    first, second = board.inb(PORT_B), board.inb(PORT_B)
    assert first ^ second == 0x10, "the refresh bit toggles with each read"
    assert first & ~0x30 == 0x03
    board.outb(PORT_B, 0x02)
    assert board.inb(PORT_B) & ~0x30 == 0x02


def test_edge_timer_agrees_with_the_output_looked_at(board: Board) -> None:
    """Whatever is written: interrupt 0 is OUT of counter 0 (as read back) at any time, with no access in between."""
    dice = random.Random(8254)
    for _ in range(3000):
        choice = dice.randrange(4)
        if choice == 0:
            board.outb(CONTROL, dice.choice([0x10, 0x20, 0x30]) | dice.randrange(16))
        elif choice == 1:
            board.outb(0x40, dice.choice([0, 1, 2, 3, 5, 9, dice.randrange(256)]))
        else:
            board.machine.clock.advance(dice.choice([1, 400, 838, 839, 2000, 100_000, 3_000_000]))
        level = board.irq
        assert board.status(0) >> 7 == level
