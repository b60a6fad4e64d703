# SPDX-License-Identifier: Apache-2.0
"""rerror= and werror= with disks that really fail: a file system that is full, a file that may not grow."""

from __future__ import annotations

import resource
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework import guests
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kvm

KIB = 1024
IMAGE_BYTES = 4 << 20
ROOM_BYTES = 1 << 20
BLOCKS = 600  # of 4 KiB: more than there is room for, less than the image has
GUEST_TIMEOUT_S = 30.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a quarter of the image; `filler` holds the rest."""
    mount = tmp_path / "small"
    mount.mkdir()
    size = IMAGE_BYTES + 64 * KIB
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", mount], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        (mount / "filler").write_bytes(bytes(size - ROOM_BYTES))
        with (mount / "disk").open("wb") as image:
            image.truncate(IMAGE_BYTES)
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)
        shutil.rmtree(mount, ignore_errors=True)


def writer(emulator_name: str, image: Path, policy: str, *, drive: bool = False) -> Vm:
    """A guest that writes BLOCKS blocks one after the other."""
    if drive:
        disk = ["-drive", f"if=none,id=d0,format=raw,file={image}{policy}", "-device", "virtio-blk-pci,drive=d0"]
    else:
        disk = [
            "-blockdev", f"file,node-name=n0,filename={image}", "-device", f"virtio-blk-pci,id=vd0,drive=n0{policy}",
        ]  # fmt: skip
    return Vm(emulator(emulator_name), [
        "-machine", "pc,accel=kvm", "-cpu", "qemu64,-cx16,-pni,-xsave", "-m", "64", "-nodefaults", *disk,
        "-kernel", str(guests.bench().multiboot), "-append", f"blk {BLOCKS} 4096 8 q",
    ])  # fmt: skip


def errors_of_guest(vm: Vm) -> int:
    """Failed requests when the guest has finished."""
    match = vm.serial.expect(r"@E blk n=(\d+) .* err=(\d+) ", GUEST_TIMEOUT_S)
    assert int(match[1]) == BLOCKS
    return int(match[2])


def io_error(vm: Vm) -> dict[str, Any]:
    data: dict[str, Any] = vm.qmp.wait_event("BLOCK_IO_ERROR", GUEST_TIMEOUT_S)["data"]
    return data


@pytest.mark.parametrize("policy", ["", ",werror=stop", ",werror=enospc"])
def test_full_disk_stops_the_guest_until_there_is_room(emulator_name: str, small_disk: Path, policy: str) -> None:
    with writer(emulator_name, small_disk / "disk", policy) as vm:
        data = io_error(vm)
        assert data.pop("qom-path", "vd0").find("vd0") >= 0
        assert data == {
            "device": "", "node-name": "n0", "operation": "write", "action": "stop", "nospace": True,
            "reason": "No space left on device",
        }  # fmt: skip
        vm.qmp.wait_event("STOP")
        assert vm.qmp.cmd("query-status") == {"status": "io-error", "running": False, "singlestep": False}
        names = [event["event"] for event in vm.qmp.events]
        assert names.index("STOP") > names.index("BLOCK_IO_ERROR")
        (block,) = vm.qmp.cmd("query-block")
        assert block["io-status"] == "nospace"
        vm.qmp.cmd("cont")  # still full: the same again
        assert io_error(vm)["nospace"]
        vm.qmp.wait_event("STOP")
        assert vm.qmp.cmd("query-status")["status"] == "io-error"
        (small_disk / "filler").unlink()
        vm.qmp.cmd("cont")
        assert errors_of_guest(vm) == 0
        assert vm.qmp.cmd("query-status")["status"] == "running"
        if emulator_name == "vmmd":  # QEMU 7.2 does not reset the status of a -blockdev disk, and counts retries, too
            (block,) = vm.qmp.cmd("query-block")
            assert block["io-status"] == "ok"
            (stats,) = vm.qmp.cmd("query-blockstats")
            assert stats["stats"]["wr_operations"] == BLOCKS


@pytest.mark.parametrize(("policy", "action", "failed"), [("report", "report", True), ("ignore", "ignore", False)])
def test_full_disk_is_reported_or_ignored(
    emulator_name: str, small_disk: Path, policy: str, action: str, failed: bool
) -> None:
    with writer(emulator_name, small_disk / "disk", f",werror={policy}", drive=True) as vm:
        data = io_error(vm)
        assert (data["device"], data["action"], data.get("nospace")) == ("d0", action, None)
        assert (errors_of_guest(vm) > 0) == failed
        assert vm.qmp.cmd("query-status")["status"] == "running"
        assert "io-status" not in vm.qmp.cmd("query-block")[0]


def test_stopped_by_a_full_disk_a_reset_forgets_the_request(emulator_name: str, small_disk: Path) -> None:
    with writer(emulator_name, small_disk / "disk", "") as vm:
        io_error(vm)
        vm.qmp.wait_event("STOP")
        vm.qmp.cmd("system_reset")
        assert vm.qmp.cmd("query-status")["status"] == "prelaunch"
        (small_disk / "filler").unlink()
        vm.qmp.cmd("cont")
        assert errors_of_guest(vm) == 0


def test_stopped_by_a_full_disk_the_end_is_clean(emulator_name: str, small_disk: Path) -> None:
    with writer(emulator_name, small_disk / "disk", "") as vm:
        io_error(vm)
        vm.qmp.wait_event("STOP")
        vm.qmp.start("quit")
        assert vm.wait_exit(10) == 0


@pytest.mark.parametrize(("policy", "action"), [("", "report"), (",werror=enospc", "report"), (",werror=stop", "stop")])
def test_error_that_is_not_a_lack_of_space(tmp_path: Path, policy: str, action: str) -> None:
    """The process may not make files longer than 1 MiB (EFBIG); QEMU would die of SIGXFSZ, so it is not compared."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    vm = writer("vmmd", image, policy)
    vm.argv += ["-S"]
    with vm:
        resource.prlimit(vm.pid, resource.RLIMIT_FSIZE, (ROOM_BYTES, resource.RLIM_INFINITY))
        vm.qmp.cmd("cont")
        data = io_error(vm)
        assert (data["action"], data["nospace"], data["reason"]) == (action, False, "File too large")
        if action == "report":
            assert errors_of_guest(vm) == BLOCKS - ROOM_BYTES // 4096
            return
        vm.qmp.wait_event("STOP")
        (block,) = vm.qmp.cmd("query-block")
        assert block["io-status"] == "failed"
        resource.prlimit(vm.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        vm.qmp.cmd("cont")
        assert errors_of_guest(vm) == 0
