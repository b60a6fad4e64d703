# SPDX-License-Identifier: Apache-2.0
"""What libvirt 9.0 sends to attach, resize and detach a disk (recorded), to a guest that has not started and to one
that runs: QEMU and vmmd take it alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.framework import guests
from tests.framework.cache import MissingSources
from tests.framework.qmp import QmpError
from tests.framework.scenarios import FIRMWARE_TIMEOUT_S, machine_args
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kvm

CACHE = {"direct": True, "no-flush": False}
DEVICE = {
    "driver": "virtio-blk-pci", "bus": "pci.0", "addr": "0x8", "drive": "libvirt-3-format", "id": "virtio-disk2",
    "write-cache": "on", "serial": "HOT1",
}  # fmt: skip
IMAGE_BYTES = 1 << 20


@pytest.fixture(params=[pytest.param("qemu", marks=pytest.mark.qemu), "vmmd"])
def vm(request: pytest.FixtureRequest) -> Iterator[Vm]:
    machine = ["-machine", "pc,accel=kvm", "-m", "16", "-nodefaults", "-S"]
    with Vm(emulator(request.param), machine, serial=False) as started:
        yield started


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "hot.raw"
    path.write_bytes(bytes(IMAGE_BYTES))
    return path


def add_nodes(vm: Vm, image: Path) -> None:
    storage = {"driver": "file", "filename": str(image), "node-name": "libvirt-3-storage"}
    vm.qmp.cmd("blockdev-add", {**storage, "cache": CACHE, "auto-read-only": True, "discard": "unmap"})
    form = {"node-name": "libvirt-3-format", "read-only": False, "cache": CACHE, "driver": "raw"}
    vm.qmp.cmd("blockdev-add", {**form, "file": "libvirt-3-storage"})


def delete_nodes(vm: Vm) -> None:
    for name in ("libvirt-3-format", "libvirt-3-storage"):
        assert vm.qmp.cmd("blockdev-del", {"node-name": name}) == {}
    assert vm.qmp.cmd("query-named-block-nodes", {"flat": True}) == []


def the_disk(vm: Vm) -> dict[str, Any]:
    (disk,) = vm.qmp.cmd("query-block")
    return dict(disk)


def test_a_disk_is_attached_resized_and_detached(vm: Vm, image: Path) -> None:
    add_nodes(vm, image)
    assert vm.qmp.cmd("device_add", DEVICE) == {}
    assert the_disk(vm)["qdev"] == "/machine/peripheral/virtio-disk2/virtio-backend"
    assert the_disk(vm)["inserted"]["cache"] == {"writeback": True, **CACHE}
    vm.qmp.cmd("block_resize", {"node-name": "libvirt-3-format", "size": 2 * IMAGE_BYTES})
    assert the_disk(vm)["inserted"]["image"]["virtual-size"] == 2 * IMAGE_BYTES == image.stat().st_size
    (stats,) = vm.qmp.cmd("query-blockstats")
    assert (stats["node-name"], stats["parent"]["node-name"]) == ("libvirt-3-format", "libvirt-3-storage")
    assert vm.qmp.cmd("device_del", {"id": "virtio-disk2"}) == {}
    vm.qmp.cmd("system_reset")  # QEMU waits for the guest, or for this
    gone = [vm.qmp.wait_event("DEVICE_DELETED", 20)["data"] for _ in range(2)]
    assert gone[1] == {"device": "virtio-disk2", "path": "/machine/peripheral/virtio-disk2"}
    delete_nodes(vm)


def test_an_attachment_that_fails_is_taken_back(vm: Vm, image: Path) -> None:
    vm.qmp.cmd("blockdev-add", {"driver": "null-co", "node-name": "other"})
    vm.qmp.cmd("device_add", {"driver": "virtio-blk-pci", "drive": "other", "addr": "0x8", "id": "there"})
    vm.qmp.cmd("device_del", {"id": "there"})
    vm.qmp.cmd("system_reset")
    for _ in range(2):
        vm.qmp.wait_event("DEVICE_DELETED", 20)
    vm.qmp.cmd("blockdev-del", {"node-name": "other"})
    add_nodes(vm, image)
    with pytest.raises(QmpError, match="can't find value 'libvirt-4-format'"):
        vm.qmp.cmd("device_add", {**DEVICE, "drive": "libvirt-4-format"})
    assert vm.qmp.cmd("query-block") == []
    delete_nodes(vm)


@pytest.fixture(params=[pytest.param("qemu", marks=pytest.mark.qemu), "vmmd"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Vm]:
    """A guest that lets go of what it is asked for."""
    try:
        disk = guests.acpi_bootsector_disk().copy_to(tmp_path)
    except MissingSources as missing:
        pytest.skip(str(missing))
    drive = f"file={disk},format=raw,if=virtio"
    with Vm(emulator(request.param), [*machine_args(64), "-drive", drive]) as started:
        started.serial.expect("VMMD-TEST-GUEST up", FIRMWARE_TIMEOUT_S)
        yield started


def gone(vm: Vm) -> list[dict[str, Any]]:
    return [vm.qmp.wait_event("DEVICE_DELETED", 30)["data"] for _ in range(2)]


def peripherals(vm: Vm) -> set[str]:
    return {each["name"] for each in vm.qmp.cmd("qom-list", {"path": "/machine/peripheral"})} - {"type"}


def test_a_disk_is_attached_to_a_guest_that_runs_and_detached(running: Vm, image: Path) -> None:
    """The recorded conversations attach-disk, detach-disk, detach-disk-noack and resume-after-noack."""
    vm = running
    for paused in (False, True):
        add_nodes(vm, image)
        assert vm.qmp.cmd("device_add", DEVICE) == {}
        assert peripherals(vm) == {"virtio-disk2"}
        if paused:
            vm.qmp.cmd("stop")
            vm.qmp.cmd("device_del", {"id": "virtio-disk2"})
            with pytest.raises(QmpError, match="Node libvirt-3-format is in use"):
                vm.qmp.cmd("blockdev-del", {"node-name": "libvirt-3-format"})
            assert vm.qmp.cmd("device_del", {"id": "virtio-disk2"}) == {}  # 7.2.22 lets one ask again
            assert peripherals(vm) == {"virtio-disk2"}
            vm.qmp.cmd("cont")
        else:
            assert vm.qmp.cmd("device_del", {"id": "virtio-disk2"}) == {}
        path = "/machine/peripheral/virtio-disk2"
        assert gone(vm) == [{"path": f"{path}/virtio-backend"}, {"device": "virtio-disk2", "path": path}]
        for name in ("libvirt-3-format", "libvirt-3-storage"):
            assert vm.qmp.cmd("blockdev-del", {"node-name": name}) == {}
        assert peripherals(vm) == set()
