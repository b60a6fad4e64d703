# SPDX-License-Identifier: Apache-2.0
"""An IDE CD-ROM drive as test programs in the wild use it: reads by PIO in small and many pieces and by DMA, capacity,
table of contents, trays by QMP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework import iso9660
from tests.framework.atapi_host import BSY, DRQ, ERR, MID, PRIMARY, STATUS, AtapiHost
from tests.framework.qtest import QmpFailure, Qtest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTOR = iso9660.SECTOR
SECTORS = 300
LIMIT = 5120


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sectors with their numbers in them."""
    path = tmp_path_factory.mktemp("cdrom") / "disc.iso"
    path.write_bytes(blocks(0, SECTORS))
    return path


@pytest.fixture
def vm(disc: Path) -> Iterator[Qtest]:
    drive = f"if=none,file={disc},media=cdrom,format=raw,id=sr0,index=0"
    with Qtest("vmmd", "-nodefaults", "-drive", drive, "-device", "ide-cd,drive=sr0,bus=ide.0,id=cd0") as machine:
        machine.irq_intercept_in()
        yield machine


def blocks(first: int, count: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") * (SECTOR // 4) for number in range(first, first + count))


def read_10(lba: int, count: int) -> tuple[int, ...]:
    return (0x28, 0, *lba.to_bytes(4, "big"), 0, *count.to_bytes(2, "big"), 0, 0, 0)


def wait_interrupt(vm: Qtest) -> None:
    for _ in range(10_000):
        if vm.irq(14):
            return
        vm.clock_step(400)
    raise AssertionError("no interrupt")


@pytest.mark.parametrize("count", [1, 10, 20])
def test_read_by_pio_with_an_interrupt_for_each_piece(vm: Qtest, count: int) -> None:
    host = AtapiHost(vm, PRIMARY)
    assert host.send(read_10(0, count), features=0, limit=LIMIT)
    left, data = count * SECTOR, b""
    while left:
        wait_interrupt(vm)
        status = host.read(STATUS)
        assert status & (DRQ | BSY | ERR) == DRQ
        assert not vm.irq(14)  # reading the status has taken it back
        size = min(left, LIMIT)
        assert host.read(MID) | host.read(MID + 1) << 8 == size
        data += host.data(size)
        left -= size
    wait_interrupt(vm)
    assert host.read(STATUS) & (DRQ | BSY | ERR) == 0
    assert data == blocks(0, count)


def test_read_by_dma(vm: Qtest) -> None:
    host = AtapiHost(vm, PRIMARY)
    host.enable_bus_master()
    count = 90
    regions = [(0x200000, 0x10000), (0x300000, 0x10000), (0x240000, count * SECTOR - 0x20000)]
    registers, dma = host.dma_packet(*read_10(7, count), regions=regions)
    assert (registers[0], dma & 7) == (0x50, 4)
    assert b"".join(vm.read(gpa, length) for gpa, length in regions) == blocks(7, count)
    assert (14, 1) in vm.irq_edges


def test_capacity_and_table_of_contents(vm: Qtest) -> None:
    host = AtapiHost(vm, PRIMARY)
    assert host.packet(0x25).data == (SECTORS - 1).to_bytes(4, "big") + SECTOR.to_bytes(4, "big")
    toc = host.packet(0x43, 0, 0, 0, 0, 0, 0, 1, 0).data
    assert toc[:2] == bytes([0, 18])
    assert (toc[6], toc[14], int.from_bytes(toc[16:20], "big")) == (1, 0xAA, SECTORS)


def test_a_medium_is_changed_by_commands(vm: Qtest, tmp_path: Path) -> None:
    second = tmp_path / "second.iso"
    second.write_bytes(blocks(1000, 20))
    host = AtapiHost(vm, PRIMARY)
    host.packet(0x1E, 0, 0, 0, 1)  # the guest locks the tray
    (shown,) = vm.qmp("query-block")
    assert (shown["device"], shown["qdev"], shown["locked"], shown["tray_open"]) == ("sr0", "cd0", True, False)
    vm.qmp("blockdev-open-tray", id_="cd0")
    assert not vm.qmp("query-block")[0]["tray_open"]
    assert host.packet(0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8).data[4] == 1  # it is asked to open it
    with pytest.raises(QmpFailure, match=r"^eject: GenericError: Device 'sr0' is locked and force was not specified"):
        vm.qmp("eject", device="sr0")
    host.packet(0x1E)
    host.packet(0x1B, 0, 0, 0, 2)  # and does
    assert vm.wait_event("DEVICE_TRAY_MOVED")["data"] == {"device": "sr0", "id": "cd0", "tray-open": True}
    vm.qmp("blockdev-change-medium", id_="cd0", filename=str(second), format="raw")
    assert vm.wait_event("DEVICE_TRAY_MOVED")["data"]["tray-open"] is False
    assert vm.qmp("query-block")[0]["inserted"]["file"] == str(second)
    assert host.packet(0).failed
    assert host.sense() == (2, 0x3A)
    assert host.packet(0).failed
    assert host.sense() == (6, 0x28)
    assert host.packet(*read_10(19, 1)).data == blocks(1019, 1)


def test_a_medium_goes_in_the_middle_of_a_transfer(vm: Qtest) -> None:
    host = AtapiHost(vm, PRIMARY)
    assert host.send(read_10(0, 100), features=0, limit=2048)
    host.wait()
    host.data(2000)
    vm.qmp("eject", id_="cd0", force=True)
    assert host.wait() & (DRQ | ERR) == ERR
    assert host.sense() == (2, 0x3A)
    vm.qmp("system_reset")
    vm.wait_event("RESET")
    assert host.packet(0).failed
    assert host.sense() == (2, 0x3A)
