# SPDX-License-Identifier: Apache-2.0
"""Interrupts of a machine with KVM's in-kernel controllers: implements ``core.irq.InterruptController``; and messages
to local APICs in the kernel when the other controllers are not there (``kernel_irqchip=split``).

GSI routing: 0-7 go to the master 8259, 8-15 to the slave, and all to the I/O APIC, where GSI 0 (the timer) and GSI 2
(timers of the HPET) are wired to pin 2 and pin 0 is free (MADT has the override); 16-23 go to the I/O APIC only.
Message routes for irqfd follow from 24.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import BackendError
from vmmd.kvm import abi
from vmmd.kvm.ioctl import KvmError
from vmmd.kvm.vm import RoutingEntry
from vmmd.log import get_logger

if TYPE_CHECKING:
    from vmmd.kvm.vm import KvmVm

log = get_logger("vmmd.kvm")

#: the 8259 input that the slave is wired to
CASCADE_GSI = 2
FIRST_MSI_GSI = abi.KVM_IOAPIC_NUM_PINS


class BoundMessage:
    """A message with an eventfd bound to it, which may be written by anybody: vhost, another process, vmmd."""

    def __init__(self, owner: KvmMessages, gsi: int, fd: int) -> None:
        self._owner = owner
        self.gsi = gsi
        self._fd = fd

    def update(self, address: int, data: int) -> None:
        """Change the message. DeviceLock held."""
        if self._fd >= 0:
            self._owner.route_msi(self.gsi, address, data)

    def close(self) -> None:
        """Unbind. DeviceLock held. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._owner.release_msi(self.gsi, fd)


class KvmMessages:
    """Messages to local APICs in the kernel."""

    def __init__(self, vm: KvmVm, chip_routes: list[RoutingEntry]) -> None:
        self._vm = vm
        self._chip_routes = chip_routes
        self._messages: dict[int, tuple[int, int]] = {}  # gsi -> (address, data)
        #: largest number of routes that this KVM takes
        self._limit = vm.kvm.check_extension(abi.KVM_CAP_IRQ_ROUTING)
        self._publish()

    def signal_msi(self, address: int, data: int) -> None:
        """Deliver a message. One that no CPU takes is dropped, as on a bus. Any thread."""
        try:
            self._vm.signal_msi(address, data)
        except KvmError as error:  # EPERM: no APIC matches the destination, which the guest chose
            log.debug("message %#x to %#x: %s", data, address, error)

    def bind_msi(self, fd: int, address: int, data: int) -> BoundMessage:
        """Let the eventfd deliver this message. DeviceLock held. Raises BackendError when routes run out."""
        gsi = self._free_gsi()
        try:
            self.route_msi(gsi, address, data)
            self._vm.irqfd(fd, gsi)
        except BaseException:
            self._messages.pop(gsi, None)
            raise
        return BoundMessage(self, gsi, fd)

    def route_msi(self, gsi: int, address: int, data: int) -> None:
        """Make ``gsi`` deliver this message. DeviceLock held."""
        if self._messages.get(gsi) != (address, data):
            self._messages[gsi] = (address, data)
            self._publish()

    def route_pin(self, pin: int, message: tuple[int, int] | None) -> None:
        """Have KVM tell the end of this message of an I/O APIC outside (KVM_EXIT_IOAPIC_EOI). DeviceLock held."""
        if message is not None:
            self.route_msi(pin, *message)
        elif self._messages.pop(pin, None) is not None:
            self._publish()

    def release_msi(self, gsi: int, fd: int) -> None:
        """Unbind an eventfd and free its GSI. DeviceLock held."""
        self._vm.irqfd(fd, gsi, deassign=True)
        self._messages.pop(gsi, None)
        self._publish()

    def _free_gsi(self) -> int:
        gsi = FIRST_MSI_GSI
        while gsi in self._messages:
            gsi += 1
        if len(self._chip_routes) + len(self._messages) >= self._limit or gsi >= self._limit:
            raise BackendError(f"KVM has no interrupt route left ({self._limit} are in use)")
        return gsi

    def _publish(self) -> None:
        messages = [RoutingEntry(gsi, None, 0, *message) for gsi, message in self._messages.items()]
        self._vm.set_gsi_routing(self._chip_routes + messages)


class KvmInterrupts(KvmMessages):
    """The in-kernel controllers. The machine has called ``KvmVm.create_irqchip``."""

    def __init__(self, vm: KvmVm) -> None:
        super().__init__(vm, _chip_routes())
        #: see ``core.irq.InterruptController``; bound here because it is hot
        self.set_gsi = vm.irq_line


def _chip_routes() -> list[RoutingEntry]:
    routes = []
    for gsi in range(16):
        if gsi == CASCADE_GSI:
            pass
        elif gsi < 8:
            routes.append(RoutingEntry(gsi, abi.KVM_IRQCHIP_PIC_MASTER, gsi))
        else:
            routes.append(RoutingEntry(gsi, abi.KVM_IRQCHIP_PIC_SLAVE, gsi - 8))
        routes.append(RoutingEntry(gsi, abi.KVM_IRQCHIP_IOAPIC, 2 if gsi == 0 else gsi))
    routes += [RoutingEntry(gsi, abi.KVM_IRQCHIP_IOAPIC, gsi) for gsi in range(16, abi.KVM_IOAPIC_NUM_PINS)]
    return routes
