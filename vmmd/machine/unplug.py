# SPDX-License-Identifier: Apache-2.0
"""Devices on their way out: what was asked for, whether the guest has seen it, and taking away what it lets go.

    requested → seen → ejected            the guest reads the request, and lets go
                     → refused            its _OST says no; DEVICE_UNPLUG_GUEST_ERROR
    requested, seen  → timed-out          no answer for a while; it may come yet

device_del asks again whenever the guest has not answered; a request that it has seen may have been lost all the same.

A device that the guest has let go of has vanished from its sight (``PciDevice.vanish``). Here, on the loop, its
requests in flight are waited for, a few seconds at most: where a disk does not answer its device goes all the same, and
the image stays open until it does. Then it is unplugged, what went with it is closed, and DEVICE_DELETED is queued:
from that moment its id is free. A reset of the machine completes all that is pending before it returns.
"""

from __future__ import annotations

from collections import deque
from time import monotonic_ns
from typing import TYPE_CHECKING, Literal, NamedTuple

from vmmd.core.background import within
from vmmd.core.events import DeviceDeletedEvent, DeviceUnplugGuestErrorEvent
from vmmd.devices.acpi.pci_hotplug import GuestSide
from vmmd.devices.pci.device import PciDevice
from vmmd.errors import VmmdError
from vmmd.log import get_logger
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.core.device import Device
    from vmmd.core.notify import Cancellable, Promise
    from vmmd.machine.pc_i440fx import PcI440fx
    from vmmd.machine.vm import Vm

log = get_logger("vmmd.machine")

UnplugState = Literal["requested", "seen", "ejected", "refused", "timed-out"]

#: without an answer for so long, a request counts as timed out
ANSWER_LIMIT_NS = 5 * NS_PER_S
#: how long requests in flight, image locks and closing may hold up DEVICE_DELETED
DRAIN_LIMIT_NS = 5 * NS_PER_S
#: requests that have ended and are still shown
KEPT = 32


class UnplugReport(NamedTuple):
    """How far a request is; it knows nothing of the device, which may be gone."""

    id: str | None
    path: str
    driver: str
    state: UnplugState
    deleted: bool
    age_ns: int  # since it was last asked for; until it ended


class UnplugRequest:
    """One device that was asked for, or that the guest has let go by itself. Loop thread."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.id = device.id
        self.path = device.qom_path
        self.gone = [device]  # what goes with it, too, in order
        self.state: UnplugState = "requested"
        self.requested_ns = monotonic_ns()
        self.ended_ns: int | None = None  # it is deleted, or refused
        self.timer: Cancellable | None = None
        #: while it is taken away: what it has in flight, and the end of it all
        self.drained: Promise | None = None
        self.deleted: Promise | None = None

    def report(self) -> UnplugReport:
        end_ns = monotonic_ns() if self.ended_ns is None else self.ended_ns
        deleted = self.state == "ejected" and self.ended_ns is not None
        age_ns = end_ns - self.requested_ns
        return UnplugReport(self.id, self.path, self.device.type_name, self.state, deleted, age_ns)

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Unplugger:
    """Takes devices from one board. Loop thread; the guest's answers come on any thread."""

    def __init__(self, vm: Vm, board: PcI440fx) -> None:
        self._vm = vm
        self._board = board
        self._requests: dict[Device, UnplugRequest] = {}
        self._ended: deque[UnplugReport] = deque(maxlen=KEPT)
        #: how long the guest may take for an answer before DEVICE_UNPLUG_GUEST_ERROR says that there is none
        self.report_after_ns: int | None = None
        post = vm.loop.post
        board.pm.pci_hotplug.guest = GuestSide(
            lambda slots: post(self._seen, slots),
            lambda devices: post(self._let_go, devices),
            lambda slot: post(self._refused, slot),
        )

    # -- what clients see ----------------------------------------------------------------------------------

    def reports(self) -> list[UnplugReport]:
        """All that are pending, and the last that have ended; the oldest first."""
        return [*self._ended, *(each.report() for each in self._requests.values())]

    def leaving(self, id_: str) -> bool:
        """A device of this id is being taken away: it is not free yet."""
        requests = self._requests.values()
        return any(gone.id == id_ for each in requests if each.deleted is not None for gone in each.gone)

    @property
    def is_pending(self) -> bool:
        """The guest is asked for a device, or one is being taken away."""
        return bool(self._requests)

    # -- asking the guest ----------------------------------------------------------------------------------

    def ask(self, device: Device, name: str) -> None:
        """Ask the guest to let go of a device that it knows; again, if it was asked before: it may not have listened
        (QEMU-COMPAT: 7.2.22 does so, and is measured with a guest that runs). Raises VmmdError when it has let go."""
        request = self._requests.pop(device, None)
        if request is not None:
            request.stop_timer()
            if request.deleted is not None:
                self._requests[device] = request
                # QEMU-COMPAT: QEMU's sentence
                raise VmmdError(f"Device {name} is already in the process of unplug", "DEVICE_DELETED is about to come")
        request = self._requests[device] = UnplugRequest(device)
        self._start_timer(request)
        assert isinstance(device, PciDevice)  # others are taken away without the guest
        with self._vm.lock:
            self._board.pm.pci_hotplug.request(device.slot)

    def _start_timer(self, request: UnplugRequest) -> None:
        limit_ns = ANSWER_LIMIT_NS if self.report_after_ns is None else self.report_after_ns
        request.timer = self._vm.loop.call_later(limit_ns, self._timed_out, request)

    def _timed_out(self, request: UnplugRequest) -> None:
        request.timer = None
        if self._requests.get(request.device) is not request or request.deleted is not None:
            return
        request.state = "timed-out"
        if self.report_after_ns is not None:
            self._vm.events.emit(DeviceUnplugGuestErrorEvent(request.id, request.path))

    # -- the guest's answers -------------------------------------------------------------------------------

    def _asked_in(self, slot: int) -> list[UnplugRequest]:
        return [
            each
            for each in self._requests.values()
            if isinstance(each.device, PciDevice) and each.device.slot == slot and each.deleted is None
        ]

    def _seen(self, slots: int) -> None:
        for request in self._requests.values():
            device = request.device
            if request.state == "requested" and isinstance(device, PciDevice) and slots >> device.slot & 1:
                request.state = "seen"

    def _refused(self, slot: int) -> None:
        for request in self._asked_in(slot):
            request.state = "refused"
            self._end(request)
            self._vm.events.emit(DeviceUnplugGuestErrorEvent(request.id, request.path))

    def _let_go(self, devices: list[PciDevice]) -> None:
        for device in devices:
            self._vm.loop.spawn(self.take_away(device), f"unplug {device.name}")

    def _end(self, request: UnplugRequest) -> None:
        request.stop_timer()
        request.ended_ns = monotonic_ns()
        self._requests.pop(request.device, None)
        self._ended.append(request.report())

    # -- taking away ---------------------------------------------------------------------------------------

    async def take_away(self, device: Device, last: Callable[[], None] | None = None) -> None:
        """Unplug a device that the guest does not use any more. Raises only what ``last`` does, which is called with
        the DeviceLock held when the device is gone, before anybody is told."""
        if device not in self._board.devices:
            return
        request = self._requests.get(device)
        if request is None:
            request = self._requests[device] = UnplugRequest(device)
        elif request.deleted is not None:
            return
        loop = self._vm.loop
        request.stop_timer()
        request.state = "ejected"
        request.drained, request.deleted = loop.create_future(), loop.create_future()
        deadline_ns = monotonic_ns() + DRAIN_LIMIT_NS
        try:
            await self._drain(device, request.drained)
            await self._remove(request, deadline_ns)
            if last is not None:
                with self._vm.lock:
                    last()
        finally:
            self._end(request)
            self._tell(request)
            request.deleted.set_result(None)

    async def _drain(self, device: Device, drained: Promise) -> None:
        """Wait for what is in flight, so long at most."""

        def over() -> None:
            if not drained.done():
                drained.set_result(None)

        def too_long() -> None:
            log.warning("%s is unplugged with requests in flight that do not end", device.name)
            over()

        with self._vm.lock:
            device.wind_down(over)
        timer = self._vm.loop.call_later(DRAIN_LIMIT_NS, too_long)
        await drained
        timer.cancel()

    async def _remove(self, request: UnplugRequest, deadline_ns: int) -> None:
        device, block = request.device, self._vm.block
        request.gone = []
        if device not in self._board.devices:  # it went with what it sat on, which has told so
            return
        drives = [] if block is None else [each for each in block.query() if _is_part(each.qdev, device)]
        try:
            with self._vm.lock:
                self._board.remove(device, request.gone)
        except Exception:
            log.exception("of %s something could not be given back", device.name)
        if block is None:
            return
        for drive in drives:
            block.retire(drive)
        left_ns = max(0, deadline_ns - monotonic_ns())
        if not await within(self._vm.loop, left_ns, block.unlock_later(), "close images"):
            log.warning("the image of %s could not be closed in time", device.name)

    def _tell(self, request: UnplugRequest) -> None:
        emit = self._vm.events.emit
        for device in request.gone:
            if device.inner_name:
                emit(DeviceDeletedEvent(None, f"{device.qom_path}/{device.inner_name}"))
            emit(DeviceDeletedEvent(device.id, device.qom_path))

    # -- a reset -------------------------------------------------------------------------------------------

    async def serve_all(self) -> None:
        """The machine is reset, nothing is in flight or it is waited for no longer: what was asked for goes now, lowest
        slot first, and what is going ends. Does not raise."""
        with self._vm.lock:
            devices = list(self._requested())
            for device in devices:
                device.vanish()
        # those that it has let go, and whose turn has not come yet
        devices += [each for each in self._board.devices if isinstance(each, PciDevice) and each.vanished]
        for request in list(self._requests.values()):
            if request.drained is not None and not request.drained.done():
                request.drained.set_result(None)
            if request.deleted is not None:
                await request.deleted
        for device in devices:
            await self.take_away(device)

    def _requested(self) -> Iterable[PciDevice]:
        """Functions of the slots that the guest was asked for. QEMU-COMPAT: in QEMU's order."""
        hotplug = self._board.pm.pci_hotplug
        for slot in range(hotplug.requested.bit_length()):
            if hotplug.requested >> slot & 1:
                hotplug.withdraw(slot)
                yield from (each for each in self._board.bus.functions(slot) if each.hotpluggable and not each.vanished)


def _is_part(path: str | None, device: Device) -> bool:
    return path is not None and f"{path}/".startswith(f"{device.qom_path}/")
