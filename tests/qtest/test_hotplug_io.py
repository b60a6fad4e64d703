# SPDX-License-Identifier: Apache-2.0
"""virtio-blk comes to a machine that runs, works, and leaves in the middle of its requests: over and over, with images
on the host. What the driver was told to be written is in the image, and the image can be closed."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.framework.qtest import Qtest
from tests.framework.virtqueue_driver import Buffer, Driver, DriverQueue
from tests.framework.wire_driver import collect, wire_driver

SLOT, ROUNDS, REQUESTS = 6, 6, 64
RINGS, HEADERS, DATA, STATUSES = 0x20_0000, 0x40_0000, 0x50_0000, 0x60_0000
REQUEST_BYTES = 16 << 10
EJECT = 0xAE08
OUT, OK, UNANSWERED = 1, 0, 0xEE


def start_writes(driver: Driver, ring: DriverQueue, mark: int) -> None:
    """REQUESTS writes, each of its number and ``mark``, one behind the other."""
    memory = driver.memory
    memory.write(STATUSES, bytes([UNANSWERED]) * REQUESTS)
    for number in range(REQUESTS):
        header, data = HEADERS + 16 * number, DATA + REQUEST_BYTES * number
        memory.write(header, struct.pack("<IIQ", OUT, 0, number * REQUEST_BYTES // 512))
        memory.write(data, bytes([number ^ mark]) * 512)
        ring.add([Buffer(header, 16), Buffer(data, REQUEST_BYTES)], [Buffer(STATUSES + number, 1)])
    ring.kick()


@pytest.mark.parametrize("aio", ["threads", "io_uring"])
def test_a_disk_leaves_in_the_middle_of_its_requests(aio: str, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(REQUESTS * REQUEST_BYTES))
    with Qtest("vmmd", "-nodefaults", "-m", "16") as vm:
        fds = Path(f"/proc/{vm.process.pid}/fd")
        opened: list[int] = []
        for mark in range(1, ROUNDS + 1):
            vm.qmp("blockdev-add", driver="file", filename=str(image), aio=aio, **{"node-name": "n0"})
            vm.qmp("device_add", driver="virtio-blk-pci", drive="n0", id="d0", addr=str(SLOT))
            driver = wire_driver(vm, SLOT, modern=True)
            driver.negotiate(0)
            ring = driver.setup_queue(0, RINGS)
            driver.ready()
            start_writes(driver, ring, 0)
            assert len(collect(ring, REQUESTS)) == REQUESTS  # it works
            start_writes(driver, ring, mark)
            vm.qmp("device_del", id="d0")
            vm.outl(EJECT, 1 << SLOT)
            assert vm.pci(SLOT).config_read(0, 4) == 0xFFFF_FFFF
            assert [vm.wait_event("DEVICE_DELETED")["data"].get("device") for _ in range(2)] == [None, "d0"]
            told = {vm.readb(STATUSES + number) for number in range(REQUESTS)}
            assert told <= {OK, UNANSWERED}
            with image.open("rb") as file:
                for number in range(REQUESTS):
                    if vm.readb(STATUSES + number) == OK:
                        file.seek(number * REQUEST_BYTES)
                        assert file.read(1) == bytes([number ^ mark]), f"request {number} of round {mark}"
            vm.qmp("blockdev-del", **{"node-name": "n0"})
            assert vm.qmp("query-block") == []
            opened.append(len(list(fds.iterdir())))
        assert opened[1:] == opened[1:2] * (ROUNDS - 1)
