# SPDX-License-Identifier: Apache-2.0
"""Trace events: the monitor's sentences, and what the same boot reports, on vmmd and on QEMU."""

from __future__ import annotations

import re
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qmp import QmpError
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

#: what both call the same, for a disk that has no id
EVENTS = (
    "virtio_set_status", "virtio_queue_notify", "pci_update_mappings_add", "pci_update_mappings_del",
    "virtio_blk_handle_read", "virtio_blk_req_complete", "kvm_init_vcpu",
)  # fmt: skip
BOOT_S = 60.0
LOOK_S = 0.1
#: QEMU has addresses of objects where vmmd has names of devices and numbers of queues and descriptors
DIFFERENT = re.compile(r" (vdev|vq|req|n) \S+")

ASK: tuple[tuple[str, dict[str, Any]], ...] = (
    ("trace-event-get-state", {"name": "virtio_set_status"}),
    ("trace-event-set-state", {"name": "virtio_set_status", "enable": True}),
    ("trace-event-get-state", {"name": "virtio_set_status"}),
    ("trace-event-set-state", {"name": "pci_cfg_*", "enable": True, "ignore-unavailable": True}),
    ("trace-event-get-state", {"name": "pci_cfg_*"}),
    ("trace-event-get-state", {"name": "nope"}),
    ("trace-event-get-state", {"name": "nope*"}),
    ("trace-event-set-state", {"name": "nope", "enable": True}),
    ("trace-event-set-state", {"name": "nope*", "enable": True}),
    ("trace-event-set-state", {"name": "", "enable": True}),
    ("trace-event-get-state", {"name": "pci_cfg_read", "vcpu": 0}),
    ("trace-event-get-state", {"name": "pci_cfg_*", "vcpu": 0}),
    ("trace-event-get-state", {"name": "guest_cpu_reset", "vcpu": 0}),
    ("trace-event-get-state", {"name": "guest_cpu_reset", "vcpu": 7}),
    ("trace-event-set-state", {"name": "guest_cpu_reset", "vcpu": 7, "enable": True}),
    ("trace-event-set-state", {"name": "guest_cpu_reset", "vcpu": 0, "enable": True}),
    ("trace-event-get-state", {"name": "guest_cpu_reset"}),
)
SAY = (
    "trace-event pci_cfg_read off", "info trace-events pci_cfg_read", "trace-event nope on", "trace-event pci_cfg_read",
    "trace-event pci_cfg_read maybe", "info trace-events nope", "info trace-events guest_cpu_reset 9",
    "trace-event guest_cpu_reset off 9", "log", "log none", "logfile", "logfile /none/x", "logfile /tmp/%s",
)  # fmt: skip


def answers(name: str) -> list[Any]:
    found: list[Any] = []
    with Vm(emulator(name), ["-machine", "pc,accel=kvm", "-m", "32", "-nodefaults", "-S"], serial=False) as vm:
        for command, arguments in ASK:
            try:
                found.append(vm.qmp.cmd(command, arguments))
            except QmpError as error:
                found.append(str(error).partition(";")[0])
        found += [vm.qmp.hmp(line).partition(";")[0].rstrip() for line in SAY]
    for each in found:
        if isinstance(each, list):
            each.sort(key=lambda event: event["name"])
    return found


def test_the_monitor_answers_as_qemus() -> None:
    asked = [*ASK, *SAY]
    ours, theirs = answers("vmmd"), answers("qemu")
    assert [each for each in zip(asked, ours, theirs, strict=True) if each[1] != each[2]] == []


def boot(name: str, directory: Path) -> tuple[list[str], list[str]]:
    """What the firmware's way to the boot sector reports of the disk: where its BARs come to lie, and the rest."""
    disk, log = directory / f"{name}.img", directory / f"{name}.log"
    disk.write_bytes(bytes.fromhex("fa f4").ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    args = ["-machine", "pc,accel=kvm", "-m", "32", "-nodefaults", "-D", str(log)]
    args += ["-drive", f"if=none,id=d,file={disk},format=raw", "-device", "virtio-blk-pci,drive=d"]
    for event in EVENTS:
        args += ["-trace", event]
    with Vm(emulator(name), args, serial=False) as vm:
        deadline = time.monotonic() + BOOT_S
        while "virtio_blk_req_complete" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            vm.reactor.wait(lambda: False, LOOK_S)  # nothing tells that a file has grown
    lines = [DIFFERENT.sub("", line) for line in log.read_text().splitlines()]
    lines = [line for line in lines if "mappings" not in line or "virtio-blk-pci" in line]
    end = next(number for number, line in enumerate(lines) if line.startswith("virtio_blk_req_complete"))
    mapped = sorted(line for line in lines[:end] if "mappings" in line)
    # QEMU resets the device several times more, and rings twice
    others = [key for key, _ in groupby(line for line in lines[: end + 1] if "mappings" not in line)]
    return mapped, others[others.index("virtio_set_status val 0") :]


def test_a_boot_from_disk_reports_what_qemu_reports(tmp_path: Path) -> None:
    mapped, others = boot("vmmd", tmp_path)
    assert (mapped, others) == boot("qemu", tmp_path)
    assert len(mapped) == 3
    assert others[-2:] == ["virtio_blk_handle_read sector 0 nsectors 1", "virtio_blk_req_complete status 0"]
