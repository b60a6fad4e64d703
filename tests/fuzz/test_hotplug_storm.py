# SPDX-License-Identifier: Apache-2.0
"""Clients plug, unplug, stop and reset at random while a guest writes anything to the hot plug registers: only errors
for users come back, whatever happens at the same time, and in the end nothing is left."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_hotplug_at_start import run, traces
from tests.integration.test_hotplug_running import RUNNING, Guest, plugger_of, until
from vmmd.core.events import DeviceDeletedEvent
from vmmd.errors import VmmdError
from vmmd.options.models import DeviceOptions

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from vmmd.machine.vm import Vm

STEPS = 1_000
AT_ONCE = 12  # operations that wait for each other or for the guest
BASE, REGISTERS_BYTES = 0xAE00, 0x18
EJECT, REMOVABLE, BUS = 0x08, 0x0C, 0x10
IDS = [f"d{number}" for number in range(6)]
SLOTS = range(2, 8)
PORTS = ("virtserialport", "virtconsole")
DRIVERS = (
    "virtio-blk-pci", "virtio-rng-pci", "virtio-serial-pci", "virtio-net-pci", "virtio-balloon-pci", "i6300esb",
    "pvpanic-pci", "pci-testdev", *PORTS,
)  # fmt: skip


class Storm:
    def __init__(self, vm: Vm, seed: str) -> None:
        self.vm = vm
        self.guest = Guest(vm)
        self.random = random.Random(seed)
        self.refused = 0
        self.done = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def step(self) -> None:
        """One more thing happens; what went before may not have ended."""
        choose = self.random
        kind = choose.choices(("guest", "add", "remove", "state", "wait"), (8, 5, 4, 1, 2))[0]
        if kind == "guest":
            self._access()
        elif kind == "add":
            self._begin(plugger_of(self.vm).add(self._device()))
        elif kind == "remove":
            self._begin(plugger_of(self.vm).remove(choose.choice(IDS)))
        elif kind == "state":
            self._begin(choose.choice((self.vm.stop, self.vm.cont, self.vm.cont, self.vm.system_reset))())
        if kind == "wait" or len(self.tasks) > AT_ONCE:
            await asyncio.sleep(0.001)

    def _access(self) -> None:
        choose, offset = self.random, self.random.randrange(REGISTERS_BYTES)
        if choose.random() < 0.7:  # what makes sense
            offset = choose.choice((EJECT, EJECT, EJECT, REMOVABLE, BUS))
        value = choose.choice((1 << choose.choice(SLOTS), choose.getrandbits(32)))
        if offset == BUS and choose.random() < 0.8:
            value = 0
        size = choose.choice((1, 2, 4, 4, 4, 4))
        with self.vm.lock:
            self.vm.pio.read(BASE + choose.randrange(REGISTERS_BYTES), size)
            self.vm.pio.write(BASE + offset, size, value)

    def _device(self) -> DeviceOptions:
        choose = self.random
        driver = choose.choice(DRIVERS)
        items: list[tuple[str, object]] = []
        if driver == "virtio-blk-pci":
            items.append(("drive", choose.choice(("n0", "n1"))))
        if driver not in PORTS and choose.random() < 0.7:
            items.append(("addr", f"{choose.choice(SLOTS):x}.{choose.choice((0, 0, 1, 2))}"))
            items.append(("multifunction", choose.choice(("on", "off"))))
        return DeviceOptions(driver, choose.choice(IDS), None, items)

    def _begin(self, operation: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(self._finish(operation))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _finish(self, operation: Coroutine[Any, Any, None]) -> None:
        try:
            await operation
            self.done += 1
        except VmmdError:
            self.refused += 1

    async def end(self) -> None:
        """Everything comes to rest, and every device goes."""
        while self.tasks:
            await asyncio.wait(set(self.tasks))
        await self.vm.cont()
        self.guest.write(BASE + BUS, 0)
        for slot in SLOTS:
            self.guest.eject(slot)
        for slot in range(SLOTS.stop, 32):
            self.guest.eject(slot)
        await until(lambda: not set(IDS) & set(self.vm.qom.peripheral.children))
        unplugger = plugger_of(self.vm).unplugger
        await until(lambda: all(each.state != "ejected" or each.deleted for each in unplugger.reports()))
        self.guest.read(BASE)


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_nothing_is_left_of_a_storm(seed: str, capfd: pytest.CaptureFixture[str]) -> None:
    async def story(vm: Vm, events: list[Any]) -> None:
        await vm.cont()
        warm = Storm(vm, "warm")
        for _ in range(100):
            await warm.step()
        await warm.end()
        before = traces(vm)
        storm = Storm(vm, seed)
        for _ in range(STEPS):
            await storm.step()
        await storm.end()
        after = traces(vm)
        assert after == before
        assert storm.done > STEPS // 20
        assert storm.refused > STEPS // 20
        told = [each.device for each in events if isinstance(each, DeviceDeletedEvent) and each.device]
        assert set(told) <= set(IDS)

    run(RUNNING, story)
    assert "Traceback" not in capfd.readouterr().err
