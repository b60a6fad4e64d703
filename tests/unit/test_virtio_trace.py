# SPDX-License-Identifier: Apache-2.0
"""What a virtio disk reports, and that its hot code is untouched while nobody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.virtqueue_driver import Buffer
from tests.unit.virtio_rig import FLUSH, HEADERS, IN, IOERR, OK, OUT, SCSI, UNSUPP, Rig, rig
from vmmd.core import trace
from vmmd.core.trace import EVENTS, GUEST_ERRORS, UNIMP, find
from vmmd.core.trace_events import VIRTIO_BLK_HANDLE_READ, VIRTIO_BLK_HANDLE_WRITE, VIRTIO_BLK_REQ_COMPLETE
from vmmd.core.trace_output import TraceOutput
from vmmd.devices.virtio.blk.traced import TracedBlkWorker
from vmmd.devices.virtio.blk.worker import BlkWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """What has been reported so far. All is off afterwards."""
    output = TraceOutput()
    output.set_file(str(tmp_path / "log"))
    output.allow()
    monkeypatch.setattr(trace, "output", output)

    def read() -> list[str]:
        assert output.settle(10)
        return (tmp_path / "log").read_text().splitlines()

    yield read
    for event in EVENTS.values():
        event.switch(on=False)
    trace.log_nothing()
    output.close()


@pytest.fixture
def blk() -> Iterator[Rig]:
    with rig(num_queues="1") as made:
        yield made


def switch(blk: Rig, *, on: bool, device: str | None = None) -> None:
    """As a monitor does: on the loop."""
    for event in (VIRTIO_BLK_HANDLE_READ, VIRTIO_BLK_HANDLE_WRITE, VIRTIO_BLK_REQ_COMPLETE):
        blk.loop.call(lambda event=event: event.switch(on=on, subject=device))


def test_requests_are_reported_while_that_is_wanted(blk: Rig, lines: Callable[[], list[str]]) -> None:
    ring = blk.driver().queues[0]
    worker = blk.device.virtio.workers[0]
    assert type(worker) is BlkWorker
    blk.disk.hold = True
    held = blk.request(ring, OUT, 8, b"x" * 1024, slot=5)  # taken before anybody looks
    ring.kick()
    blk.loop.settle()
    switch(blk, on=True)
    assert type(worker) is TracedBlkWorker
    blk.loop.call(blk.disk.complete)
    assert ring.collect() == [(held, 1)]
    blk.disk.hold = False
    assert blk.run(ring, IN, 16, 4096) == OK
    assert blk.run(ring, OUT, 32, b"y" * 512) == OK
    switch(blk, on=False)
    assert type(worker) is BlkWorker
    assert blk.run(ring, IN, 0, 512) == OK
    found = lines()
    assert found[0] == f"virtio_blk_req_complete vdev vda n 0 req {held} status 0"
    assert [line.split(" req ")[0] for line in found[1:]] == [
        "virtio_blk_handle_read vdev vda n 0", "virtio_blk_req_complete vdev vda n 0",
        "virtio_blk_handle_write vdev vda n 0", "virtio_blk_req_complete vdev vda n 0",
    ]  # fmt: skip
    assert found[1].endswith("sector 16 nsectors 8")
    assert found[3].endswith("sector 32 nsectors 1")


def test_requests_of_another_disk_cost_this_one_nothing(blk: Rig, lines: Callable[[], list[str]]) -> None:
    switch(blk, on=True, device="vdb")
    ring = blk.driver().queues[0]
    assert type(blk.device.virtio.workers[0]) is BlkWorker
    assert blk.run(ring, IN, 0, 512) == OK
    assert lines() == []


def test_the_life_of_a_device_is_reported(blk: Rig, lines: Callable[[], list[str]]) -> None:
    for event in find("virtio_*"):
        event.switch(on=True)
    ring = blk.driver(size=64).queues[0]
    blk.run(ring, FLUSH)
    blk.request(ring, IN, 0, 512)
    blk.memory.store_u16(ring.avail + 4, 0x7FFF)  # no such descriptor
    ring.kick()
    blk.loop.settle()
    names = [line.split(" ")[0] for line in lines()]
    expected = [
        "virtio_set_status", "virtio_features", "virtio_queue_start", "virtio_queue_notify", "virtio_blk_handle_other",
        "virtio_blk_req_complete", "virtio_notify",
    ]  # fmt: skip
    assert [name for name in dict.fromkeys(names) if name in expected] == expected


def test_what_the_driver_does_wrong_is_said_when_asked_for(blk: Rig, lines: Callable[[], list[str]]) -> None:
    ring = blk.driver().queues[0]
    assert blk.run(ring, IN, 1 << 40, 512) == IOERR
    assert lines() == []
    GUEST_ERRORS.switch(on=True)
    UNIMP.switch(on=True)
    assert blk.run(ring, IN, 1 << 40, 512) == IOERR
    assert blk.run(ring, SCSI, 0, 64) == UNSUPP
    ring.add([Buffer(HEADERS, 16)], [])  # no status byte
    ring.kick()
    blk.loop.settle()
    assert lines() == [
        f"vda: queue 0: request of type 0 at sector {1 << 40}: IOERR",
        "vda: queue 0: request of type 2 at sector 0: UNSUPP",
        "vda: queue 0: a block request without a status byte",
    ]
