# SPDX-License-Identifier: Apache-2.0
"""virtio-blk from the driver's side: every kind of request over both interfaces, interrupts, errors, life cycle."""

from __future__ import annotations

import errno
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework.virtio_function import MODERN_BASE
from tests.framework.virtqueue_driver import F_EVENT_IDX, F_INDIRECT, F_RING_RESET, Buffer, Driver
from tests.unit.virtio_rig import (
    DATA,
    DISCARD,
    FLUSH,
    FULL,
    GET_ID,
    HEADERS,
    IN,
    INDIRECT,
    IOERR,
    NOT_ANSWERED,
    OK,
    OUT,
    RINGS,
    SCSI,
    UNSUPP,
    WRITE_ZEROES,
    Rig,
    rig,
)
from vmmd.core.events import BlockIoErrorEvent
from vmmd.core.memory import make_region
from vmmd.devices.pci.intx import pirq_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.devices.pci.msix import Msix

BOTH = pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
PATTERN = bytes(range(256)) * 16  # 4 KiB


@pytest.fixture
def blk() -> Iterator[Rig]:
    with rig(serial="SER-0123456789-ABCDEF-too-long", num_queues="1") as made:
        yield made


@BOTH
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event-idx"])
def test_write_then_read_gives_the_data_back(blk: Rig, modern: bool, indirect: bool, event_idx: bool) -> None:
    features = FULL if event_idx else FULL & ~F_EVENT_IDX
    ring = blk.driver(modern=modern, features=features).queues[0]
    for index in range(300):  # more than the ring's size: indices wrap
        sector = 8 * (index % 16)
        assert blk.run(ring, OUT, sector, PATTERN[index % 256 :] + PATTERN[: index % 256], indirect=indirect) == OK
    assert blk.disk.data[: 4096 * 16].count(b"\xff") == 256
    assert blk.run(ring, IN, 8 * (299 % 16), 4096, indirect=indirect) == OK
    assert blk.data(4096) == PATTERN[299 % 256 :] + PATTERN[: 299 % 256]
    assert blk.drive.stats.wr_ops == 300
    assert blk.drive.stats.wr_bytes == 300 * 4096
    assert blk.drive.stats.rd_bytes == 4096
    assert blk.drive.stats.wr_highest_offset == 16 * 4096
    assert blk.drive.stats.rd_ns > 0


@BOTH
def test_used_length_counts_what_was_written(blk: Rig, modern: bool) -> None:
    ring = blk.driver(modern=modern).queues[0]
    head_in, head_out = blk.request(ring, IN, 0, 512), blk.request(ring, OUT, 0, b"x" * 512, slot=1)
    ring.kick()
    blk.loop.settle()
    assert ring.collect() == [(head_in, 513), (head_out, 1)]


def test_other_kinds_are_answered(blk: Rig) -> None:
    ring = blk.driver().queues[0]
    blk.disk.data[:1024] = b"a" * 1024
    assert blk.run(ring, FLUSH) == OK
    assert blk.run(ring, GET_ID, 0, 20) == OK
    assert blk.data(20) == b"SER-0123456789-ABCDE"
    assert blk.run(ring, SCSI, 0, 64) == UNSUPP
    assert blk.run(ring, 99) == UNSUPP
    assert blk.run(ring, DISCARD, 0, struct.pack("<QII", 8, 16, 0)) == OK
    assert blk.run(ring, WRITE_ZEROES, 0, struct.pack("<QII", 1, 1, 1)) == OK
    assert blk.disk.data[:1024] == b"a" * 512 + bytes(512)
    assert [call for call in blk.disk.calls if call[0] != "read"] == [
        ("flush",), ("discard", 4096, 8192), ("zero", 512, 512, True),
    ]  # fmt: skip
    assert (blk.drive.stats.flush_ops, blk.drive.stats.unmap_ops, blk.drive.stats.unmap_bytes) == (1, 1, 8192)


LAST = 256 * 1024 // 512


@pytest.mark.parametrize(
    ("kind", "sector", "data", "answer"),
    [
        (IN, LAST - 1, 1024, IOERR),  # over the end
        (IN, LAST, 512, IOERR),
        (IN, 0xFFFF_FFFF_FFFF_FFFF, 512, IOERR),  # would wrap in 64 bits
        (OUT, LAST - 1, b"x" * 1024, IOERR),
        (IN, 0, 100, IOERR),  # no whole sectors
        (OUT, 0, b"x" * 513, IOERR),
        (IN, 0, b"x" * 512, IOERR),  # a read into a readable buffer
        (OUT, 0, 512, IOERR),
        (IN, 0, 0, OK),
        (DISCARD, 0, struct.pack("<QII", LAST, 1, 0), IOERR),
        (DISCARD, 0, struct.pack("<QII", 0, 0xFFFF_FFFF, 0), IOERR),
        (DISCARD, 0, struct.pack("<QII", 0, 1, 1), UNSUPP),  # unmap flag is of write-zeroes only
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 2), UNSUPP),
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 0) * 2, UNSUPP),  # one segment is offered
        (WRITE_ZEROES, 0, b"short", IOERR),
        (WRITE_ZEROES, 0, struct.pack("<QII", 0, 0, 0), OK),
    ],
)
def test_bad_request_is_answered_and_not_executed(
    blk: Rig, kind: int, sector: int, data: bytes | int, answer: int
) -> None:
    ring = blk.driver().queues[0]
    before = bytes(blk.disk.data)
    assert blk.run(ring, kind, sector, data) == answer
    assert not blk.disk.calls
    assert blk.disk.data == before
    blk.disk.data[:512] = b"z" * 512
    assert blk.run(ring, IN, 0, 512) == OK
    assert blk.data(512) == b"z" * 512


def test_read_only_disk_refuses_every_change() -> None:
    blk = Rig()
    blk.disk.read_only = True
    ring = blk.plug().driver().queues[0]
    assert blk.device.virtio.offered & 1 << 5
    assert blk.run(ring, OUT, 0, b"x" * 512) == IOERR
    assert blk.run(ring, WRITE_ZEROES, 0, struct.pack("<QII", 0, 1, 0)) == IOERR
    assert blk.run(ring, DISCARD, 0, struct.pack("<QII", 0, 1, 0)) == IOERR
    assert blk.run(ring, IN, 0, 512) == OK
    assert not [call for call in blk.disk.calls if call[0] != "read"]
    blk.close()


def test_rings_headers_and_data_may_lie_in_different_regions() -> None:
    """RAM below and above the 4 GiB hole; one buffer runs over a seam between two regions that touch."""
    blk = Rig()
    high = 1 << 32
    extra = [bytearray(1 << 20), bytearray(1 << 20)]
    regions = [make_region(high + (index << 20), memoryview(each), 0, "high") for index, each in enumerate(extra)]
    blk.memory.publish([*blk.memory.regions, *regions])
    driver = Driver(blk.plug().registers, blk.memory, modern=True)
    driver.negotiate(FULL)
    ring = driver.setup_queue(0, high + 0x2000)
    driver.ready()
    seam = high + (1 << 20) - 1000
    for turn, (header, data, status) in enumerate(
        [(HEADERS, high + 0x8000, HEADERS + 64), (high + 0x9000, DATA, high + 0x9100), (HEADERS, seam, high + 0x9100)]
        * 2
    ):
        blk.disk.data[:4096] = bytes([turn + 1]) * 4096
        blk.memory.write(header, struct.pack("<IIQ", IN, 0, 0))
        table = (INDIRECT, high + 0xA000)[turn % 2]
        ring.add([Buffer(header, 16)], [Buffer(data, 4096), Buffer(status, 1)], table if turn < 3 else None)
        ring.kick()
        blk.loop.settle()
        assert len(ring.collect()) == 1
        assert blk.memory.u8(status) == OK
        assert blk.memory.read(data, 4096) == bytes([turn + 1]) * 4096
    blk.close()


@BOTH
def test_any_layout_is_understood(blk: Rig, modern: bool) -> None:
    """Header in three pieces, data in five with an empty one, status behind data in one buffer (virtio 1.2 §2.7.4)."""
    ring = blk.driver(modern=modern).queues[0]
    blk.disk.data[512:1536] = PATTERN[:1024]
    blk.memory.write(HEADERS + 1, struct.pack("<IIQ", IN, 0, 1))
    readable = [Buffer(HEADERS + 1, 3), Buffer(HEADERS + 4, 5), Buffer(HEADERS + 9, 8)]
    writable = [Buffer(DATA, 100), Buffer(DATA + 100, 0), Buffer(DATA + 300, 900), Buffer(DATA + 2000, 25)]
    head = ring.add(readable, writable)
    ring.kick()
    blk.loop.settle()
    assert ring.collect() == [(head, 1025)]
    got = blk.memory.read(DATA, 100) + blk.memory.read(DATA + 300, 900) + blk.memory.read(DATA + 2000, 24)
    assert got == PATTERN[:1024]
    assert blk.memory.u8(DATA + 2024) == OK


def test_direct_descriptors_may_precede_an_indirect_one(blk: Rig) -> None:
    """virtio 1.2 §2.7.5.3.2."""
    ring = blk.driver().queues[0]
    blk.memory.write(HEADERS, struct.pack("<IIQ", IN, 0, 0))
    ring.write_desc(ring.desc, 0, HEADERS, 16, 1, 1)
    ring.write_desc(ring.desc, 1, 0x40008, 32, 4)  # only 8-byte aligned
    ring.write_desc(0x40008, 0, DATA, 512, 3, 1)
    ring.write_desc(0x40008, 1, DATA + 512, 1, 2)
    ring.chains[0] = [0, 1]
    ring.offer(0)
    ring.kick()
    blk.loop.settle()
    assert ring.collect() == [(0, 513)]
    assert blk.memory.u8(DATA + 512) == OK


def test_sequential_requests_are_merged_and_each_answered(blk: Rig) -> None:
    ring = blk.driver().queues[0]
    blk.disk.hold = True
    for slot in range(8):
        blk.request(ring, OUT, slot, bytes([slot]) * 512, slot=slot, indirect=slot % 2 == 0)
    ring.kick()
    blk.loop.settle()
    assert blk.disk.calls == [("write", 0, 8 * 512)]
    blk.loop.call(blk.disk.complete)
    blk.loop.settle()
    assert len(ring.collect()) == 8
    assert [blk.status(slot) for slot in range(8)] == [OK] * 8
    assert bytes(blk.disk.data[:4096]) == b"".join(bytes([slot]) * 512 for slot in range(8))
    assert blk.drive.stats.wr_merged == 7
    assert blk.drive.stats.wr_ops == 8


def test_merging_can_be_switched_off() -> None:
    with rig(request_merging="off") as blk:
        ring = blk.driver().queues[0]
        blk.disk.hold = True
        for slot in range(3):
            blk.request(ring, IN, slot, 512, slot=slot)
        ring.kick()
        blk.loop.settle()
        assert blk.disk.calls == [("read", 0, 512), ("read", 512, 512), ("read", 1024, 512)]
        blk.loop.call(blk.disk.complete)


# -- interrupts and notifications ----------------------------------------------------------------------------


@BOTH
def test_intx_sets_isr_and_raises_the_pin_until_isr_is_read(blk: Rig, modern: bool) -> None:
    driver = blk.driver(modern=modern, features=FULL & ~F_EVENT_IDX)
    assert blk.device.intx.level == 0
    blk.run(driver.queues[0], IN, 0, 512)
    assert blk.device.intx.level == 1
    assert driver.isr == 1
    assert blk.device.intx.level == 0
    assert driver.isr == 0


@BOTH
def test_no_interrupt_flag_is_honoured(blk: Rig, modern: bool) -> None:
    driver = blk.driver(modern=modern, features=FULL & ~F_EVENT_IDX)
    driver.queues[0].set_no_interrupt(True)
    blk.run(driver.queues[0], IN, 0, 512)
    assert driver.isr == 0


@BOTH
def test_msix_sends_the_queues_vector(blk: Rig, modern: bool) -> None:
    driver = blk.driver(modern=modern, msix=True, features=FULL & ~F_EVENT_IDX)
    blk.run(driver.queues[0], IN, 0, 512)
    assert blk.machine.interrupts.messages == [(0xFEE00000, 0x41)]
    assert blk.device.intx.level == 0


def test_enabling_msix_takes_the_pin_down(blk: Rig) -> None:
    """PCI 3.0 §6.8.3.3: a function whose MSI-X is enabled does not use INTx."""
    driver = blk.driver()
    assert blk.run(driver.queues[0], IN, 0, 512) == OK
    assert blk.device.bus.pirqs.level(pirq_of(blk.device.slot, 0)) == 1
    blk.registers.enable_msix(2)
    assert blk.device.bus.pirqs.level(pirq_of(blk.device.slot, 0)) == 0
    assert driver.isr == 1


def test_interrupt_that_meets_the_switching_of_msix_is_not_lost(blk: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has looked whether MSI-X is on, then a vCPU switches it."""
    driver = blk.driver(msix=True)
    msix = blk.device.msix
    assert msix is not None
    control = msix.capability + 2
    original = type(msix).notify

    def switched_off_first(self: Msix, vector: int) -> bool:
        with blk.machine.lock:
            blk.device.config_write(control, 2, 0)
        return original(self, vector)

    monkeypatch.setattr(type(msix), "notify", switched_off_first)
    assert blk.run(driver.queues[0], IN, 0, 512) == OK
    monkeypatch.undo()
    assert blk.device.bus.pirqs.level(pirq_of(blk.device.slot, 0)) == 1
    assert driver.isr == 1


def test_vector_ffff_means_silence_and_bad_vectors_read_ffff(blk: Rig) -> None:
    driver = blk.driver(msix=True, features=FULL & ~F_EVENT_IDX)
    driver.put(0x1A, 2, 0xFFFF)
    blk.run(driver.queues[0], IN, 0, 512)
    assert blk.machine.interrupts.messages == []
    for register in (0x10, 0x1A):
        driver.put(register, 2, 2)
        assert driver.get(register, 2) == 0xFFFF
        driver.put(register, 2, 1)
        assert driver.get(register, 2) == 1


def test_event_idx_interrupts_once_for_a_batch_and_only_when_passed(blk: Rig) -> None:
    driver = blk.driver(msix=True)
    ring = driver.queues[0]
    ring.interrupt_at(3)  # tell me when the used index goes beyond 3
    for slot in range(3):
        blk.run(ring, IN, 0, 512, slot=slot)
    assert blk.machine.interrupts.messages == []
    for slot in range(4):
        blk.request(ring, IN, 0, 512, slot=slot)
    ring.kick()
    blk.loop.settle()
    assert len(blk.machine.interrupts.messages) == 1


def test_device_asks_for_a_kick_by_event_index_and_by_flag(blk: Rig) -> None:
    for features in (FULL, FULL & ~F_EVENT_IDX):
        ring = blk.driver(features=features).queues[0]
        for _ in range(3):
            blk.request(ring, IN, 0, 512)
            assert ring.kick(), "an idle device wants to be told"
            blk.loop.settle()
            assert ring.collect()


def test_kick_before_the_device_looked_is_not_lost(blk: Rig) -> None:
    """Requests added without a kick while the device is busy are found by the look after enabling notifications."""
    ring = blk.driver().queues[0]
    done = 0
    for index in range(200):
        blk.request(ring, IN, 0, 512, slot=index % 8)
        ring.kick()
        if index % 7 == 0:
            blk.loop.settle()
        done += len(ring.collect())
        while not ring.free[2:]:
            done += len(ring.collect())
    blk.loop.settle()
    assert done + len(ring.collect()) == 200


def test_kicks_by_exits_do_not_pile_up_while_the_loop_is_busy() -> None:
    with rig(ioeventfd="off", num_queues="1") as blk:
        driver = blk.driver()
        busy = threading.Event()
        blk.loop.post(busy.wait)
        blk.request(driver.queues[0], IN, 0, 512)
        for _ in range(1000):
            driver.put(0x3000, 2, 0)
        assert blk.loop._queue.qsize() <= 2
        busy.set()
        blk.loop.settle()
        assert blk.status() == OK


@BOTH
def test_ioeventfd_off_serves_kicks_by_exits(modern: bool) -> None:
    with rig(ioeventfd="off") as blk:
        ring = blk.driver(modern=modern).queues[0]
        assert not blk.doorbells.attached
        assert blk.run(ring, OUT, 0, b"e" * 512) == OK


@BOTH
def test_doorbells_follow_a_moved_bar(blk: Rig, modern: bool) -> None:
    driver = blk.driver(modern=modern)
    (before,) = blk.doorbells.attached
    register, base = (0x20, 0xE200_0000) if modern else (0x10, 0xD000)
    blk.registers.config_write(register, 4, base)
    (after,) = blk.doorbells.attached
    assert after == (before[0], before[1] - (MODERN_BASE if modern else 0xC000) + base, before[2])
    blk.request(driver.queues[0], IN, 0, 512)
    space = blk.machine.mmio if modern else blk.machine.pio
    blk.registers.write(space, base + (0x3000 if modern else 0x10), 2, 0)
    blk.loop.settle()
    assert driver.queues[0].collect()
    blk.registers.config_write(4, 2, 4)  # decoding off: no doorbell at an address that is not ours
    assert not blk.doorbells.attached


@BOTH
def test_several_queues_work_side_by_side(modern: bool) -> None:
    with rig(num_queues="3") as blk:
        driver = blk.driver(modern=modern, msix=True, queues=3, features=FULL & ~F_EVENT_IDX | 1 << 12)
        assert driver.features & 1 << 12
        blk.disk.hold = True
        for index, ring in enumerate(driver.queues):
            blk.request(ring, OUT, 8 * index, bytes([65 + index]) * 512, slot=index)
            ring.kick()
        blk.loop.settle()
        blk.loop.call(blk.disk.complete, lambda held: held[::-1])
        blk.loop.settle()
        assert [len(ring.collect()) for ring in driver.queues] == [1, 1, 1]
        assert [data for _, data in blk.machine.interrupts.messages] == [0x43, 0x42, 0x41]
        assert [blk.disk.data[4096 * index] for index in range(3)] == [65, 66, 67]


def test_num_queues_auto_is_one_a_vcpu() -> None:
    with rig(vcpus=4) as blk:
        driver = Driver(blk.registers, blk.memory, modern=True)
        assert driver.get(0x12, 2) == 4
        assert driver.config(0x22, 2) == 4
        assert blk.device.msix is not None
        assert blk.device.msix.vectors == 5


# -- reset, stop, errors -------------------------------------------------------------------------------------


@BOTH
def test_reset_waits_for_requests_in_flight(blk: Rig, modern: bool) -> None:
    driver = blk.driver(modern=modern)
    blk.disk.hold = True
    blk.request(driver.queues[0], IN, 0, 4096)
    driver.queues[0].kick()
    blk.loop.settle()
    status_while_waiting: list[int] = []

    def finish_io() -> None:
        time.sleep(0.05)  # the vCPU is in its write of 0 by now
        status_while_waiting.append(driver.status)
        blk.loop.post(blk.disk.complete)

    helper = threading.Thread(target=finish_io)
    helper.start()
    driver.status = 0
    helper.join()
    assert status_while_waiting[0] & 4, "status read 0 while a request could still write to memory"
    assert driver.status == 0
    assert not blk.doorbells.attached
    shadow = bytes(blk.ram)
    blk.loop.settle()
    assert blk.ram == shadow
    blk.disk.hold = False
    assert blk.run(blk.driver(modern=modern).queues[0], IN, 0, 512) == OK


def test_reset_that_takes_too_long_completes_by_itself(blk: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmmd.devices.virtio.device.DRAIN_TIMEOUT_S", 0.05)
    driver = blk.driver()
    blk.disk.hold = True
    blk.request(driver.queues[0], IN, 0, 512)
    driver.queues[0].kick()
    blk.loop.settle()
    driver.status = 0
    assert driver.status == 15
    driver.status = 1  # ignored: the queues are not ours yet
    assert driver.status == 15
    blk.loop.call(blk.disk.complete)
    blk.loop.settle()
    assert driver.status == 0


def test_machine_reset_drops_late_completions(blk: Rig) -> None:
    ring = blk.driver().queues[0]
    blk.disk.hold = True
    blk.request(ring, FLUSH)
    ring.kick()
    blk.loop.settle()
    blk.reset()
    assert blk.disk.pins == 1  # the image must not be closed under the request
    shadow = bytes(blk.ram)
    blk.loop.call(blk.disk.complete)
    blk.loop.settle()
    assert (blk.ram, blk.disk.pins) == (shadow, 0)
    assert blk.registers.config_read(4, 2) == 0
    blk.registers.map_bars()
    blk.disk.hold = False
    assert blk.run(blk.driver().queues[0], FLUSH) == OK


def test_stop_waits_for_requests_and_holds_new_ones_back(blk: Rig) -> None:
    ring = blk.driver().queues[0]
    blk.disk.hold = True
    blk.request(ring, OUT, 0, b"1" * 512)
    ring.kick()
    blk.loop.settle()
    assert not blk.stop_vm()
    blk.request(ring, OUT, 1, b"2" * 512, slot=1)
    ring.kick()
    blk.loop.settle()
    assert len(blk.disk.calls) == 1
    blk.loop.call(blk.disk.complete)
    blk.loop.settle()
    assert blk.quiesced == [True]
    assert len(ring.collect()) == 1
    blk.disk.hold = False
    blk.resume_vm()
    assert len(ring.collect()) == 1
    assert bytes(blk.disk.data[512:1024]) == b"2" * 512
    assert blk.stop_vm(), "an idle device quiesces at once"


@pytest.mark.parametrize(
    ("policy", "error", "action", "status"),
    [
        ({"rerror": "report"}, errno.EIO, "report", IOERR),
        ({"rerror": "ignore"}, errno.EIO, "ignore", OK),
        ({"rerror": "enospc"}, errno.EIO, "report", IOERR),
        ({}, errno.EIO, "report", IOERR),
    ],
)
def test_read_error_follows_rerror(policy: dict[str, str], error: int, action: str, status: int) -> None:
    with rig(**policy) as blk:
        ring = blk.driver().queues[0]
        blk.disk.fail["read"] = error
        assert blk.run(ring, IN, 0, 512) == status
        (event,) = blk.machine.events.of(BlockIoErrorEvent)
        assert (event.device, event.operation, event.action, event.nospace, event.reason) == (
            "drive0", "read", action, False, "Input/output error",
        )  # fmt: skip
        assert blk.machine.requests.asked == []
        assert blk.drive.stats.failed_rd == 1


@pytest.mark.parametrize(("policy", "error"), [({"werror": "stop"}, errno.EIO), ({}, errno.ENOSPC)])
@pytest.mark.parametrize("count", [1, 3])
def test_write_error_stops_the_vm_and_is_retried(policy: dict[str, str], error: int, count: int) -> None:
    with rig(**policy) as blk:
        ring = blk.driver().queues[0]
        blk.disk.fail["write"] = error
        for slot in range(count):  # three are merged into one transfer
            blk.request(ring, OUT, slot, bytes([65 + slot]) * 512, slot=slot)
        ring.kick()
        blk.loop.settle()
        assert ring.collect() == []
        assert [blk.status(slot) for slot in range(count)] == [NOT_ANSWERED] * count
        events = blk.machine.events.of(BlockIoErrorEvent)
        assert [(event.action, event.operation, event.nospace) for event in events] == [
            ("stop", "write", error == errno.ENOSPC)
        ] * count
        assert set(blk.machine.requests.asked) == {("io-error", None)}
        assert blk.stop_vm()
        assert blk.drive.io_status == ("nospace" if error == errno.ENOSPC else "failed")
        blk.resume_vm()  # still failing: parked again
        assert ring.collect() == []
        blk.disk.fail.clear()
        assert blk.stop_vm()
        blk.resume_vm()
        assert len(ring.collect()) == count
        assert blk.drive.io_status == "ok"
        assert [blk.status(slot) for slot in range(count)] == [OK] * count
        assert bytes(blk.disk.data[: 512 * count]) == b"".join(bytes([65 + slot]) * 512 for slot in range(count))


def test_drives_policy_counts_where_the_device_has_none() -> None:
    for given, of_drive, expected in (
        ({}, ("auto", "auto"), ("report", "enospc")),
        ({}, ("stop", "ignore"), ("stop", "ignore")),
        ({"rerror": "ignore", "werror": "report"}, ("stop", "stop"), ("ignore", "report")),
    ):
        blk = Rig(**given)
        blk.drive.rerror, blk.drive.werror = of_drive
        blk.plug()
        assert (blk.device.virtio.rerror, blk.device.virtio.werror) == expected
        blk.close()


def test_serial_and_share_rw_reach_the_drive_and_the_guest() -> None:
    blk = Rig(share_rw="on")
    blk.drive.serial = "of-the-drive"
    ring = blk.plug().driver().queues[0]
    assert blk.drive.share_rw
    assert blk.run(ring, GET_ID, 0, 20) == OK
    assert blk.data(20) == b"of-the-drive".ljust(20, b"\0")
    blk.close()


def test_bus_master_off_stops_dma_and_on_goes_on(blk: Rig) -> None:
    driver = blk.driver()
    ring = driver.queues[0]
    assert blk.run(ring, IN, 0, 512) == OK
    blk.registers.config_write(4, 2, 3)
    shadow = bytes(blk.ram)
    blk.request(ring, IN, 0, 512)
    changed = bytes(blk.ram)
    driver.put(0x3000, 2, 0)
    blk.loop.settle()
    assert blk.ram == changed != shadow
    blk.registers.config_write(4, 2, 7)
    blk.loop.settle()
    assert len(ring.collect()) == 1
    assert blk.run(ring, IN, 0, 512) == OK


def test_one_queue_is_reset_while_the_other_works() -> None:
    with rig(num_queues="2") as blk:
        driver = blk.driver(queues=2, features=FULL | F_RING_RESET)
        first, second = driver.queues
        assert blk.run(first, IN, 0, 512) == OK
        driver.put(0x16, 2, 0)
        driver.put(0x3A, 2, 1)
        assert driver.get(0x3A, 2) == 0
        assert driver.get(0x1C, 2) == 0
        rings = blk.doorbells.rings
        assert blk.run(second, IN, 0, 512) == OK
        assert blk.doorbells.rings == rings + 1
        again = driver.setup_queue(0, RINGS, size=64)
        blk.loop.settle()
        assert blk.run(again, IN, 0, 512) == OK


# -- configuration -------------------------------------------------------------------------------------------


def hold_a_drain(blk: Rig, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request that does not end, and a vCPU that gave up waiting for it."""
    monkeypatch.setattr("vmmd.devices.virtio.device.DRAIN_TIMEOUT_S", 0.02)
    blk.disk.hold = True
    blk.request(driver.queues[0], IN, 0, 512)
    driver.queues[0].kick()
    blk.loop.settle()


def test_bus_master_on_while_queues_are_handed_back_goes_on(blk: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = blk.driver()
    hold_a_drain(blk, driver, monkeypatch)
    blk.registers.config_write(0x04, 2, 0x0003)
    assert blk.device.virtio.busy
    blk.registers.config_write(0x04, 2, 0x0007)
    blk.loop.call(blk.disk.complete)
    blk.loop.settle()
    assert not blk.device.virtio.busy
    blk.disk.hold = False
    assert len(driver.queues[0].collect()) == 1
    assert blk.run(driver.queues[0], IN, 0, 512, slot=1) == OK


def test_bus_master_off_while_one_queue_is_reset_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(num_queues="2") as blk:
        driver = blk.driver(queues=2, features=FULL | F_RING_RESET)
        hold_a_drain(blk, driver, monkeypatch)
        driver.put(0x16, 2, 0)
        driver.put(0x3A, 2, 1)
        assert blk.device.virtio.busy
        blk.registers.config_write(0x04, 2, 0x0003)
        blk.loop.call(blk.disk.complete)
        blk.loop.settle()
        blk.disk.hold = False
        blk.request(driver.queues[1], IN, 0, 512, slot=2)
        driver.queues[1].kick()
        blk.loop.settle()
        assert blk.status(2) == NOT_ANSWERED
        blk.registers.config_write(0x04, 2, 0x0007)
        blk.loop.settle()
        assert blk.status(2) == OK


def test_unplug_while_one_queue_is_reset_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(num_queues="2") as blk:
        driver = blk.driver(queues=2, features=FULL | F_RING_RESET)
        hold_a_drain(blk, driver, monkeypatch)
        blk.request(driver.queues[1], IN, 0, 512, slot=1)
        driver.queues[1].kick()
        blk.loop.settle()
        driver.put(0x16, 2, 0)
        driver.put(0x3A, 2, 1)
        assert blk.device.virtio.busy
        on_loop: list[bool] = []

        def unplug() -> None:
            with blk.machine.lock:
                blk.device.vanish()
                blk.device.wind_down(lambda: on_loop.append(blk.loop.on_loop_thread()))

        blk.loop.call(unplug)
        first, second = blk.disk.held
        blk.loop.call(first)
        blk.loop.settle()
        assert not on_loop
        blk.loop.call(second)
        blk.loop.settle()
        assert on_loop == [True]


def test_machine_reset_drops_completions_of_queues_on_their_way_back(blk: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = blk.driver()
    hold_a_drain(blk, driver, monkeypatch)
    driver.status = 0
    assert blk.device.virtio.busy
    blk.reset()
    shadow = bytes(blk.ram)
    blk.disk.fail["read"] = errno.EIO  # its status byte would be the only change
    blk.loop.call(blk.disk.complete)
    blk.loop.settle()
    assert blk.ram == shadow


@BOTH
def test_resize_changes_capacity_and_interrupts(blk: Rig, modern: bool) -> None:
    driver = blk.driver(modern=modern)
    assert driver.config(0, 4) == 512
    generation = driver.get(0x15, 1) if modern else 0
    blk.disk.data += bytes(4096)
    for callback in blk.disk.resize_callbacks:
        blk.loop.call(callback)
    assert driver.config(0, 4) == 520
    if modern:
        assert driver.get(0x15, 1) == generation + 1
    assert driver.isr == 3
    assert blk.run(driver.queues[0], IN, 519, 512) == OK


def test_resize_with_msix_uses_the_config_vector(blk: Rig) -> None:
    blk.driver(msix=True)
    for callback in blk.disk.resize_callbacks:
        blk.loop.call(callback)
    assert blk.machine.interrupts.messages == [(0xFEE00000, 0x40)]


def test_write_cache_can_be_switched_off_by_the_guest(blk: Rig) -> None:
    driver = blk.driver()
    ring = driver.queues[0]
    assert driver.config(0x20, 1) == 1
    assert blk.run(ring, OUT, 0, b"c" * 512) == OK
    assert blk.disk.calls == [("write", 0, 512)]
    driver.write_config(0x20, 1, 0)
    assert driver.config(0x20, 1) == 0
    blk.disk.calls.clear()
    assert blk.run(ring, OUT, 0, b"c" * 512) == OK
    assert blk.disk.calls == [("write", 0, 512), ("flush",)]
    driver.write_config(0, 4, 1)  # the rest is read-only
    assert driver.config(0, 4) == 512
    driver.status = 0
    assert driver.config(0x20, 1) == 1


def test_driver_without_flush_gets_durable_writes(blk: Rig) -> None:
    """virtio 1.2 §5.2.5.2."""
    ring = blk.driver(features=0).queues[0]
    assert blk.run(ring, OUT, 0, b"c" * 512) == OK
    assert blk.disk.calls == [("write", 0, 512), ("flush",)]


def test_flush_behind_a_durable_write_that_fails_is_an_error(blk: Rig) -> None:
    ring = blk.driver(features=0).queues[0]
    blk.disk.fail["flush"] = errno.EIO
    assert blk.run(ring, OUT, 0, b"c" * 512) == IOERR


def test_indirect_is_refused_when_not_negotiated(blk: Rig) -> None:
    driver = blk.driver(features=FULL & ~F_INDIRECT)
    blk.request(driver.queues[0], IN, 0, 512, indirect=True)
    driver.queues[0].kick()
    blk.loop.settle()
    assert driver.status & 0x40


def test_legacy_driver_may_kick_before_driver_ok(blk: Rig) -> None:
    driver = Driver(blk.registers, blk.memory, modern=False)
    driver.negotiate(0)
    ring = driver.setup_queue(0, RINGS)
    assert blk.run(ring, IN, 0, 512) == OK
