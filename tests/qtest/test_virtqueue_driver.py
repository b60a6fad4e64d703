# SPDX-License-Identifier: Apache-2.0
"""virtio-blk of a whole machine, vmmd and QEMU, driven over the wire by the driver that drives the fakes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.framework.qtest import Qtest
from tests.framework.virtio_function import MSI_DATA
from tests.framework.virtqueue_driver import F_EVENT_IDX, F_INDIRECT, Buffer, Driver, DriverQueue
from tests.framework.wire_driver import collect, wire_driver

if TYPE_CHECKING:
    from pathlib import Path

RINGS, INDIRECT, HEADER, DATA, STATUS, MESSAGES = 0x20_0000, 0x30_0000, 0x40_0000, 0x41_0000, 0x42_0000, 0x50_0000
SLOT, SECTORS = 4, 64
IN, OUT, OK = 0, 1, 0

both = pytest.mark.parametrize("name", ["vmmd", pytest.param("qemu", marks=pytest.mark.qemu)])
interfaces = pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])


def machine(name: str, directory: Path) -> Qtest:
    image = directory / "disk.img"
    image.write_bytes(b"".join(bytes([sector]) * 512 for sector in range(SECTORS)))
    disk = f"if=none,id=d0,file={image},format=raw"
    return Qtest(name, "-nodefaults", "-drive", disk, "-device", f"virtio-blk-pci,drive=d0,addr={SLOT}")


def request(driver: Driver, ring: DriverQueue, kind: int, sector: int, *, indirect: bool = False) -> int:
    """Make one request of 512 bytes available."""
    driver.memory.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
    driver.memory.write(STATUS, b"\xee")
    data = Buffer(DATA, 512)
    readable = [Buffer(HEADER, 16), *([data] if kind == OUT else [])]
    return ring.add(readable, [*([data] if kind == IN else []), Buffer(STATUS, 1)], INDIRECT if indirect else None)


@both
@interfaces
def test_disk_is_read_and_written(name: str, modern: bool, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm:
        driver = wire_driver(vm, SLOT, modern=modern)
        status = driver.negotiate(F_INDIRECT)
        assert status == (11 if modern else 3)
        assert driver.queue_count >= 1
        assert driver.config(0, 4) == SECTORS
        ring = driver.setup_queue(0, RINGS)
        driver.ready()
        assert driver.status == (15 if modern else 7)
        for indirect in (False, True):
            head = request(driver, ring, IN, 7, indirect=indirect)
            ring.kick()
            assert collect(ring, 1) == [(head, 513)]
            assert driver.memory.read(DATA, 512) == b"\7" * 512
            assert driver.isr == 1
            assert driver.isr == 0
        driver.memory.write(DATA, b"w" * 512)
        request(driver, ring, OUT, 9)
        ring.kick()
        assert [written for _, written in collect(ring, 1)] == [1]
        assert driver.memory.read(STATUS, 1) == bytes([OK])
    assert (tmp_path / "disk.img").read_bytes()[9 * 512 : 10 * 512] == b"w" * 512


@both
@interfaces
def test_messages_are_written_to_memory(name: str, modern: bool, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm:
        driver = wire_driver(vm, SLOT, modern=modern)
        driver.registers.enable_msix(2, MESSAGES)
        driver.negotiate(0)
        driver.config_vector = 0
        assert driver.config_vector == 0
        ring = driver.setup_queue(0, RINGS, vector=1)
        driver.ready()
        vm.writel(MESSAGES + 4, 0)
        request(driver, ring, IN, 1)
        ring.kick()
        collect(ring, 1)
        assert vm.readl(MESSAGES + 4) == MSI_DATA + 1


@both
def test_event_index_holds_interrupts_back(name: str, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm:
        driver = wire_driver(vm, SLOT, modern=True)
        driver.negotiate(F_EVENT_IDX)
        ring = driver.setup_queue(0, RINGS)
        ring.interrupt_at(2)
        driver.ready()
        for expected in ((0, 1), (0,), (1,)):  # QEMU always sends the first; the third passes the event
            request(driver, ring, IN, 3)
            ring.kick()
            collect(ring, 1)
            assert driver.isr in expected


@both
def test_broken_ring_asks_for_a_reset(name: str, tmp_path: Path) -> None:
    with machine(name, tmp_path) as vm:
        driver = wire_driver(vm, SLOT, modern=True)
        driver.negotiate(0)
        ring = driver.setup_queue(0, RINGS, size=16)
        driver.ready()
        ring.offer(0xFFFF)
        ring.notify()
        while not driver.status & 0x40:
            assert vm.qmp("query-status")  # the device looks in its own time
        driver.negotiate(0)
        ring = driver.setup_queue(0, RINGS, size=16)
        driver.ready()
        request(driver, ring, IN, 2)
        ring.kick()
        collect(ring, 1)
        assert driver.memory.read(DATA, 512) == b"\2" * 512
