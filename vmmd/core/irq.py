# SPDX-License-Identifier: Apache-2.0
"""Interrupt seams: what a device needs to interrupt the guest, without knowing KVM.

``InterruptController`` is implemented by ``kvm.irqchip`` (and by the qtest accelerator and test fakes).
``IrqLine`` is one device's level source on a GSI; several sources on one GSI are ORed by ``GsiFanIn``.
All methods run with the DeviceLock held unless stated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class InterruptController(Protocol):
    """Where interrupts go. ``gsi`` 0-15 are the ISA interrupts (both 8259 and I/O APIC see them)."""

    def set_gsi(self, gsi: int, level: int) -> None:
        """Drive a GSI's input to 0 or 1."""

    def signal_msi(self, address: int, data: int) -> None:
        """Deliver one message-signalled interrupt. Any thread, no lock needed."""

    def bind_msi(self, fd: int, address: int, data: int) -> MsiRoute:
        """Let every write to the caller's eventfd deliver this message (irqfd): for data planes outside Python (vhost).
        A write that came before counts. DeviceLock held. Raises BackendError when that cannot be."""


class MsiRoute(Protocol):
    """A message with an eventfd bound to it by irqfd."""

    def update(self, address: int, data: int) -> None:
        """Change the message. DeviceLock held."""

    def close(self) -> None:
        """Unbind; from now on writes stay in the eventfd. DeviceLock held."""


class PicState(NamedTuple):
    """What people see of an 8259."""

    irr: int
    imr: int
    isr: int
    first: int  # the input with the highest priority
    base: int
    read_isr: bool
    elcr: int
    special_nested: bool


class IoapicState(NamedTuple):
    """What people see of an I/O APIC."""

    version: int
    id_: int
    selected: int
    irr: int
    entries: tuple[int, ...]


class ChipTypes(NamedTuple):
    """Types of the interrupt controllers as the object tree shows them."""

    ioapic: str
    pic: str
    apic: str


class Chips(Protocol):
    """The board's interrupt controllers, in the kernel or not, as the machine and its monitors use them."""

    types: ChipTypes

    def reset(self) -> None:
        """Power-on state of what is no device of the board. vCPUs paused, DeviceLock held."""

    def set_elcr(self, levels: int) -> None:
        """Which of the 16 ISA interrupts are level triggered (ports 4D0h and 4D1h), as firmware sets them."""

    def connect_pit(self, on: bool) -> None:
        """Let the kernel's 8254, if there is one, drive interrupt 0, or not. DeviceLock held."""

    def ioapic_state(self) -> IoapicState | None:
        """None: there is none."""

    def pic_states(self) -> tuple[PicState, ...]:
        """Master, slave; empty: there are none."""


class IrqLine:
    """One level-triggered source. ``raise_`` and ``lower`` are idempotent; only edges reach the controller."""

    __slots__ = ("_changed", "level")

    def __init__(self, changed: Callable[[int], None]) -> None:
        self._changed = changed
        self.level = 0

    def raise_(self) -> None:
        if not self.level:
            self.level = 1
            self._changed(1)

    def lower(self) -> None:
        if self.level:
            self.level = 0
            self._changed(0)

    def set(self, level: int) -> None:
        if level != self.level:
            self.level = level
            self._changed(level)

    def pulse(self) -> None:
        """An edge: up and down."""
        self._changed(1)
        self._changed(0)
        self.level = 0


class GsiFanIn:
    """ORs any number of sources onto each GSI of an interrupt controller."""

    def __init__(self, controller: InterruptController, count: int = 24) -> None:
        self._controller = controller
        self._asserted = [0] * count
        self._sources = 0
        #: how often each GSI went up
        self.raised = [0] * count

    def line(self, gsi: int) -> IrqLine:
        """A new source on ``gsi``."""
        bit = 1 << self._sources
        self._sources += 1
        asserted, raised, controller = self._asserted, self.raised, self._controller

        def changed(level: int) -> None:
            before = asserted[gsi]
            after = before | bit if level else before & ~bit
            asserted[gsi] = after
            if bool(before) != bool(after):
                raised[gsi] += not before
                controller.set_gsi(gsi, 1 if after else 0)

        return IrqLine(changed)

    def level(self, gsi: int) -> int:
        return 1 if self._asserted[gsi] else 0
