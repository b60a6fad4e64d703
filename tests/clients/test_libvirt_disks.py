# SPDX-License-Identifier: Apache-2.0
"""What libvirt 9.0 sends to attach, resize and detach a disk (recorded), on a guest that has not started: QEMU and vmmd
take it alike. A guest that runs is told in one sentence, and libvirt's way back works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qmp import QmpError
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


def test_a_guest_that_runs_refuses_and_the_way_back_works(image: Path) -> None:
    machine = ["-machine", "pc,accel=kvm", "-m", "16", "-nodefaults"]
    with Vm(emulator("vmmd"), machine, serial=False) as vm:
        add_nodes(vm, image)
        with pytest.raises(QmpError, match="device hot plug is not available in this version; it is possible before"):
            vm.qmp.cmd("device_add", DEVICE)
        delete_nodes(vm)
        assert vm.qmp.cmd("query-status")["running"]
