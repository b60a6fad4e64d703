# SPDX-License-Identifier: Apache-2.0
"""The ports of virtio-serial (virtio 1.2 §5.3): ``virtserialport``, whose two ends open and close, and ``virtconsole``.

Flow. A port whose host end is full keeps its chains in the ring; a console's output is dropped instead and counted when
a megabyte waits already, because a guest's kernel spins until its console has taken a line. While the guest's end is
closed nothing is read from the host. While the host's end is closed, what the guest writes goes nowhere, as with QEMU
(but into the ``logfile=`` of the character device).

All state belongs to the loop. The backend calls with the DeviceLock held, so that what interrupts the guest is posted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from vmmd.core.backend import CharEvent, ScatterFrontend
from vmmd.core.device import Device
from vmmd.core.events import VserportChangeEvent
from vmmd.core.props import CHARDEV, STR, U32, prop
from vmmd.core.trace_events import VIRTIO_CONSOLE_CHR_EVENT, VIRTIO_SERIAL_THROTTLE_PORT
from vmmd.devices.virtio.serial.device import BUS_TYPE, VirtioSerialPci, queues_of
from vmmd.devices.virtio.serial.messages import Event
from vmmd.devices.virtio.serial.streams import PortInput
from vmmd.devices.virtio.serial.worker import Worker
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmmd.core.backend import CharBackend
    from vmmd.core.device import DeviceContext
    from vmmd.core.props import PropSet
    from vmmd.devices.virtio.serial.device import VirtioSerial

#: introspection's number for a port that is left to vmmd
_OPEN = 0xFFFF_FFFF


class SerialPort(Device, ScatterFrontend):
    """What both kinds of port are."""

    bus_type = BUS_TYPE
    category = "input"
    user_creatable = True
    is_console: ClassVar[bool] = False
    KEPT_AT_RESET: ClassVar[tuple[str, ...]] = ("host_open",)

    class Props(Device.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        chardev = prop(CHARDEV, None, "id of the character device that carries the bytes")
        nr = prop(U32, None, "number of the port; without it the first free one", unset=_OPEN)
        name = prop(STR, None, "name that the guest finds the port by")

    props: Props
    bus: VirtioSerialPci

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.number = -1
        self.guest_open = False
        self.host_open = False
        self.throttled = False  # the host takes no more now
        self._known = False  # the driver has said PORT_READY
        self._backend: CharBackend | None = None
        self._filling: PortInput | None = None  # whose buffers the backend reads into

    # -- life; lock held -----------------------------------------------------------------------------------

    def realize(self) -> None:
        serial = self._serial
        self.number = self._choose_number(serial)
        self._check_name(serial)
        self.resolved |= {"nr": self.number}
        if self.props.chardev is not None:
            backend = self.ctx.backends.chardev(self.props.chardev, self.type_name)
            self.on_undo(lambda: self.ctx.backends.release(backend))
            backend.attach(self)
            self._backend = backend
            self.on_undo(self._detach)
            if self.is_console:
                self.host_open = True  # QEMU-COMPAT: whoever is connected
                backend.set_open(True)
        serial.add_port(self.number, self)
        self.on_undo(lambda: serial.remove_port(self.number))

    @property
    def _serial(self) -> VirtioSerial:
        return self.bus.virtio

    def _choose_number(self, serial: VirtioSerial) -> int:
        """``nr=``, or the first free number. Raises UsageError in QEMU's words."""
        number, limit = self.props.nr, serial.ports_max
        if number is None or number == _OPEN:
            free = (each for each in range(0 if self.is_console else 1, limit) if each not in serial.ports)
            number = next(free, limit)
        if number in serial.ports:
            raise UsageError(
                f"virtio-serial-bus: A port already exists at id {number}", f"it is {serial.ports[number].name}"
            )
        if number >= limit:
            raise UsageError(
                f"virtio-serial-bus: Out-of-range port id specified, max. allowed: {limit - 1}",
                f"{self.bus.name} has max_ports={limit}",
            )
        if number == 0 and not self.is_console:
            raise UsageError(
                "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward compatibility.",
                f"nr= of a {self.type_name} is 1 or more",
            )
        return number

    def _check_name(self, serial: VirtioSerial) -> None:
        name = self.props.name
        for number, port in serial.ports.items():
            if name is not None and port.props.name == name:
                raise UsageError(
                    f"virtio-serial-bus: A port already exists by name {name}", f"it is number {number} on this bus"
                )

    def tree_lines(self) -> Iterable[str]:
        guest, host, throttle = ("on" if each else "off" for each in (self.guest_open, self.host_open, self.throttled))
        yield f"port {self.number}, guest {guest}, host {host}, throttle {throttle}"

    def _detach(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.detach()

    def replace_backend(self, backend: CharBackend) -> None:
        """chardev-change: the ends stay as they are."""
        self._backend = backend
        backend.set_open(self.is_console or self.guest_open)

    # -- the guest's end; on the loop, without the lock ----------------------------------------------------

    def driver_knows(self) -> None:
        """PORT_READY: tell the driver what the port is."""
        self._known = True
        outbox = self._serial.outbox
        if self.is_console:
            outbox.add(self.number, Event.CONSOLE_PORT)
        if self.props.name:
            outbox.add(self.number, Event.PORT_NAME)
        if self.host_open:
            outbox.add(self.number, Event.PORT_OPEN)
        self.wants_input()

    def opened_by_guest(self, is_open: bool) -> None:
        """PORT_OPEN."""
        self.guest_open = is_open
        if self._backend is not None and not self.is_console:
            self._backend.set_open(is_open)
        if self.id is not None:
            self.ctx.events.emit(VserportChangeEvent(self.id, is_open))
        self.wants_input()

    def driver_gone(self) -> None:
        """The device was reset: whoever comes next opens the port again."""
        self._known = False
        self._throttle(False)
        if self.guest_open:
            self.opened_by_guest(False)

    def wants_input(self) -> None:
        """There may be room for input."""
        if self._backend is not None and self.guest_open:
            self._backend.accept_input()

    # -- host to guest -------------------------------------------------------------------------------------

    def input_buffers(self) -> Sequence[memoryview]:
        worker = self._serial.workers.get(queues_of(self.number)[0])
        if not self.guest_open or not isinstance(worker, PortInput):
            return ()
        self._filling = worker
        return worker.buffers()

    def input_done(self, count: int) -> None:
        if self._filling is not None:
            self._filling.filled(count)

    def can_receive(self) -> int:
        return sum(map(len, self.input_buffers()))

    def receive(self, data: bytes) -> None:
        """Input that was not read into guest RAM. DeviceLock held."""
        at = 0
        for view in self.input_buffers():
            part = data[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
        if self._filling is not None:
            self._filling.filled(at, posted=True)

    # -- guest to host -------------------------------------------------------------------------------------

    def send(self, views: Sequence[memoryview]) -> int:
        """Output of the guest: how many bytes are done with. When that is not all, ``write_ready`` follows. Loop."""
        size = sum(map(len, views))
        backend = self._backend
        if backend is None:
            return size
        if self.is_console:
            self._print(backend, b"".join(views))
            return size
        taken = backend.write_views(views)
        self._throttle(taken < size)
        return taken

    def _print(self, backend: CharBackend, data: bytes) -> None:
        done = backend.write_now(data)
        if done < len(data):
            done += backend.write(data[done:])
            backend.dropped_bytes += len(data) - done

    def write_emergency(self, letter: bytes) -> None:
        """A byte for the console from a guest in trouble. vCPU, lock held."""
        if self._backend is not None:
            self._backend.write(letter)

    def _throttle(self, on: bool) -> None:
        if on is not self.throttled:
            self.throttled = on
            if VIRTIO_SERIAL_THROTTLE_PORT.on:
                VIRTIO_SERIAL_THROTTLE_PORT(self.name, self.number, int(on))

    def write_ready(self) -> None:
        self._look_at_output()

    def _look_at_output(self) -> None:
        worker = self._serial.workers.get(queues_of(self.number)[1])
        if isinstance(worker, Worker):
            worker.schedule()

    # -- the host's end; on the loop, lock held ------------------------------------------------------------

    def handle_event(self, event: CharEvent) -> None:
        if VIRTIO_CONSOLE_CHR_EVENT.on:
            VIRTIO_CONSOLE_CHR_EVENT(self.name, self.number, event.value)
        if event is CharEvent.BREAK or self.is_console:
            return
        self.host_open = event is CharEvent.OPENED
        if self._known:
            self._serial.outbox.add(self.number, Event.PORT_OPEN, int(self.host_open))
            self.ctx.loop.post(self._serial.tell_driver)
        if not self.host_open:
            self._throttle(False)
            self._look_at_output()


class VirtSerialPort(SerialPort):
    """A port with a name, such as a guest agent's."""

    type_name = "virtserialport"
    description = "virtio serial port"
    parent_type = "virtio-serial-port"


class VirtConsole(SerialPort):
    """A port that the guest's kernel makes a terminal of (hvc0)."""

    type_name = "virtconsole"
    description = "virtio console"
    parent_type = "virtserialport"
    is_console = True
