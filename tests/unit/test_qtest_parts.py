# SPDX-License-Identifier: Apache-2.0
"""The qtest accelerator's parts without a machine: lines, numbers, the client's clock, a CPU's memory."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import ImmediateLoop
from vmmd.core.address_space import AddressSpace, IoRange
from vmmd.machine.cpu_memory import CpuMemory
from vmmd.qtest.clock import ClientClock
from vmmd.qtest.protocol import LINE_BYTES_MAX, LineSplitter, RequestError, from_hex, number, signed


def lines_of(splitter: LineSplitter) -> list[bytes]:
    found = []
    while (line := splitter.take()) is not None:
        found.append(line)
    return found


@given(st.lists(st.binary(max_size=9).map(lambda data: data.replace(b"\n", b"-")), max_size=8), st.integers(1, 5))
def test_lines_do_not_depend_on_how_they_come(lines: list[bytes], piece: int) -> None:
    data = b"".join(line + b"\n" for line in lines) + b"rest"
    splitter = LineSplitter()
    found = []
    for at in range(0, len(data), piece):
        splitter.feed(data[at : at + piece])
        found += lines_of(splitter)
    assert found == lines
    splitter.end()
    assert len(splitter) == 0


def test_the_end_of_a_client_drops_what_is_not_whole() -> None:
    splitter = LineSplitter()
    splitter.feed(b"one\ntwo\nthr")
    splitter.end()
    assert lines_of(splitter) == [b"one", b"two"]
    splitter.feed(b"ee\n")
    assert lines_of(splitter) == [b"ee"]


def test_a_line_without_end_takes_no_memory() -> None:
    splitter = LineSplitter()
    for _ in range(3):
        splitter.feed(bytes(LINE_BYTES_MAX + 1))
        assert splitter.take() is None
        assert len(splitter) == 0
    splitter.feed(b"tail\nnext\n")
    with pytest.raises(RequestError, match="at most"):
        splitter.take()
    assert splitter.take() == b"next"


def test_numbers_are_those_of_c() -> None:
    assert [number(word) for word in (b"10", b"0x10", b"0X1f", b"010", b"0", b"-1")] == [10, 16, 31, 8, 0, 2**64 - 1]
    assert signed(b"-9223372036854775808") == -(2**63)
    for bad in (b"", b"+1", b" 1", b"1 ", b"1_0", b"0x", b"0b1", b"08", b"--1", "１".encode(), b"18446744073709551616"):
        with pytest.raises(RequestError):
            number(bad)
    with pytest.raises(RequestError):
        number(b"0x10000", 0xFFFF)


def test_data_of_a_write() -> None:
    assert from_hex(b"0x0102", 4) == b"\x01\x02\0\0"
    assert from_hex(b"0x010203", 2) == b"\x01\x02"
    assert from_hex(b"0x1", 2) == b"\0\0"
    assert from_hex(b"0x01zz03", 3) == b"\x01\xff\x03"
    assert from_hex(b"0x01 203", 3) == b"\x01\xff\x03"
    with pytest.raises(RequestError):
        from_hex(b"0x", 1)


def clock() -> ClientClock:
    made = ClientClock(ImmediateLoop(), threading.Lock())  # type: ignore[arg-type]  # as much of a loop as it takes
    made.thaw()
    return made


def move(made: ClientClock, target_ns: int) -> None:
    """To a time, in as many slices as it takes."""
    while not made.advance_to(target_ns):
        pass


def test_timers_run_in_order_at_their_own_times() -> None:
    made, seen = clock(), []
    for due in (30, 10, 20, 20):
        made.timer(lambda: seen.append(made.now_ns())).arm(due)
    move(made, 25)
    assert seen == [10, 20, 20]
    assert made.now_ns() == 25
    assert made.next_deadline() == 30


def test_a_timer_that_arms_itself_on_the_way_runs_again() -> None:
    made, seen = clock(), []

    def tick() -> None:
        seen.append(made.now_ns())
        timer.arm(made.now_ns() + 7)

    timer = made.timer(tick)
    timer.arm(7)
    move(made, 30)
    assert seen == [7, 14, 21, 28]


def test_time_never_goes_back_and_a_failing_timer_stops_nobody() -> None:
    made, seen, failures = clock(), [], []
    made.on_failure = failures.append
    made.timer(lambda: 1 // 0).arm(5)
    made.timer(lambda: seen.append(made.now_ns())).arm(6)
    move(made, 10)
    move(made, 3)
    assert (made.now_ns(), seen, len(failures)) == (10, [6], 1)


def test_while_the_machine_stands_timers_wait() -> None:
    made, seen = clock(), []
    made.timer(lambda: seen.append(made.now_ns())).arm(5)
    made.freeze()
    assert made.next_deadline() is None
    move(made, 8)
    assert not seen
    made.thaw()
    assert seen == [8]


def test_a_timer_that_is_due_already_needs_no_step() -> None:
    made, seen = clock(), []
    move(made, 100)
    made.timer(lambda: seen.append(made.now_ns())).arm(100)
    assert seen == [100]


def test_many_timers_are_run_in_slices() -> None:
    made, count = clock(), 0

    def tick() -> None:
        nonlocal count
        count += 1
        timer.arm(made.now_ns() + 1)

    timer = made.timer(tick)
    timer.arm(1)
    calls = 1
    while not made.advance_to(1000):
        calls += 1
    assert count == 1000
    assert calls > 2


def test_registers_are_met_in_aligned_pieces() -> None:
    space = AddressSpace("memory", 1 << 52)
    seen: list[tuple[int, int]] = []

    def read(offset: int, size: int) -> int:
        seen.append((offset, size))
        return int.from_bytes(bytes(range(offset, offset + size)), "little")

    space.add(IoRange(0x1000, 16, read, lambda offset, size, value: seen.append((offset, size)), name="r", max_width=4))
    memory = CpuMemory(None, space)
    assert memory.read(0xFFE, 20) == bytes(2) + bytes(range(16)) + bytes(2)
    assert seen == [(0, 4), (4, 4), (8, 4), (12, 4)]
    seen.clear()
    memory.write(0x1001, bytes(6))
    assert seen == [(1, 1), (2, 2), (4, 2), (6, 1)]
    assert memory.read((1 << 64) - 4, 8) == bytes(8)
