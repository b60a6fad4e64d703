# SPDX-License-Identifier: Apache-2.0
"""Devices that come and go many times leave nothing: in the process, and in KVM (``scripts/acceptance-hotplug`` goes
on)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.cache import MissingSources
from tests.framework.hotplug_cycles import Kind, plug_and_unplug, pluggable
from tests.framework.virtio_function import Registers
from tests.framework.virtqueue_driver import Driver
from tests.framework.vm import emulator
from tests.integration.test_hotplug_at_start import KERNEL, NODE, run, traces
from tests.integration.test_hotplug_running import SLOT, Guest, NoDoorbells, plugger_of, said, until
from vmmd.core.events import DeviceDeletedEvent
from vmmd.kvm.vm import KvmVm
from vmmd.net.descriptors import OutsideDescriptors
from vmmd.options.cmdline import parse
from vmmd.options.models import DeviceOptions

if TYPE_CHECKING:
    from pathlib import Path

    from vmmd.machine.vm import Vm

pytestmark = pytest.mark.kvm

CYCLES = 40
RINGS = 0x20_0000
#: types whose driver is brought up; others differ in nothing that matters here
DRIVEN_NAMES = ("virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci", "virtio-serial-pci")
DRIVEN = [each for each in pluggable() if each.driver in DRIVEN_NAMES]
BACKENDS = {"drive": [("drive", "n0")], "netdev": [("netdev", "h0")], "": []}


def test_devices_of_every_kind_come_and_go(tmp_path: Path) -> None:
    try:
        result = plug_and_unplug(emulator("vmmd"), tmp_path, cycles=CYCLES)
    except MissingSources as missing:
        pytest.skip(str(missing))
    assert result.faults == []
    assert len(result.kinds) >= 18
    assert result.cycles >= CYCLES


class Kernel:
    """What KVM has been asked for and not given back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.doorbells: set[tuple[Any, ...]] = set()
        self.irqfds: set[tuple[int, int]] = set()
        self.routes = 0
        self.most_doorbells = 0
        ioeventfd, irqfd, set_gsi_routing = KvmVm.ioeventfd, KvmVm.irqfd, KvmVm.set_gsi_routing

        def spy_ioeventfd(this: KvmVm, fd: int, address: int, size: int, **how: Any) -> None:
            deassign = how.get("deassign", False)
            ioeventfd(this, fd, address, size, **how)
            key = fd, address, size, how.get("pio", False)
            (self.doorbells.discard if deassign else self.doorbells.add)(key)
            self.most_doorbells = max(self.most_doorbells, len(self.doorbells))

        def spy_irqfd(this: KvmVm, fd: int, gsi: int, deassign: bool = False, **how: Any) -> None:
            irqfd(this, fd, gsi, deassign, **how)
            (self.irqfds.discard if deassign else self.irqfds.add)((fd, gsi))

        def spy_routing(this: KvmVm, entries: list[Any]) -> None:
            set_gsi_routing(this, entries)
            self.routes = len(entries)

        monkeypatch.setattr(KvmVm, "ioeventfd", spy_ioeventfd)
        monkeypatch.setattr(KvmVm, "irqfd", spy_irqfd)
        monkeypatch.setattr(KvmVm, "set_gsi_routing", spy_routing)

    def state(self, vm: Vm) -> dict[str, Any]:
        assert vm.memory_map is not None
        slots = [(each.gpa, each.size_bytes) for each in vm.memory_map.slots()]
        return {"doorbells": set(self.doorbells), "irqfds": set(self.irqfds), "routes": self.routes, "slots": slots}


def bring_up(vm: Vm) -> None:
    """As a driver does: MSI-X, queue 0, DRIVER_OK."""
    assert vm.pci is not None
    registers = Registers(vm.pci.devices[SLOT, 0], vm.pio, vm.mmio, NoDoorbells(), vm.lock)
    registers.map_bars()
    registers.enable_msix(2)
    driver = Driver(registers, vm.memory, modern=registers.structures() != {})
    driver.negotiate(0)
    ring = driver.setup_queue(0, RINGS, vector=1)
    driver.ready()
    vm.memory.write(RINGS + 0x8000, struct.pack("<IIQ", 0, 0, 0))
    ring.kick()


@pytest.mark.parametrize("kind", DRIVEN, ids=[each.driver for each in DRIVEN])
def test_what_kvm_was_asked_for_is_given_back(kind: Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = tmp_path / "kernel"  # it halts: nobody but the test programs the devices
    image.write_bytes(KERNEL)
    kernel = Kernel(monkeypatch)

    async def story(vm: Vm, events: list[Any]) -> None:
        (port,) = parse(["-netdev", "hubport,id=h0,hubid=0"]).netdevs
        await vm.network().add(port, OutsideDescriptors(vm.fdsets))
        await vm.cont()
        guest = Guest(vm)
        before: tuple[dict[str, Any], dict[str, Any]] | None = None
        for _ in range(3):
            items = [("addr", str(SLOT)), *BACKENDS[kind.backend]]
            await plugger_of(vm).add(DeviceOptions(kind.driver, "d0", None, items))
            bring_up(vm)
            assert kernel.doorbells
            await plugger_of(vm).remove("d0")
            guest.eject()
            await until(lambda: said(events, DeviceDeletedEvent("d0", "/machine/peripheral/d0")))
            events.clear()
            guest.read(0xAE00)
            after = kernel.state(vm), traces(vm)
            if before is not None:  # the first time, things are made that stay
                assert after == before
            before = after

    run((*NODE, "-kernel", str(image)), story)
