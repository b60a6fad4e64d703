# SPDX-License-Identifier: Apache-2.0
"""virtio-serial (virtio 1.2 §5.3, "console device") on PCI: ``virtio-serial-pci`` and its -transitional and
-non-transitional names. It brings a bus of ports (``serial.port``).

Queues: 0 and 1 are port 0's (to the guest, from it), 2 and 3 the control queues, 2n + 2 and 2n + 3 those of port n.
Implemented: multiport, emergency write, ports that come and go at run time. Not implemented: VIRTIO_CONSOLE_F_SIZE
(QEMU does not offer it either: ``cols`` and ``rows`` read 0).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmmd.core.props import BOOL, U32, prop
from vmmd.core.trace_events import VIRTIO_SERIAL_HANDLE_CONTROL_MESSAGE
from vmmd.core.tree import BusNode
from vmmd.devices.virtio.device import Status, VirtioDevice
from vmmd.devices.virtio.pci_transport import VirtioPciDevice, variants
from vmmd.devices.virtio.serial.messages import Event, Outbox
from vmmd.devices.virtio.serial.streams import PortInput, PortOutput
from vmmd.devices.virtio.serial.worker import ControlReceiver, ControlSender, Worker
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vmmd.core.device import Device, DeviceContext
    from vmmd.core.tree import Node
    from vmmd.devices.virtio.queue import VirtQueue
    from vmmd.devices.virtio.serial.port import SerialPort
    from vmmd.log import Logger

F_MULTIPORT = 1 << 1
F_EMERG_WRITE = 1 << 2

PORT_QUEUE_SIZE, CONTROL_QUEUE_SIZE = 128, 32
CONTROL_SENDER, CONTROL_RECEIVER = 2, 3
#: two queues for each, and the control queues
PORTS_MAX = 511
#: cols, rows, max_nr_ports, emerg_wr (§5.3.4)
CONFIG = struct.Struct("<HHII")
EMERGENCY_OFFSET = 8
BUS_TYPE = "virtio-serial-bus"


def queues_of(port: int) -> tuple[int, int]:
    """(to the guest, from the guest)."""
    return (0, 1) if not port else (2 * port + 2, 2 * port + 3)


class VirtioSerial(VirtioDevice):
    """The device behind the transport. Its ports and their state belong to the loop; ``ports`` changes under the
    DeviceLock too."""

    virtio_id = 3

    def __init__(self, ctx: DeviceContext, log: Logger, ports_max: int, *, emergency: bool) -> None:
        sizes = [PORT_QUEUE_SIZE] * (2 * ports_max + 2)
        sizes[CONTROL_SENDER] = sizes[CONTROL_RECEIVER] = CONTROL_QUEUE_SIZE
        super().__init__(ctx, log, sizes)
        self.ports_max = ports_max
        self.ports: dict[int, SerialPort] = {}
        self.outbox = Outbox()
        self.listens = False  # the driver has said DEVICE_READY
        self._emergency = emergency
        self._config = CONFIG.pack(0, 0, ports_max, 0)[: CONFIG.size if emergency else EMERGENCY_OFFSET]

    @property
    def config_bytes(self) -> int:
        return len(self._config)

    @property
    def multiport(self) -> bool:
        """The driver knows of more than one port."""
        return bool(self.accepted_features & F_MULTIPORT)

    # -- VirtioDevice --------------------------------------------------------------------------------------

    def make_worker(self, index: int, ring: VirtQueue) -> Worker:
        if index == CONTROL_SENDER:
            return ControlSender(self, index, ring)
        if index == CONTROL_RECEIVER:
            return ControlReceiver(self, index, ring)
        number = index // 2 - 1 if index > CONTROL_RECEIVER else 0
        return (PortOutput if index & 1 else PortInput)(self, index, ring, number)

    def read_config(self, offset: int, size: int) -> int:
        data = self._config[offset : offset + size]
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Emergency write (§5.3.4): a byte for the console, whatever state the driver is in."""
        if self._emergency and offset <= EMERGENCY_OFFSET < offset + size:
            letter = value >> 8 * (EMERGENCY_OFFSET - offset)
            if letter:  # QEMU-COMPAT: a zero is not written
                self._write_emergency(letter & 0xFF)

    def _write_emergency(self, letter: int) -> None:
        for port in self.ports.values():
            if port.is_console and port.host_open:
                port.write_emergency(bytes([letter]))
                return

    def driver_ready(self) -> None:
        if not self.multiport:  # such a driver has one port, and no way to say that it is open
            self.ctx.loop.post(self._open_only_port)

    def reset_device(self) -> None:
        self.ctx.loop.post(self._driver_gone)

    def _open_only_port(self) -> None:
        port = self.ports.get(0)
        if port is not None:
            port.guest_open = True
            port.wants_input()

    def _driver_gone(self) -> None:
        self.listens = False
        self.outbox.clear()
        for port in list(self.ports.values()):
            port.driver_gone()

    # -- control messages; on the loop, without the lock ---------------------------------------------------

    def control(self, number: int, event: int, value: int) -> None:
        """A message of the driver (§5.3.6.2). What makes no sense is ignored."""
        if VIRTIO_SERIAL_HANDLE_CONTROL_MESSAGE.on:
            VIRTIO_SERIAL_HANDLE_CONTROL_MESSAGE(self.transport.name, number, event, value)
        if event == Event.DEVICE_READY:
            self._driver_listens(ready=value != 0)
        elif (port := self.ports.get(number)) is None:
            return
        elif event == Event.PORT_READY:
            if value:
                port.driver_knows()
            else:
                self._complain(f"the driver could not set up port {number}")
        elif event == Event.PORT_OPEN:
            port.opened_by_guest(value != 0)
        self.tell_driver()

    def _driver_listens(self, *, ready: bool) -> None:
        if not ready:
            self._complain("the driver could not set up the device")
            return
        self.listens = True
        for number in self.ports:
            self.outbox.add(number, Event.DEVICE_ADD)

    def _complain(self, what: str) -> None:
        if not self._warned:  # LIMIT: one line a device, guests can cause any number
            self._warned = True
            self.log.warning("guest error: %s", what)

    def tell_driver(self) -> None:
        """Send what waits in the outbox. Loop, without the lock."""
        sender = self.workers.get(CONTROL_SENDER)
        if sender is not None and len(self.outbox):
            sender.look()

    def name_of(self, number: int) -> str:
        port = self.ports.get(number)
        return port.props.name or "" if port is not None else ""

    # -- ports come and go; loop or start, lock held -------------------------------------------------------

    def add_port(self, number: int, port: SerialPort) -> None:
        self.ports[number] = port
        if self.listens:
            self.outbox.add(number, Event.DEVICE_ADD)
            self.ctx.loop.post(self.tell_driver)
        elif self.status & Status.DRIVER_OK:
            self.driver_ready()

    def remove_port(self, number: int) -> None:
        del self.ports[number]
        if self.listens:
            self.outbox.remove_port(number)
            self.ctx.loop.post(self.tell_driver)
        output = self.workers.get(queues_of(number)[1])
        if isinstance(output, Worker):
            output.schedule()  # what it holds is for nobody


class VirtioSerialPci(VirtioPciDevice):
    """A bus of serial ports and consoles on PCI; transitional unless the properties say otherwise."""

    type_name = "virtio-serial-pci"
    description = "virtio serial ports and consoles"
    category = "input"
    user_creatable = True
    transitional_id = 0x1003
    global_types = ("virtio-pci", "virtio-device", "virtio-serial-device")
    class_code = 0x078000
    inner_type = "virtio-serial-device"
    parent_type = "virtio-serial-pci-base"
    brings_bus_type = BUS_TYPE

    class Props(VirtioPciDevice.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        vectors = prop(U32, 2, "MSI-X vectors; 0: none; 4294967295: one for each port and one")
        max_ports = prop(U32, 31, "ports that the bus has room for", wire="max_ports")
        emergency_write = prop(BOOL, True, "offer VIRTIO_CONSOLE_F_EMERG_WRITE")

    props: Props
    virtio: VirtioSerial

    def make_virtio(self) -> VirtioSerial:
        props, ctx = self.props, self.ctx
        # QEMU-COMPAT: the sentences
        if not props.max_ports:
            raise UsageError("Maximum number of serial ports not specified", f"max_ports= takes 1 to {PORTS_MAX}")
        if props.max_ports > PORTS_MAX:
            raise UsageError(f"maximum ports supported: {PORTS_MAX}", f"max_ports={props.max_ports} is more")
        virtio = VirtioSerial(ctx, self.log, props.max_ports, emergency=props.emergency_write)
        bits = (F_MULTIPORT if props.max_ports > 1 else 0) | (F_EMERG_WRITE if props.emergency_write else 0)
        virtio.offered, virtio.offered_legacy = self.features(bits)
        return virtio

    @property
    def virtio_config_bytes(self) -> int:
        return self.virtio.config_bytes

    # -- the bus -------------------------------------------------------------------------------------------

    def parts(self) -> Iterable[tuple[str, Node]]:
        """The bus of ports is below the inner device."""
        parts = tuple(super().parts())
        self.bus_node = BusNode(BUS_TYPE)
        dict(parts)[self.inner_name].add(self.brings_bus, self.bus_node)
        return parts

    def children(self) -> Sequence[Device]:
        return list(reversed(self.virtio.ports.values()))


VirtioSerialPciTransitional, VirtioSerialPciNonTransitional = variants(VirtioSerialPci)
