# SPDX-License-Identifier: Apache-2.0
"""Devices that are plugged and unplugged while the process runs (device_add, device_del).

A guest that runs, or has run, is told (``devices.acpi.pci_hotplug``) and gives the new device its addresses; it is
asked for one that is to go (``machine.unplug``). Nobody is made to wait: modules and image locks are the work of
threads, the device is realized in one turn under the DeviceLock, and what fails leaves nothing behind.

While the guest stands at its start (before it first runs, and after a reset of a stopped machine) a device is as good
as one of the command line: firmware's tables are made anew, and one that is to go goes at once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vmmd.core.background import on_thread
from vmmd.core.device import Device
from vmmd.core.registry import is_loaded
from vmmd.devices.pci.device import PciDevice
from vmmd.errors import DeviceNotFoundError, UsageError, did_you_mean
from vmmd.machine import device_plan
from vmmd.machine.unplug import Unplugger
from vmmd.runstate import RunState

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.props import PropSet
    from vmmd.core.tree import Node
    from vmmd.machine.device_plan import DevicePlan
    from vmmd.machine.pc_i440fx import PcI440fx
    from vmmd.machine.vm import Vm
    from vmmd.options.models import DeviceOptions

#: kinds of bus whose devices may come and go
_GUEST_IS_ASKED = ("PCI",)
_AT_ONCE = ("virtio-serial-bus",)


class Plugger:
    """Plugs into one board. Loop thread."""

    def __init__(self, vm: Vm, board: PcI440fx, tell_firmware: Callable[[], None]) -> None:
        """``tell_firmware()`` brings up to date what firmware is told of the devices, and what it has set up in them
        where none runs (-kernel). Raises VmmdError."""
        self._vm = vm
        self._board = board
        self._tell_firmware = tell_firmware
        self.unplugger = Unplugger(vm, board)

    @property
    def _at_start(self) -> bool:
        """The guest has not run since the last reset, and does not run."""
        return self._vm.runstate.state is RunState.PRELAUNCH

    # -- in ------------------------------------------------------------------------------------------------

    async def add(self, options: DeviceOptions) -> None:
        """Make and plug a device. Raises VmmdError, and leaves nothing behind then."""
        vm = self._vm
        find = partial(device_plan.find_class, options.driver)
        # a type that was not used so far is a module to import
        cls = find() if is_loaded(options.driver) else await on_thread(vm.loop, find, "import")
        if cls.bus_type is None:
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError("Parameter 'driver' expects a pluggable device type", "give it on the command line")
        self._check_bus(cls.bus_type, device_plan.find_bus(cls, options, self._board.bus_names))
        if self._at_start and cls.bus_type in _GUEST_IS_ASKED:
            async with vm.at_rest():  # cont, which would run firmware, waits
                await self._add(options)
        else:
            await self._add(options)

    async def _add(self, options: DeviceOptions) -> None:
        self._check_id(options.id)
        plan = device_plan.check(options, self._vm.config.device_defaults, self._board.bus_names)
        locked: list[str] = []
        try:
            await self._lock_images(plan.props, locked)
            self._check_id(options.id)  # another client may have been faster
            with self._vm.lock:
                self._plug(plan)
        except BaseException:
            await self._unlock_images(locked)
            raise

    def _check_id(self, id_: str | None) -> None:
        if id_ is not None and (id_ in self._vm.qom.peripheral.children or self.unplugger.leaving(id_)):
            # QEMU-COMPAT: QEMU's sentence
            raise UsageError(f"Duplicate device ID '{id_}'")

    def _plug(self, plan: DevicePlan) -> None:
        device = self._board.add(plan, hotplugged=True)
        if not isinstance(device, PciDevice):
            return
        if not self._at_start:
            self._board.pm.pci_hotplug.announce(device.slot)
            return
        try:
            self._tell_firmware()
        except BaseException:
            self._board.remove(device, [])
            self._tell_firmware()
            raise

    async def _lock_images(self, props: PropSet, locked: list[str]) -> None:
        """Take the locks of a new device's images beforehand: where it claims them, nobody may wait. Raises
        VmmdError; ``locked`` has those that were taken."""
        block = self._vm.block
        for each in props.each():
            id_ = props.values.get(each.name)
            if block is not None and each.kind.ref_kind == "drive" and id_:
                await block.lock_later(id_, share_rw=bool(props.values.get("share_rw")))
                locked.append(id_)

    async def _unlock_images(self, locked: list[str]) -> None:
        block = self._vm.block
        if block is not None:
            for id_ in locked:
                block.spare(id_)
            await block.unlock_later()

    # -- out -----------------------------------------------------------------------------------------------

    async def remove(self, id_: str) -> None:
        """Unplug a device by its id, or by its path in the object tree: at once, or when the guest lets go of it.
        Raises VmmdError."""
        device = self._find(id_)
        if device.bus_type not in _GUEST_IS_ASKED:
            await self.unplugger.take_away(device)
        elif not self._at_start:
            self.unplugger.ask(device, id_)
        else:
            await self._remove_at_start(device, id_)

    async def _remove_at_start(self, device: Device, id_: str) -> None:
        vm = self._vm
        async with vm.at_rest():
            if self._find(id_) is not device:  # while we waited for our turn
                raise DeviceNotFoundError(f"Device '{id_}' not found")
            if not self._at_start:
                self.unplugger.ask(device, id_)
                return
            await self.unplugger.take_away(device, self._tell_firmware)

    @property
    def is_pending(self) -> bool:
        """A reset has something to complete."""
        return self.unplugger.is_pending

    async def serve_requests(self) -> None:
        """The machine is reset: all that guests were asked for goes now (turn held, nothing in flight). Does not
        raise."""
        await self.unplugger.serve_all()

    def _find(self, id_: str) -> Device:
        """The device, which may be unplugged. Raises VmmdError in QEMU's words."""
        node = self._node(id_)
        device = node.subject
        if not isinstance(device, Device):
            raise UsageError(f"{id_} is not a hotpluggable device")
        if node.path != device.qom_path:
            raise UsageError("Bus 'virtio-bus' does not support hotplugging", f"unplug {device.qom_path}")
        self._check_bus(device.bus_type, device.bus_name)
        if not device.user_creatable:
            raise UsageError(f"Device '{device.type_name}' does not support hotplugging", "it is a part of the board")
        return device

    def _node(self, id_: str) -> Node:
        tree = self._vm.qom
        if id_.startswith("/"):
            return tree.resolve(id_)
        found: Node = tree.peripheral
        for part in id_.split("/"):
            if part not in found.children:
                raise DeviceNotFoundError(f"Device '{id_}' not found", did_you_mean(part, found.children))
            found = found.children[part]
        return found

    def _check_bus(self, bus_type: str | None, bus: str) -> None:
        """Devices on this bus may come and go. Raises UsageError."""
        if bus_type in _AT_ONCE:
            return
        if bus_type not in _GUEST_IS_ASKED:
            hint = "give the device on the command line"
        elif self._board.pm.pci_hotplug.bus is None:
            hint = "PIIX4_PM.acpi-root-pci-hotplug and -machine acpi must be on"
        else:
            return
        # QEMU-COMPAT: QEMU's sentence
        raise UsageError(f"Bus '{bus}' does not support hotplugging", hint)
