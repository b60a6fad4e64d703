# SPDX-License-Identifier: Apache-2.0
"""What the monitor tells of a guest that runs: vCPUs, KVM's counters, virtqueues."""

from __future__ import annotations

import pytest

from tests.framework import guests
from tests.framework.vm import Vm, emulator
from vmmd.kvm.host import host_kvm

pytestmark = pytest.mark.kvm

MACHINE = ["-machine", "pc,accel=kvm", "-cpu", "qemu64,-cx16,-pni,-xsave", "-m", "64", "-nodefaults"]
DISK = ["-blockdev", "null-co,node-name=n0,size=67108864", "-device", "virtio-blk-pci,drive=n0,id=disk0"]
GUEST_S = 60.0
WORK_S = 0.5


def test_insight_of_a_guest_that_does_port_io_and_disk_requests() -> None:
    work = (
        f"pio {int(WORK_S * 1000)}ms 233;blk {int(WORK_S * 1000)}ms 4096 8 r;spin"  # a vCPU that spins answers nobody
    )
    args = [*MACHINE, *DISK, "-smp", "2", "-kernel", str(guests.bench().multiboot), "-append", work]
    with Vm(emulator("vmmd"), args) as vm:
        vm.serial.expect("@S pio", GUEST_S)
        first = vm.qmp.cmd("__org.vmmd_query-kvm")
        vm.serial.expect("@E blk", GUEST_S)
        vm.qmp.cmd("query-stats", target="vcpu")
        second = vm.qmp.cmd("__org.vmmd_query-kvm")
        queues = vm.qmp.cmd("__org.vmmd_query-virtqueues")
        disk = vm.qmp.cmd("query-blockstats", {"query-nodes": False})[0]["stats"]
        shown = vm.qmp.hmp("info virtqueues")
    assert (first["vendor"], first["module"], first["paging"]) == host_kvm()
    busy, idle = second["vcpus"]
    reasons = {each["reason"]: each for each in busy["reasons"]}
    counters = {each["name"]: each["value"] for each in busy["counters"]}
    assert reasons["io"]["count"] > sum(each["count"] for each in first["vcpus"][0]["reasons"])
    assert reasons["io"]["per-second"] > 0
    assert counters["exits"] >= busy["exits"] > 1000
    assert idle["exits"] < 100
    assert {"pages_4k", "mmu_shadow_zapped"} <= {each["name"] for each in second["counters"]}
    (device,) = queues
    assert (device["id"], device["driver"], len(device["queues"])) == ("disk0", "virtio-blk-pci", 2)
    queue = device["queues"][0]
    assert queue["requests"] == disk["rd_operations"] > 100
    assert 0 < queue["notifications"] <= queue["requests"]
    assert queue["in-flight"] == 0
    assert shown.startswith("disk0: virtio-blk-pci\r\n    queue 0")
    assert f" notifications={queue['notifications']} requests={queue['requests']} " in shown
