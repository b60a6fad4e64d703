# SPDX-License-Identifier: Apache-2.0
"""What breaks a virtio-blk request or finds a bug in this device; what breaks any ring is in tests/fuzz/test_rings.py.

Properties: the device comes back within a bound; memory outside the writable buffers, the used ring and the status
byte is unchanged (compared with a shadow copy); the device either goes on or asks for a reset; after a reset a
clean request succeeds.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.framework.virtqueue_driver import DESC_NEXT, DESC_WRITE, Buffer
from tests.unit.virtio_rig import DATA, HEADERS, IN, INDIRECT, OK, RAM_BYTES, RINGS, rig
from vmmd.devices.virtio.blk.worker import BlkWorker

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.framework.virtqueue_driver import DriverQueue
    from tests.unit.virtio_rig import Rig

SIZE = 16
BOUND_S = 5.0  # a stuck device, not a slow machine
NEEDS_RESET = 0x40
BAD_ADDRESSES = [RAM_BYTES - 1, RAM_BYTES, 0xE000_0000, 0xFEE0_0000, (1 << 63), (1 << 64) - 1, (1 << 64) - 512]


def desc(ring: DriverQueue, index: int, gpa: int, length: int, flags: int, following: int = 0) -> None:
    ring.write_desc(ring.desc, index, gpa, length, flags, following)


def good_chain(ring: DriverQueue) -> None:
    """Descriptors 0, 1, 2: a 512-byte read at DATA, status at DATA + 0x1000."""
    ring.memory.write(HEADERS, struct.pack("<IIQ", IN, 0, 0))
    desc(ring, 0, HEADERS, 16, DESC_NEXT, 1)
    desc(ring, 1, DATA, 512, DESC_NEXT | DESC_WRITE, 2)
    desc(ring, 2, DATA + 0x1000, 1, DESC_WRITE)


def edit(index: int, gpa: int | None, length: int, flags: int, following: int = 0) -> Callable[[DriverQueue], None]:
    def breaks(ring: DriverQueue) -> None:
        where = {0: HEADERS, 1: DATA, 2: DATA + 0x1000}[index] if gpa is None else gpa
        desc(ring, index, where, length, flags, following)
        ring.offer(0)

    return breaks


def twice(ring: DriverQueue) -> None:
    ring.offer(0)
    ring.offer(0)


NEXT, WRITE = DESC_NEXT, DESC_WRITE
BROKEN: dict[str, tuple[Callable[[DriverQueue], None], bool]] = {
    # name: (what is done, whether the device must ask for a reset)
    "no readable part": (edit(0, None, 16, NEXT | WRITE, 1), True),
    "nothing writable": (edit(0, None, 16, 0), True),
    "header too short": (edit(0, None, 15, NEXT, 1), True),
    "header of no bytes": (edit(0, None, 0, NEXT, 1), True),
    "status of length 0 takes the last data byte": (edit(2, None, 0, WRITE), False),
}
for address in BAD_ADDRESSES:
    BROKEN[f"header at {address:#x}"] = (edit(0, address, 16, NEXT, 1), True)
    BROKEN[f"data at {address:#x}"] = (edit(1, address, 512, NEXT | WRITE, 2), False)
    BROKEN[f"status at {address:#x}"] = (edit(2, address, 2 if address < RAM_BYTES else 1, WRITE), True)


def provoke(blk: Rig, ring: DriverQueue, breaks: Callable[[DriverQueue], None], allowed: list[tuple[int, int]]) -> None:
    """Do it, kick, and check bound and shadow. ``allowed``: (gpa, length) that may change."""
    breaks(ring)
    shadow = bytearray(blk.ram)
    start = time.monotonic()
    ring.notify()
    blk.loop.settle()
    assert time.monotonic() - start < BOUND_S
    now = bytearray(blk.ram)
    for gpa, length in [*allowed, (ring.used, 6 + 8 * ring.size)]:
        shadow[gpa : gpa + length] = now[gpa : gpa + length]
    assert now == shadow, "memory changed that the device was not given to write"


def works_after_reset(blk: Rig) -> None:
    blk.disk.data[:512] = b"k" * 512
    ring = blk.driver(size=SIZE).queues[0]
    assert blk.run(ring, IN, 0, 512, slot=3) == OK
    assert blk.data(512, slot=3) == b"k" * 512


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_ring_is_survived(name: str, modern: bool) -> None:
    breaks, asks_for_reset = BROKEN[name]
    with rig() as blk:
        driver = blk.driver(modern=modern, size=SIZE if modern else None)
        ring = driver.queues[0]
        good_chain(ring)
        allowed = [(DATA, 513), (DATA + 0x1000, 1)]
        provoke(blk, ring, breaks, allowed)
        if modern:
            assert bool(driver.status & NEEDS_RESET) == asks_for_reset
        assert blk.device.virtio.broken == asks_for_reset
        works_after_reset(blk)


def test_broken_device_interrupts_once_for_its_configuration() -> None:
    """virtio 1.2 §2.1.2: after DRIVER_OK the device sends a configuration change notification."""
    with rig() as blk:
        driver = blk.driver(size=SIZE)
        driver.queues[0].offer(0xFFFF)
        driver.queues[0].notify()
        blk.loop.settle()
        assert driver.isr == 3
        driver.queues[0].notify()
        blk.loop.settle()
        assert driver.isr == 0
        assert driver.status & 0x40


def test_bug_in_the_device_breaks_this_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(worker: BlkWorker, chains: object) -> None:
        raise ZeroDivisionError("a bug")

    with rig() as blk:
        driver = blk.driver(size=SIZE)
        with monkeypatch.context() as patched:
            patched.setattr(BlkWorker, "_submit", broken)
            good_chain(driver.queues[0])
            driver.queues[0].offer(0)
            for _ in range(3):
                driver.queues[0].notify()
                blk.loop.settle()
        assert driver.status & NEEDS_RESET
        works_after_reset(blk)


def test_two_heads_in_flight_that_are_one_ask_for_a_reset() -> None:
    with rig() as blk:
        driver = blk.driver(size=SIZE)
        blk.disk.hold = True
        good_chain(driver.queues[0])
        twice(driver.queues[0])
        driver.queues[0].notify()
        blk.loop.settle()
        assert driver.status & NEEDS_RESET
        blk.loop.call(blk.disk.complete)
        blk.disk.hold = False
        works_after_reset(blk)


def test_long_shared_chains_are_taken_a_bounded_number_a_turn() -> None:
    """Every head points into one chain as long as the queue: work a turn is bounded, and the loop is not held."""
    with rig(queue_size="1024") as blk:
        driver = blk.driver(size=1024)
        ring = driver.queues[0]
        for index in range(1023):
            desc(ring, index, DATA, 1, DESC_NEXT, index + 1)
        desc(ring, 1023, DATA, 1, DESC_WRITE)
        for index in range(512):
            ring.offer(index)
        turns: list[float] = []
        kick = blk.device.virtio.workers[0].ring.pop_batch

        class Timed:
            def __init__(self, inner: object) -> None:
                self.inner = inner

            def __getattr__(self, name: str) -> object:
                return getattr(self.inner, name)

            def pop_batch(self, limit: int) -> object:
                chains = kick(limit)
                turns.append(sum(map(len, chains)))
                return chains

        worker = blk.device.virtio.workers[0]
        worker.ring = Timed(worker.ring)  # type: ignore[assignment]
        ring.notify()
        blk.loop.settle()
        assert len(turns) > 10
        assert max(turns) <= 4096 + 2 * 1024 + 2
        worker.ring = worker.ring.inner  # type: ignore[attr-defined]
        assert not driver.status & NEEDS_RESET
        assert ring.memory.u16(ring.used + 2) == 512


WORD = st.integers(0, 0xFFFF) | st.integers(0, SIZE)
ADDRESS = st.sampled_from([HEADERS, DATA, DATA + 0x1000, INDIRECT, RINGS, *BAD_ADDRESSES])
LENGTH = st.sampled_from([0, 1, 15, 16, 17, 48, 64, 512, 513, 4096, 0xFFFF_FFFF])
DESCRIPTOR = st.tuples(ADDRESS, LENGTH, st.integers(0, 7), st.integers(0, SIZE))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    descriptors=st.lists(DESCRIPTOR, min_size=SIZE, max_size=SIZE),
    indirect=st.lists(DESCRIPTOR, min_size=4, max_size=4),
    heads=st.lists(st.integers(0, SIZE), min_size=1, max_size=SIZE),
    header=st.tuples(st.sampled_from([0, 1, 4, 8, 11, 13, 2, 77, 0x8000_0000]), st.integers(0, 600)),
    hold=st.booleans(),
)
def test_random_rings_never_touch_what_is_not_writable(
    descriptors: list[tuple[int, int, int, int]],
    indirect: list[tuple[int, int, int, int]],
    heads: list[int],
    header: tuple[int, int],
    hold: bool,
) -> None:
    with rig() as blk:
        driver = blk.driver(size=SIZE)
        ring = driver.queues[0]
        blk.disk.hold = hold
        blk.memory.write(HEADERS, struct.pack("<IIQ", header[0], 0, header[1]))

        def breaks(ring: DriverQueue) -> None:
            for index, entry in enumerate(indirect):
                ring.write_desc(INDIRECT, index, *entry)
            for index, entry in enumerate(descriptors):
                desc(ring, index, *entry)
            for each in heads:
                ring.offer(each)

        # everything that any descriptor calls writable
        allowed = [
            (gpa, length)
            for gpa, length, flags, _ in [*descriptors, *indirect]
            if flags & DESC_WRITE and gpa + length <= RAM_BYTES
        ]
        # a table read after an earlier request wrote over it holds anything
        rewritten = any(gpa <= at < gpa + length for gpa, length in allowed for at in (INDIRECT, RINGS))
        breaks(ring)
        shadow = bytearray(blk.ram)
        ring.notify()
        blk.loop.settle()
        blk.loop.call(blk.disk.complete)
        blk.loop.settle()
        if not rewritten:
            now = bytearray(blk.ram)
            for gpa, length in [*allowed, (ring.used, 6 + 8 * SIZE)]:
                shadow[gpa : gpa + length] = now[gpa : gpa + length]
            assert now == shadow
        blk.disk.hold = False
        works_after_reset(blk)


def test_oversized_request_is_refused_before_any_use() -> None:
    """65 × the same buffer, more than the device moves at once: answered, not executed."""
    with rig(queue_size="128") as blk:
        driver = blk.driver(size=128)
        ring = driver.queues[0]
        ring.memory.write(HEADERS, struct.pack("<IIQ", IN, 0, 0))
        head_ = ring.add([Buffer(HEADERS, 16)], [*[Buffer(0, RAM_BYTES)] * 65, Buffer(DATA + 0x1000, 1)])
        ring.kick()
        blk.loop.settle()
        assert [each for each, _ in ring.collect()] == [head_]
        assert blk.memory.u8(DATA + 0x1000) == 1
        assert not blk.disk.calls
