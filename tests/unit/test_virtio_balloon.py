# SPDX-License-Identifier: Apache-2.0
"""virtio-balloon through its registers and rings: pages, target, statistics; stop and reset with chains in hand."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.virtqueue_driver import Buffer, Driver
from tests.unit.fakes import FAKE_HVA, FakeBacking, make_context, props
from tests.unit.virtio_rig import FunctionRig
from vmmd.core.device import ResetKind
from vmmd.core.events import BalloonChangeEvent
from vmmd.core.memory import make_region
from vmmd.devices.virtio.balloon import worker
from vmmd.devices.virtio.balloon.device import (
    DEFLATE,
    F_PAGE_POISON,
    F_STATS_VQ,
    INFLATE,
    REPORTING,
    STATISTICS,
    UNKNOWN,
    VirtioBalloonPci,
)
from vmmd.devices.virtio.balloon.pages import STEP_BYTES, STEP_PFNS, runs
from vmmd.errors import UsageError
from vmmd.units import NS_PER_S, KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.props import Prop

RAM_BYTES = 4 * MiB
RINGS, LIST = 0x1_0000, 0x8_0000
FIRST = 0x100  # a page frame above all that the tests use
ALL = (1 << 64) - 1
NEEDS_RESET = 0x40


class Bench(FunctionRig):
    """The device and a driver with all its queues."""

    def __init__(self, features: int = ALL, *, page_bytes: int = 4 * KiB, modern: bool = True, **given: str) -> None:
        machine = make_context(RAM_BYTES)
        machine.backing.page_bytes = page_bytes
        super().__init__(VirtioBalloonPci, "balloon0", machine, **given)
        self.driver = Driver(self.registers, self.machine.memory, modern=modern)
        self.start(features)

    def start(self, features: int = ALL) -> None:
        self.driver.status = 0
        self.machine.loop.run()
        self.driver.negotiate(features)
        count = len(self.device.virtio.queues)
        self.rings = [self.driver.setup_queue(index, RINGS + 0x4000 * index) for index in range(count)]
        self.driver.ready()
        self.machine.loop.run()

    def send(self, queue: int, data: bytes, *, run: bool = True) -> None:
        self.machine.memory.write(LIST, data)
        self.rings[queue].add([Buffer(LIST, len(data))] if data else [], [])
        self.rings[queue].notify()
        if run:
            self.machine.loop.run()

    def pages(self, queue: int, *frames: int, run: bool = True) -> None:
        self.send(queue, struct.pack(f"<{len(frames)}I", *frames), run=run)

    def report(self, *ranges: tuple[int, int]) -> None:
        self.rings[REPORTING].add([], [Buffer(*each) for each in ranges])
        self.rings[REPORTING].notify()
        self.machine.loop.run()

    def statistics(self, *pairs: tuple[int, int], tail: bytes = b"") -> None:
        self.send(STATISTICS, b"".join(struct.pack("<HQ", *pair) for pair in pairs) + tail)

    def known(self) -> dict[str, int]:
        """The statistics that the guest has told."""
        stats: Any = self.device.virtio.guest_stats()["stats"]
        return {name: value for name, value in stats.items() if value != UNKNOWN}

    def back(self, queue: int) -> list[int]:
        """Bytes written of the chains that came back."""
        return [written for _, written in self.rings[queue].collect()]

    def gone(self) -> list[tuple[int, int]]:
        """(first frame, pages) of what the host got since the last call."""
        found = [(gpa >> 12, length >> 12) for gpa, length in self.machine.discarded()]
        self.machine.backing.discarded.clear()
        return found

    def poll_every(self, seconds: int) -> None:
        declared: Prop[Any] = self.device.props.declared["guest-stats-polling-interval"]
        self.device.change_property(declared, seconds)
        self.advance_s(0)

    def advance_s(self, seconds: float) -> None:
        self.advance(int(seconds * NS_PER_S))

    def target(self, left_bytes: int) -> None:
        with self.machine.lock:
            self.device.virtio.set_target(left_bytes)


# -- pages ---------------------------------------------------------------------------------------------------------


def test_pages_of_a_chain_are_given_back_in_ranges() -> None:
    bench = Bench()
    bench.pages(INFLATE, FIRST + 1, FIRST, FIRST + 5, FIRST + 2, FIRST + 5)
    assert bench.gone() == [(FIRST, 3), (FIRST + 5, 1)]
    assert bench.back(INFLATE) == [0]
    bench.pages(DEFLATE, FIRST, FIRST + 1)
    assert bench.gone() == []
    assert bench.back(DEFLATE) == [0]


def test_ranges_of_page_frames() -> None:
    assert list(runs([])) == []
    assert list(runs([0])) == [(0, 0x1000)]
    assert list(runs([3, 2, 7])) == [(0x2000, 0x2000), (0x7000, 0x1000)]
    assert list(runs([0xFFFF_FFFF])) == [(0xFFFF_FFFF << 12, 0x1000)]


def test_what_is_not_ram_is_left_out() -> None:
    bench = Bench()
    end = RAM_BYTES >> 12
    bench.pages(INFLATE, end, 0xFFFF_FFFF, 0xFEE00, end - 1)
    assert bench.gone() == [(end - 1, 1)]
    assert bench.back(INFLATE) == [0]


def test_numbers_may_be_split_over_buffers_and_a_part_of_one_is_none() -> None:
    bench = Bench()
    bench.machine.memory.write(LIST, struct.pack("<IIH", FIRST, FIRST + 9, FIRST))
    bench.rings[INFLATE].add([Buffer(LIST, 3), Buffer(LIST + 3, 2), Buffer(LIST + 5, 5)], [])
    bench.rings[INFLATE].notify()
    bench.machine.loop.run()
    assert bench.gone() == [(FIRST, 1), (FIRST + 9, 1)]


def test_a_list_that_is_not_in_ram_asks_for_a_reset() -> None:
    bench = Bench()
    bench.rings[INFLATE].add([Buffer(RAM_BYTES - 4, 8)], [])
    bench.rings[INFLATE].notify()
    bench.machine.loop.run()
    assert bench.driver.status & NEEDS_RESET
    bench.start()
    bench.pages(INFLATE, FIRST)
    assert bench.gone() == [(FIRST, 1)]


def test_a_chain_names_no_more_pages_than_there_are() -> None:
    """A chain can describe much more than RAM: its work is bounded."""
    bench = Bench()
    for _ in range(8):
        bench.rings[INFLATE].add([Buffer(0, RAM_BYTES)] * 16, [])
    bench.rings[INFLATE].notify()
    turns = 0
    while bench.machine.loop.pending:
        callback, arguments = bench.machine.loop.pending.pop(0)
        callback(*arguments)
        turns += 1
    assert bench.back(INFLATE) == [0] * 8
    assert turns <= 8 * ((RAM_BYTES >> 12) // STEP_PFNS + RAM_BYTES // STEP_BYTES + 2)


def test_the_work_is_cut_into_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is up after every step: so many turns as steps, and everything is done in the end."""
    bench = Bench()
    now = iter(range(0, 10**15, worker.TURN_NS - 1))  # one step a turn
    monkeypatch.setattr(worker, "monotonic_ns", lambda: next(now))
    pages = 2 * STEP_BYTES >> 12
    bench.pages(INFLATE, *range(FIRST, FIRST + pages), run=False)
    seen = [len(bench.machine.backing.discarded)]
    while bench.machine.loop.pending:
        callback, arguments = bench.machine.loop.pending.pop(0)
        callback(*arguments)
        seen.append(len(bench.machine.backing.discarded))
    assert seen[0] == 1
    assert seen[-1] == 2
    assert bench.back(INFLATE) == [0]


def test_larger_host_pages_go_when_all_of_them_is_in_the_balloon(capfd: pytest.CaptureFixture[str]) -> None:
    bench = Bench(page_bytes=16 * KiB)
    bench.pages(INFLATE, FIRST, FIRST + 1, FIRST + 2)
    assert bench.gone() == []
    bench.pages(INFLATE, FIRST + 3, FIRST + 4)
    assert bench.gone() == [(FIRST, 4)]
    bench.pages(DEFLATE, FIRST + 1)
    bench.pages(INFLATE, FIRST + 1, FIRST + 5, FIRST + 6)
    assert bench.gone() == [(FIRST, 4)]
    bench.pages(DEFLATE, FIRST + 4)
    bench.pages(INFLATE, FIRST + 7)
    assert bench.gone() == []
    assert capfd.readouterr().err.count("larger than the guest's") == 1
    bench.start()  # a new driver starts with an empty balloon
    bench.pages(INFLATE, FIRST + 4)
    assert bench.gone() == []


def test_reported_ranges_are_given_back_whole_pages_only() -> None:
    bench = Bench(free_page_reporting="on")
    bench.report((FIRST << 12, 0x3000), ((FIRST + 8 << 12) + 0x800, 0x2000), (FIRST + 16 << 12, 0x800))
    assert bench.gone() == [(FIRST, 3), (FIRST + 9, 1)]
    assert bench.back(REPORTING) == [0]
    bench.report((FIRST << 12, 2 * STEP_BYTES), (RAM_BYTES - 0x1000, 0x2000), (1 << 63, 0x1000))
    assert bench.gone() == [(FIRST, STEP_BYTES >> 12), (FIRST + (STEP_BYTES >> 12), STEP_BYTES >> 12), (0x3FF, 1)]


def test_reported_pages_that_the_guest_has_filled_stay() -> None:
    bench = Bench(free_page_reporting="on")
    bench.driver.write_config(12, 4, 0xAAAA_AAAA)
    bench.report((FIRST << 12, 0x1000))
    assert bench.gone() == []
    assert bench.back(REPORTING) == [0]
    bench.start(ALL & ~F_PAGE_POISON)
    bench.driver.write_config(12, 4, 0xAAAA_AAAA)
    assert bench.driver.config(12, 4) == 0
    bench.report((FIRST << 12, 0x1000))
    assert bench.gone() == [(FIRST, 1)]


def test_pinned_memory_stays_and_the_log_says_so_once(capfd: pytest.CaptureFixture[str]) -> None:
    bench = Bench()
    release = bench.machine.memory.pin("a test wants it")
    for _ in range(3):
        bench.pages(INFLATE, FIRST)
    assert bench.gone() == []
    assert bench.back(INFLATE) == [0] * 3
    assert capfd.readouterr().err.count("a test wants it") == 1
    release()
    bench.pages(INFLATE, FIRST)
    assert bench.gone() == [(FIRST, 1)]


def test_a_host_that_cannot_take_memory_back_is_logged_once(capfd: pytest.CaptureFixture[str]) -> None:
    bench = Bench()
    bench.machine.backing.error = OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    for _ in range(3):
        bench.pages(INFLATE, FIRST, FIRST + 2)
    assert bench.back(INFLATE) == [0] * 3
    assert capfd.readouterr().err.count("cannot be given back") == 1


def test_memory_of_several_regions() -> None:
    bench = Bench()
    other = FakeBacking()
    high = make_region(RAM_BYTES, memoryview(bytearray(0x2000)), FAKE_HVA + (1 << 32), "high", backing=other)
    bench.machine.memory.publish([*bench.machine.memory.regions, high])
    end = RAM_BYTES >> 12
    bench.pages(INFLATE, end - 1, end, end + 1, end + 2)
    assert bench.gone() == [(end - 1, 1)]
    assert other.discarded == [(high.hva, 0x2000)]


def test_a_stopped_machine_does_nothing_and_goes_on_later() -> None:
    bench = Bench()
    bench.stop_vm()
    bench.pages(INFLATE, FIRST)
    assert bench.gone() == []
    bench.resume_vm()
    assert bench.gone() == [(FIRST, 1)]
    assert bench.back(INFLATE) == [0]


@pytest.mark.parametrize("how", ["bus mastering", "reset"])
def test_a_chain_in_hand_is_taken_again_or_forgotten(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    now = iter(range(0, 10**15, worker.TURN_NS - 1))
    monkeypatch.setattr(worker, "monotonic_ns", lambda: next(now))
    bench.pages(INFLATE, FIRST, FIRST + 2, run=False)
    assert bench.gone() == [(FIRST, 1)]
    if how == "reset":
        with bench.machine.lock:
            bench.device.reset(ResetKind.COLD)
        bench.machine.loop.run()
        assert bench.gone() == []
        return
    registers = bench.driver.registers
    command = registers.config_read(4, 2)
    registers.config_write(4, 2, command & ~4)
    bench.machine.loop.run()
    registers.config_write(4, 2, command)
    bench.machine.loop.run()
    assert bench.gone()[-2:] == [(FIRST, 1), (FIRST + 2, 1)]  # once more: the guest has not got them back
    assert bench.back(INFLATE) == [0]


# -- target and actual ---------------------------------------------------------------------------------------------


def test_the_target_is_told_with_an_interrupt() -> None:
    bench = Bench()
    bench.target(RAM_BYTES - 0x5000)
    assert bench.driver.isr & 2
    assert bench.driver.config(0, 4) == 5
    bench.target(RAM_BYTES * 2)
    assert bench.driver.config(0, 4) == 0
    bench.target(1)
    assert bench.driver.config(0, 4) == (RAM_BYTES >> 12) - 1
    bench.driver.write_config(0, 4, 7)  # the guest's wish does not count
    assert bench.driver.config(0, 4) == (RAM_BYTES >> 12) - 1


def test_what_the_guest_says_is_an_event_when_it_changes() -> None:
    bench = Bench()
    events = bench.machine.events
    bench.driver.write_config(4, 4, 0x10)
    bench.driver.write_config(4, 4, 0x10)
    bench.driver.write_config(4, 1, 0x20)
    bench.driver.write_config(4, 4, 0xFFFF_FFFF)
    assert events.of(BalloonChangeEvent) == [(RAM_BYTES - 0x1_0000,), (RAM_BYTES - 0x2_0000,), (0,)]
    bench.driver.write_config(4, 4, 0x10)
    assert bench.device.virtio.actual_bytes == RAM_BYTES - 0x1_0000


@pytest.mark.parametrize(
    ("given", "length"),
    [({}, 16), ({"page_poison": "off"}, 8), ({"page_poison": "off", "qemu_4_0_config_size": "on"}, 16)],
)
@pytest.mark.parametrize("modern", [True, False])
def test_configuration_ends_where_it_ends(given: dict[str, str], length: int, modern: bool) -> None:
    bench = Bench(modern=modern, **given)
    assert [bench.driver.config(at, 1) for at in range(18)] == [0] * length + [0xFF] * (18 - length)
    assert bench.driver.config(length - 2, 4) == 0xFFFF_0000
    bench.driver.write_config(length - 2, 4, 0xFFFF_0000)  # the part that is there


def test_reset_keeps_what_the_host_knows() -> None:
    """QEMU-COMPAT: target and actual stay, until the guest says otherwise."""
    bench = Bench()
    bench.target(RAM_BYTES - 0x3000)
    bench.driver.write_config(4, 4, 2)
    bench.driver.write_config(12, 4, 9)
    bench.statistics((4, 77))
    with bench.machine.lock:
        bench.device.reset(ResetKind.COLD)
    bench.driver.registers.map_bars()
    assert [bench.driver.config(at, 4) for at in (0, 4, 8, 12)] == [3, 2, 0, 0]
    assert bench.known() == {"stat-free-memory": 77}


def test_only_one_balloon_fits_into_a_machine() -> None:
    bench = Bench()
    other = VirtioBalloonPci(props(VirtioBalloonPci), bench.machine.ctx, "b1")
    other.bus = bench.device.bus
    with bench.machine.lock:
        with pytest.raises(UsageError, match="Only one balloon device is supported"):
            other.plug()
        assert bench.machine.ctx.balloon.device is bench.device.virtio
        bench.device.unrealize()
        assert bench.machine.ctx.balloon.device is None
        other.plug()


@pytest.mark.parametrize("given", [{"free_page_hint": "on"}, {"iothread": "t0"}])
def test_what_is_not_there_is_refused_by_name(given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=f"'{next(iter(given)).replace('_', '-')}' is not available"):
        Bench(**given)


# -- statistics ----------------------------------------------------------------------------------------------------


def test_statistics_are_kept_and_the_buffer_too() -> None:
    bench = Bench()
    assert bench.known() == {}
    assert bench.device.virtio.guest_stats()["last-update"] == 0
    bench.statistics((4, 1), (5, 1 << 63), (9, 3), (10, 4), (0xFFFF, 5), (4, 6), tail=b"\0\0\0")
    assert bench.known() == {"stat-free-memory": 6, "stat-total-memory": 1 << 63, "stat-htlb-pgfail": 3}
    assert bench.device.virtio.guest_stats()["last-update"] == 1_700_000_000
    assert bench.back(STATISTICS) == []
    bench.statistics((0, 8))  # one more than there may be: the first goes back
    assert bench.known() == {"stat-swap-in": 8}
    assert bench.back(STATISTICS) == [0]


def test_polling_begins_at_once_and_goes_on_when_the_guest_has_answered() -> None:
    bench = Bench()
    bench.statistics((4, 1))
    bench.poll_every(2)
    assert bench.back(STATISTICS) == [0]
    bench.advance_s(100)  # it does not answer, and is not asked again
    assert bench.back(STATISTICS) == []
    bench.statistics((4, 2))
    bench.advance_s(1.999)
    assert bench.back(STATISTICS) == []
    bench.advance_s(0.001)
    assert bench.back(STATISTICS) == [0]


def test_polling_waits_for_a_buffer() -> None:
    bench = Bench()
    bench.poll_every(2)
    bench.advance_s(5)
    bench.statistics((4, 1))
    bench.advance_s(1.5)
    assert bench.back(STATISTICS) == []
    bench.advance_s(0.5)
    assert bench.back(STATISTICS) == [0]


def test_another_interval_counts_from_when_it_is_set() -> None:
    bench = Bench()
    bench.poll_every(5)
    bench.statistics((4, 1))
    bench.advance_s(4)
    bench.poll_every(3)
    bench.advance_s(2)
    bench.poll_every(3)  # the same: nothing changes
    assert bench.back(STATISTICS) == []
    bench.advance_s(1)
    assert bench.back(STATISTICS) == [0]
    bench.statistics((4, 1))
    bench.poll_every(0)
    bench.advance_s(100)
    assert bench.back(STATISTICS) == []


def test_a_driver_without_the_feature_is_not_asked() -> None:
    bench = Bench(ALL & ~F_STATS_VQ)
    bench.statistics((4, 1))
    bench.poll_every(1)
    bench.advance_s(5)
    assert bench.back(STATISTICS) == []
    assert bench.known() == {"stat-free-memory": 1}


def test_a_poll_that_is_due_when_the_machine_stops_is_made_when_it_runs() -> None:
    bench = Bench()
    bench.statistics((4, 1))
    bench.poll_every(0)
    bench.stop_vm()
    bench.poll_every(1)
    assert bench.back(STATISTICS) == []
    bench.resume_vm()
    assert bench.back(STATISTICS) == [0]


def test_polling_survives_a_reset() -> None:
    bench = Bench(guest_stats_polling_interval="2")
    bench.statistics((4, 1))
    with bench.machine.lock:
        bench.device.reset(ResetKind.COLD)
    bench.driver.registers.map_bars()
    bench.advance_s(3)
    bench.start()
    bench.statistics((4, 2))
    bench.advance_s(2)
    assert bench.back(STATISTICS) == [0]


def test_buffers_without_end_do_not_keep_the_loop() -> None:
    bench = Bench()
    for _ in range(3 * worker.TURN_BUFFERS):
        bench.rings[STATISTICS].add([Buffer(LIST, 20)], [])
    bench.rings[STATISTICS].notify()
    assert len(bench.back(STATISTICS)) == worker.TURN_BUFFERS - 1  # the last stays
    bench.machine.loop.run()
    assert len(bench.back(STATISTICS)) == 2 * worker.TURN_BUFFERS


@pytest.mark.parametrize("buffers", [[Buffer(RAM_BYTES - 8, 20)], [Buffer(RAM_BYTES, 1 << 31)] * 2])
def test_statistics_that_are_not_in_ram_ask_for_a_reset(buffers: Sequence[Buffer]) -> None:
    bench = Bench()
    bench.rings[STATISTICS].add(buffers, [])
    bench.rings[STATISTICS].notify()
    bench.machine.loop.run()
    assert bench.driver.status & NEEDS_RESET


@pytest.mark.parametrize(
    ("seconds", "sentence"), [(-1, "timer value must be greater than zero"), (1 << 32, "timer value is too big")]
)
def test_wrong_intervals_are_refused(seconds: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Bench(guest_stats_polling_interval=str(seconds))
    bench = Bench()
    with pytest.raises(UsageError, match=sentence):
        bench.poll_every(seconds)
    assert bench.device.props.guest_stats_polling_interval == 0
