# SPDX-License-Identifier: Apache-2.0
"""Devices that are plugged and unplugged while the process runs (device_add, device_del).

LIMIT: only while the guest stands at its start: before it first runs, and after a reset of a stopped machine. There the
device is as good as one of the command line: same checks, same realize, and firmware finds it in its tables. A guest
that runs would have to be told (ACPI hot plug), which this version cannot.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vmmd.core.background import on_thread
from vmmd.core.device import Device
from vmmd.core.events import DeviceDeletedEvent
from vmmd.errors import DeviceNotFoundError, StateError, UsageError, did_you_mean
from vmmd.machine import device_plan
from vmmd.runstate import RunState

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.props import PropSet
    from vmmd.core.tree import Node
    from vmmd.machine.device_plan import DevicePlan
    from vmmd.machine.pc_i440fx import PcI440fx
    from vmmd.machine.vm import Vm
    from vmmd.options.models import DeviceOptions

#: buses whose devices may come and go, as QEMU has it
_HOTPLUG_BUSES = ("PCI",)


class Plugger:
    """Plugs into one board. Loop thread."""

    def __init__(self, vm: Vm, board: PcI440fx, tell_firmware: Callable[[], None]) -> None:
        """``tell_firmware()`` brings up to date what firmware is told of the devices, and what it has set up in them
        where none runs (-kernel). Raises VmmdError."""
        self._vm = vm
        self._board = board
        self._tell_firmware = tell_firmware

    async def add(self, options: DeviceOptions) -> None:
        """Make and plug a device. Raises VmmdError, and leaves nothing behind then."""
        vm = self._vm
        # a type that was not used so far is a module to import
        cls = await on_thread(vm.loop, partial(device_plan.find_class, options.driver), "import")
        _check_hotplug_bus(cls.bus_type, device_plan.find_bus(cls, options))
        self._check_at_start("device hot plug")
        async with vm.at_rest():
            self._check_at_start("device hot plug")
            if options.id is not None and options.id in vm.qom.peripheral.children:
                # QEMU-COMPAT: QEMU's sentence
                raise UsageError(f"Duplicate device ID '{options.id}'")
            plan = device_plan.check(options, vm.config.globals)
            try:
                await self._lock_images(plan.props)
                with vm.lock:
                    self._plug(plan)
            except BaseException:
                await self._unlock_images()
                raise

    def _plug(self, plan: DevicePlan) -> None:
        device = self._board.add(plan)
        device.hotplugged = True
        try:
            self._tell_firmware()
        except BaseException:
            self._board.remove(device)
            self._tell_firmware()
            raise

    async def remove(self, id_: str) -> None:
        """Unplug a device by its id, or by its path in the object tree. Raises VmmdError."""
        vm = self._vm
        device = self._find(id_)
        self._check_at_start("device hot unplug")
        async with vm.at_rest():
            self._check_at_start("device hot unplug")
            if self._find(id_) is not device:  # while we waited for our turn
                raise DeviceNotFoundError(f"Device '{id_}' not found")
            with vm.lock:
                self._board.remove(device)
            try:
                await self._unlock_images()
                with vm.lock:
                    self._tell_firmware()
            finally:  # it is gone, whatever became of the rest
                if device.inner_name:
                    vm.events.emit(DeviceDeletedEvent(None, f"{device.qom_path}/{device.inner_name}"))
                vm.events.emit(DeviceDeletedEvent(device.id, device.qom_path))

    async def _lock_images(self, props: PropSet) -> None:
        """Take the locks of a new device's images beforehand: where it claims them, nobody may wait. Raises
        BackendError."""
        block = self._vm.block
        for each in props.each():
            id_ = props.values.get(each.name)
            if block is not None and each.kind.ref_kind == "drive" and id_:
                await block.lock_later(id_, share_rw=bool(props.values.get("share_rw")))

    async def _unlock_images(self) -> None:
        if self._vm.block is not None:
            await self._vm.block.unlock_later()

    def _find(self, id_: str) -> Device:
        """The device, which may be unplugged. Raises VmmdError in QEMU's words."""
        node = self._node(id_)
        device = node.subject
        if not isinstance(device, Device):
            raise UsageError(f"{id_} is not a hotpluggable device")
        if node.path != device.qom_path:
            raise UsageError("Bus 'virtio-bus' does not support hotplugging", f"unplug {device.qom_path}")
        _check_hotplug_bus(device.bus_type, device.bus_name)
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

    def _check_at_start(self, what: str) -> None:
        if self._vm.runstate.state is not RunState.PRELAUNCH:
            raise StateError(
                f"{what} is not available in this version",
                "it is possible before the guest has started (-S), and after stop and system_reset",
            )


def _check_hotplug_bus(bus_type: str | None, bus: str) -> None:
    if bus_type not in _HOTPLUG_BUSES:
        # QEMU-COMPAT: QEMU's sentence
        raise UsageError(
            f"Bus '{bus}' does not support hotplugging",
            "give the device on the command line",
        )
