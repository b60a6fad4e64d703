# SPDX-License-Identifier: Apache-2.0
"""Counters of virtqueues, and what the monitor shows of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.virtqueue_driver import F_EVENT_IDX
from tests.unit.qmp_support import FakeVm, ManualLoop, run_to_end
from tests.unit.virtio_rig import FULL, IN, OUT, Rig, rig
from vmmd.qmp.commands.vmmd import query_virtqueues
from vmmd.qmp.hmp.monitor import HumanMonitor
from vmmd.qmp.registry import Context

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def blk() -> Iterator[Rig]:
    with rig(num_queues="1") as made:
        yield made


@pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
def test_counters_tell_rings_requests_and_interrupts_and_outlive_a_reset(blk: Rig, modern: bool) -> None:
    counters = blk.device.virtio.counters[0]
    ring = blk.driver(modern=modern, features=FULL & ~F_EVENT_IDX).queues[0]  # an interrupt for every batch
    for _ in range(3):
        blk.run(ring, IN, 0, 512)
    for slot in range(4):  # one ring for four requests
        blk.request(ring, IN, 0, 512, slot=slot)
    ring.kick()
    blk.loop.settle()
    assert (counters.notifications, counters.requests, counters.interrupts) == (4, 7, 4)
    blk.stop_vm()
    blk.resume_vm()  # looks at the ring without being told
    blk.reset()
    assert (counters.notifications, counters.requests, counters.interrupts) == (4, 7, 4)


def test_query_virtqueues_shows_what_is_in_flight(blk: Rig) -> None:
    vm = FakeVm(ManualLoop())
    vm.devices = [blk.device]

    def ask() -> Any:
        return blk.loop.call(lambda: query_virtqueues(Context(vm, SimpleNamespace())))

    idle = {"index": 0, "size": 256, "enabled": False, "notifications": 0, "requests": 0, "interrupts": 0}
    assert ask() == [
        {
            "qdev": "/machine/peripheral/vda",
            "id": "vda",
            "driver": "virtio-blk-pci",
            "queues": [{**idle, "in-flight": 0}],
        }
    ]
    ring = blk.driver(size=64).queues[0]
    blk.disk.hold = True
    blk.request(ring, IN, 0, 512)
    blk.request(ring, OUT, 8, b"x" * 512, slot=1)
    ring.kick()
    blk.loop.settle()
    busy = {**idle, "size": 64, "enabled": True, "notifications": 1}
    assert ask()[0]["queues"] == [{**busy, "in-flight": 2}]
    blk.loop.call(blk.disk.complete)
    assert ask()[0]["queues"] == [{**busy, "requests": 2, "interrupts": 1, "in-flight": 0}]
    text = run_to_end(HumanMonitor(vm).run("info virtqueues"), vm.loop)
    assert text == (
        "vda: virtio-blk-pci\r\n    queue 0: size=64 notifications=1 requests=2 interrupts=1 in-flight=0\r\n"
    )
